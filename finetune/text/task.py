"""The text task: classes or a number for a text or a pair, of GLUE or of your own."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from transformers import AutoModelForSequenceClassification
from transformers.trainer_utils import EvalPrediction

from ...pretraining.data.arguments import CheckedArguments
from ..arguments import FineTuneRun
from ..data_arguments import LabelledSource
from ..examples import Examples
from ..labels import draw_per_class, hold_out
from ..metrics import F1, Accuracy, MatthewsCorrelation, PearsonSpearman
from ..predictions import classification_rows, write_confusion, write_rows
from ..task import VALIDATION, Task, TaskData, softmax
from .arguments import TextDataArguments
from .data import (
    TextCollator,
    TextLabels,
    find_labels,
    find_text_columns,
    open_text,
    open_tokenizer,
    require_label_column,
    text_examples,
    tokenised_rows,
)
from .glue_sweep import SweepArguments
from .glue_tasks import GLUE


logger = logging.getLogger(__name__)

OWN_CLASSES, OWN_NUMBERS = ("accuracy",), ("pearson", "spearman")  # what your own data is scored by


@dataclass(kw_only=True)
class TextArguments(CheckedArguments):
    """The `task` section of a text recipe."""

    where: ClassVar[str] = "task"

    sweep: SweepArguments | None = field(
        default=None, metadata={"help": "runs over tasks, learning rates and seeds; its fields are in glue_sweep"}
    )
    per_task: dict[str, dict[str, dict[str, Any]]] | None = field(
        default=None,
        metadata={"help": "what a GLUE task changes of this recipe: {rte: {training: {warmup_steps: 122}}}"},
    )

    def __post_init__(self) -> None:
        if isinstance(self.sweep, Mapping):
            self.sweep = SweepArguments.from_dict(self.sweep)
        super().__post_init__()
        for name in self.per_task or {}:
            self.require(name in GLUE, "per_task", f"{name!r} is not a task of GLUE, use {', '.join(GLUE)}")


class TextClassification(Task[TextArguments, TextDataArguments]):
    """See `Task`. `main_metric` is `score`: the task's metric, or the mean of its two."""

    name = "text-classification"
    script = "run_glue.py"
    arguments_class = TextArguments
    data_class = TextDataArguments
    auto_class = AutoModelForSequenceClassification
    main_metric = "score"

    def __init__(self, run: FineTuneRun):
        super().__init__(run)
        self.labels = TextLabels(())
        self.unlabelled: dict[str, Examples] = {}  # split -> examples that are predicted and not scored

    def build_data(self) -> TaskData:
        args, config = self.data_args, self.run.config
        positions = config.max_position_embeddings - config.pad_token_id - 1  # RoBERTa counts from pad_token_id + 1
        self.max_tokens = positions if args.max_tokens is None else args.max_tokens
        args.require(self.max_tokens <= positions, "max_tokens", f"the encoder has positions for {positions} tokens")
        self.tokenizer = open_tokenizer(args.tokenizer or self.run.checkpoint, config)
        self.tokenizer.model_max_length = self.max_tokens  # so that a pipeline can cut what is too long

        rows = open_text(args.train)
        require_label_column(rows, args.train)
        wanted = args.text_columns or (None if args.task is None else args.task.text_columns)
        self.columns = find_text_columns(rows, args.train, wanted)
        if args.task is not None and args.labels is None:
            self.labels = TextLabels(args.task.labels)
        else:
            self.labels = find_labels(rows, args.train, args.labels)
        train, evaluation = self._hold_out(self._examples(rows, args.train, "train"))
        classes = self.labels.names
        return TaskData(
            train,
            evaluation | self._open_evaluation(),
            TextCollator(config.pad_token_id),
            self.tokenizer,
            label_names=classes,
            problem_type="single_label_classification" if classes else "regression",
            model_kwargs={} if classes else {"num_labels": 1},
        )

    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        references = predictions.label_ids
        if not self.labels.names:
            values = np.asarray(predictions.predictions)[:, 0]  # (examples,)
            found = PearsonSpearman().compute(predictions=values, references=references)
            wanted: Sequence[str] = OWN_NUMBERS
        else:
            chosen = np.asarray(predictions.predictions).argmax(-1)  # (examples,)
            average = "binary" if len(self.labels.names) == 2 else "macro"
            found = Accuracy().compute(predictions=chosen, references=references)
            found |= F1().compute(predictions=chosen, references=references, average=average)
            found |= MatthewsCorrelation().compute(predictions=chosen, references=references)
            wanted = OWN_CLASSES
        wanted = wanted if self.data_args.task is None else self.data_args.task.metrics
        return found | {"score": float(np.mean([found[name] for name in wanted]))}

    def rows(self, predictions: Any, labels: Any, examples: Examples) -> list[dict[str, Any]]:
        if self.labels.names and labels is not None:
            return classification_rows(predictions, labels, self.labels.names, examples, _input)
        names, chances = self.labels.names, softmax(predictions)  # (examples, classes)
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
                chosen = logits[:, 0] if not self.labels.names else logits.argmax(-1)
                lines = [f"{i}\t{task.submitted(value)}\n" for i, value in enumerate(chosen.tolist())]
                text = "index\tprediction\n" + "".join(lines)
                (folder / task.submission_file(split)).write_text(text, encoding="utf-8")

    def write_extra(self, folder: Path, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.labels.names:
            write_confusion(folder, split, rows, self.labels.names)

    def _open_evaluation(self) -> dict[str, Examples]:
        """The splits that are scored; those without labels go to `unlabelled`."""
        args, evaluation = self.data_args, {}
        sources = {VALIDATION: args.validation, **args.further_validation(), "test": args.test}
        for split, source in sources.items():
            if source is None:
                continue
            rows = open_text(source)
            if split == "test" and not _has_labels(rows, source):
                self.unlabelled[split] = self._examples(rows, source, split, labelled=False)
            else:
                evaluation[split] = self._examples(rows, source, split)
        for split in args.task.test_splits if args.task is not None and args.predict_test else ():
            source = args.glue_source(split)
            self.unlabelled[split] = self._examples(open_text(source), source, split, labelled=False)
        return evaluation

    def _examples(self, rows: datasets.Dataset, source: LabelledSource, name: str, labelled: bool = True) -> Examples:
        columns = find_text_columns(rows, source, self.columns)
        if labelled:
            require_label_column(rows, source)
        tokens = tokenised_rows(
            rows,
            self.tokenizer,
            columns,
            self.max_tokens,
            self.labels if labelled else None,
            source.label_column,
            self.data_args.num_proc,
        )
        skip_bad, seed = self.data_args.skip_bad, self.run.training.seed
        return text_examples(tokens, name=name, seed=seed, max_tokens=self.max_tokens, skip_bad=skip_bad)

    def _hold_out(self, train: Examples) -> tuple[Examples, dict[str, Examples]]:
        """Train without what is held out, and of it the few labels that are asked for; and what is held out."""
        args, seed, evaluation = self.data_args, self.run.training.seed, {}
        rows: Any = train.rows
        labels = np.asarray(rows["label"][:])[train.kept]  # (examples,)
        if args.validation_share:
            strata = labels if self.labels.names else np.zeros(len(labels))
            rest, held_out = hold_out(strata, args.validation_share, seed)
            evaluation[VALIDATION] = train.only(held_out, name=VALIDATION)
            train, labels = train.only(rest), labels[rest]
        if args.labels_per_class is not None:
            classes = self.labels.names
            args.require(bool(classes), "labels_per_class", "leave it out, the labels are numbers without classes")
            train = train.only(draw_per_class(labels, args.labels_per_class, classes, seed))
        return train, evaluation


def _has_labels(rows: datasets.Dataset, source: LabelledSource) -> bool:
    column = source.label_column
    if column in rows.column_names and any(value not in (None, -1, "") for value in rows.unique(column)):
        return True
    logger.warning("data.test has no labels in column %r: it is predicted, not scored", column)
    return False


def _input(row: Mapping[str, Any]) -> str:
    return " || ".join(row["text"])
