"""The `data` section of a text recipe: GLUE by task name, or your own columns."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data_arguments import FineTuneDataArguments, LabelledSource
from .glue_tasks import GLUE, GlueTask


@dataclass(kw_only=True)
class TextClassificationData(FineTuneDataArguments):
    """The fields of text classification and regression.

    With `task_name` the sources, columns and labels are those of a GLUE task; each can still be given.
    """

    train: LabelledSource = field(  # type: ignore[assignment]  # only a GLUE task knows a default
        default=None, metadata={"help": "training data: {path: FOLDER_OR_DATASET, split: train}"}
    )
    task_name: str | None = field(default=None, metadata={"help": f"a task of GLUE: {', '.join(GLUE)}"})
    glue: str = field(
        default="nyu-mll/glue",
        metadata={"help": "the GLUE data: the Hub's dataset, or a folder with one sub-folder per task"},
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={"help": "the text column, or the two columns of a pair (default: found by their names)"},
    )
    labels: list[str] | None = field(
        default=None,
        metadata={"help": "the classes in order (default: those of the column, or the values in train, sorted)"},
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "folder or Hub name that AutoTokenizer opens (default: the encoder's own)"}
    )
    max_tokens: int | None = field(
        default=None,
        metadata={
            "help": "truncate longer texts to this many tokens, and count them (default: the encoder's positions)"
        },
    )
    predict_test: bool = field(
        default=False,
        metadata={
            "help": "also predict the unlabelled test set of the GLUE task, in the format of the benchmark's site"
        },
    )

    def __post_init__(self) -> None:
        if self.task_name is not None:
            self.require(self.task_name in GLUE, "task_name", f"use one of {', '.join(GLUE)}")
            if self.train is None:
                self.train = self.glue_source("train")
            if self.validation is None and not self.validation_share:
                self.validation = self.glue_source(GLUE[self.task_name].validation_splits[0])
        self.require(self.train is not None, "train", "name a source, {path: FILE_OR_DATASET}, or set task_name")
        super().__post_init__()
        count = 1 if self.text_columns is None else len(self.text_columns)
        self.require(count in (1, 2), "text_columns", "name one column, or the two of a pair")
        self.require(self.labels is None or len(self.labels) > 1, "labels", "name two classes or more")
        self.require(self.max_tokens is None or self.max_tokens >= 8, "max_tokens", "use 8 or more")
        self.require(not self.predict_test or self.task_name is not None, "predict_test", "set task_name, or use test")

    @property
    def task(self) -> GlueTask | None:
        return None if self.task_name is None else GLUE[self.task_name]

    def glue_source(self, split: str) -> LabelledSource:
        """A split of the GLUE task, from the Hub or the folder."""
        root = Path(self.glue).expanduser()
        if not root.is_dir():
            return LabelledSource(path=self.glue, name=self.task_name, split=split)
        if not (root / str(self.task_name)).is_dir():
            there = ", ".join(sorted(folder.name for folder in root.iterdir() if folder.is_dir()))
            self.refuse("task_name", f"data.glue = {self.glue!r} has no such folder, it has {there}")
        files = (
            root / str(self.task_name) / f"{split}[-.]*"
        )  # as on the Hub: validation_matched-00000-of-00001.parquet
        if glob.glob(str(files)):
            return LabelledSource(path=str(files))
        return LabelledSource(path=str(root / str(self.task_name)), split=split)

    def further_validation(self) -> dict[str, LabelledSource]:
        """The development splits of the GLUE task after its first: name -> source."""
        own: Any = self.validation
        if self.task is None or isinstance(own, Mapping) or own != self.glue_source(self.task.validation_splits[0]):
            return {}  # somebody's own validation set has one split
        return {split: self.glue_source(split) for split in self.task.validation_splits[1:]}
