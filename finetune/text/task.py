"""The text task: classes or a number for a text or a pair, of GLUE or of your own."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForSequenceClassification
from transformers.trainer_utils import EvalPrediction

from ...pretraining.data.labels import Labels, holds_decimals, number_labels, read_numbers
from ...pretraining.modalities.text import TextCollator, TextData
from ...pretraining.modalities.tokenizer import max_tokens
from ..arguments import FineTuneRun
from ..data_arguments import LabelledSource
from ..examples import Examples
from ..labels import labelled_examples
from ..metrics import load
from ..predictions import classification_rows, write_confusion, write_rows
from ..task import VALIDATION, Task, TaskData, softmax
from ..task_arguments import TaskArguments
from .arguments import TextClassificationData
from .data import (
    empty_texts,
    find_text_columns,
    label_rows,
    log_cut,
    open_text,
    open_tokenizer,
    read_text,
    tokenised_rows,
)
from .glue_sweep import GlueSweep
from .glue_tasks import GLUE


logger = logging.getLogger(__name__)

OWN_CLASSES, OWN_NUMBERS = ("accuracy",), ("pearson", "spearman")  # what your own data is scored by


@dataclass(kw_only=True)
class TextClassificationArguments(TaskArguments):
    """The `task` section of a text recipe."""

    sweep: GlueSweep | None = field(
        default=None, metadata={"help": "sweep over tasks, learning rates and seeds; fields in glue_sweep"}
    )
    per_task: dict[str, dict[str, dict[str, Any]]] | None = field(
        default=None,
        metadata={"help": "changes to this recipe for single GLUE tasks: {rte: {training: {warmup_steps: 122}}}"},
    )

    def __post_init__(self) -> None:
        if isinstance(self.sweep, Mapping):
            self.sweep = GlueSweep.from_dict(self.sweep)
        super().__post_init__()
        for name in self.per_task or {}:
            self.require(name in GLUE, "per_task", f"{name!r} is not a task of GLUE, use {', '.join(GLUE)}")


class TextClassification(Task[TextClassificationArguments, TextClassificationData]):
    """See `Task`. `main_metric` is `score`: the task's metric, or the mean of its two."""

    name = "text-classification"
    script = "run_glue.py"
    arguments_class = TextClassificationArguments
    data_class = TextClassificationData
    modalities = (TextData,)
    config_fields = ("max_position_embeddings", "pad_token_id")
    auto_class = AutoModelForSequenceClassification
    main_metric = "score"

    def __init__(self, run: FineTuneRun):
        super().__init__(run)
        self.names: tuple[str, ...] = ()  # of the classes; none: a number is predicted
        self.unlabelled: dict[str, Examples] = {}  # split -> examples that are predicted and not scored

    def build_data(self) -> TaskData:
        args, config = self.data_args, self.run.config
        positions = max_tokens(config)
        self.max_tokens = positions if args.max_tokens is None else args.max_tokens
        args.require(self.max_tokens <= positions, "max_tokens", f"the encoder has positions for {positions} tokens")
        self.tokenizer = open_tokenizer(args.tokenizer or self.run.checkpoint, config)
        self.tokenizer.model_max_length = self.max_tokens  # so that a pipeline can cut what is too long

        sources = {"train": args.train, VALIDATION: args.validation, **args.further_validation(), "test": args.test}
        given = {split: source for split, source in sources.items() if source is not None}
        rows = {split: open_text(source) for split, source in given.items()}
        wanted = args.text_columns or (None if args.task is None else args.task.text_columns)
        self.columns = find_text_columns(rows["train"], args.train, wanted)
        labels = self._number(rows, given)
        self.names = labels.names
        tokens = {split: self._tokenise(rows[split], given[split]) for split in rows}
        scored = {split: tokens.pop(split) for split in labels.numbers}
        train, evaluation = labelled_examples(
            args,
            scored,
            replace(labels, bad={split: empty_texts(scored[split]) | bad for split, bad in labels.bad.items()}),
            read_text,
            seed=self.run.training.seed,
            lengths={split: np.asarray(of_split["length"][:]) for split, of_split in scored.items()},
            checked=True,
        )
        for split in args.task.test_splits if args.task is not None and args.predict_test else ():
            source = args.glue_source(split)
            tokens[split] = self._tokenise(open_text(source), source)
        for split, of_split in tokens.items():
            self.unlabelled[split] = Examples(of_split, read_text, name=split, seed=self.run.training.seed)
        for examples in (train, *evaluation.values(), *self.unlabelled.values()):
            log_cut(examples, self.max_tokens)
        return TaskData(
            train,
            evaluation,
            TextCollator(None, self.tokenizer, self.run.training.seed),
            self.tokenizer,
            label_names=self.names,
            problem_type="single_label_classification" if self.names else "regression",
            model_kwargs={} if self.names else {"num_labels": 1},
        )

    def _number(self, rows: Mapping[str, datasets.Dataset], sources: Mapping[str, LabelledSource]) -> Labels:
        """The labels of every split; a test set may have none, and is left out."""
        task, names = self.data_args.task, self.data_args.labels
        columns = {
            split: label_rows(of_split, sources[split])
            for split, of_split in rows.items()
            if split != "test" or sources[split].label_column in of_split.column_names
        }
        if names is None and (holds_decimals(columns["train"]) if task is None else not task.labels):
            labels = read_numbers(columns)
        else:
            labels = number_labels(columns, names or (None if task is None else task.labels))
        if "test" in rows and ("test" not in columns or labels.none_in("test")):
            column = sources["test"].label_column
            logger.warning("data.test has no labels in column %r: it is predicted, not scored", column)
            labels = labels.without("test")
        return labels

    def _tokenise(self, rows: datasets.Dataset, source: LabelledSource) -> datasets.Dataset:
        columns = find_text_columns(rows, source, self.columns)
        return tokenised_rows(rows, self.tokenizer, columns, self.max_tokens, self.data_args.num_proc)

    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        references = predictions.label_ids
        if not self.names:
            values = np.asarray(predictions.predictions)[:, 0]  # (examples,)
            found = load("correlations").compute(predictions=values, references=references)
            wanted: Sequence[str] = OWN_NUMBERS
        else:
            chosen = np.asarray(predictions.predictions).argmax(-1)  # (examples,)
            average = "binary" if len(self.names) == 2 else "macro"
            given = {"predictions": chosen, "references": references}
            found = load("f1").compute(**given, average=average)
            found |= load("accuracy").compute(**given) | load("matthews_correlation").compute(**given)
            wanted = OWN_CLASSES
        wanted = wanted if self.data_args.task is None else self.data_args.task.metrics
        return found | {"score": float(np.mean([found[name] for name in wanted]))}

    def rows(self, predictions: Any, labels: Any, examples: Examples) -> list[dict[str, Any]]:
        names = self.names
        if names and labels is not None:
            return classification_rows(predictions, labels, names, examples, _input)
        chances = softmax(predictions)  # (examples, classes)
        rows: list[dict[str, Any]] = []
        for i, (logits, chance) in enumerate(zip(predictions, chances, strict=True)):
            label = None if labels is None else float(labels[i])
            error = 0.0 if label is None else (float(logits[0]) - label) ** 2
            rows.append(
                {
                    "id": int(examples.kept[i]),
                    "input": _input(examples.row(i)),
                    "label": label,
                    "prediction": names[int(logits.argmax())] if names else round(float(logits[0]), 6),
                    "scores": {name: round(float(p), 6) for name, p in zip(names, chance, strict=False)},
                    "error": round(error, 6),
                }
            )
        return rows

    def after_training(self, trainer: Any, data: TaskData) -> None:
        """Predict the sets without labels: rows as of every split, and a file for the benchmark's site."""
        folder = self.run.folder / "predictions"
        for split, examples in self.unlabelled.items():
            logits = trainer.predict(examples, metric_key_prefix=split).predictions
            if not trainer.is_world_process_zero():
                continue
            write_rows(folder, split, self.rows(logits, None, examples))
            task = self.data_args.task
            if task is not None and split in task.test_splits:
                chosen = logits[:, 0] if not self.names else logits.argmax(-1)
                lines = [f"{i}\t{task.submitted(value)}\n" for i, value in enumerate(chosen.tolist())]
                text = "index\tprediction\n" + "".join(lines)
                (folder / task.submission_file(split)).write_text(text, encoding="utf-8")

    def write_extra(self, folder: Path, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.names:
            write_confusion(folder, split, rows, self.names)


def _input(row: Mapping[str, Any]) -> str:
    return " || ".join(row["text"])
