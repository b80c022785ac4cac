"""What the `data` section of every fine-tuning recipe holds; a task adds its own fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..pretraining.data.arguments import CheckedArguments, Source


@dataclass(kw_only=True)
class LabelledSource(Source):
    """One place that labelled examples come from."""

    where: ClassVar[str] = "data.train, data.validation or data.test"

    label_column: str = field(
        default="label",
        metadata={"help": "column with the labels; for a folder of files, the sub-folders are the labels"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.weight is None, "weight", "leave it out, labelled sources are not mixed")


@dataclass(kw_only=True)
class FineTuneDataArguments(CheckedArguments):
    """The fields of every task."""

    where: ClassVar[str] = "data"
    source_class: ClassVar[type[LabelledSource]] = LabelledSource

    train: LabelledSource = field(metadata={"help": "training data: {path: FOLDER_OR_DATASET, split: train}"})
    validation: LabelledSource | None = field(
        default=None, metadata={"help": "data for choosing settings and the best checkpoint"}
    )
    test: LabelledSource | None = field(
        default=None, metadata={"help": "data for the final evaluation; never used to choose anything"}
    )
    validation_share: float = field(
        default=0.0,
        metadata={"help": "share of train to hold out if there is no validation source"},
    )
    labels_per_class: int | None = field(
        default=None, metadata={"help": "train on this many examples per class, drawn with the run's seed"}
    )
    skip_bad: bool = field(
        default=False,
        metadata={
            "help": "read every file once beforehand and skip unusable ones, counted and named in the log, "
            "instead of stopping at the first"
        },
    )
    num_proc: int = field(default=1, metadata={"help": "threads or processes for reading files beforehand"})

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            value: Any = getattr(self, name)
            if isinstance(value, Mapping):
                try:
                    setattr(self, name, self.source_class.from_dict(value))
                except ValueError as error:
                    raise ValueError(str(error).replace(self.source_class.where, f"data.{name}")) from error
        super().__post_init__()
        self.require(0 <= self.validation_share < 1, "validation_share", "use 0 (none) to below 1")
        self.require(
            not (self.validation_share and self.validation), "validation_share", "use 0 where validation has a source"
        )
        self.require(self.labels_per_class is None or self.labels_per_class >= 1, "labels_per_class", "use 1 or more")
        self.require(self.num_proc >= 1, "num_proc", "use 1 or more")
