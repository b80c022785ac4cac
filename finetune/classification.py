"""Tasks with one class an example: what is measured of their predictions, and what is written."""

from typing import Any

import numpy as np
from torch import Tensor
from transformers.trainer_utils import EvalPrediction

from ..pretraining.data.modality import describe
from .arguments import FineTuneRun
from .examples import Examples
from .metrics import load, unweighted_accuracy
from .predictions import classification_rows, write_confusion
from .task import Arguments, Data, Task


class Classification(Task[Arguments, Data]):
    """See [`Task`]; `names` are those of the classes, which `build_data` sets."""

    main_metric = "accuracy"

    def __init__(self, run: FineTuneRun):
        super().__init__(run)
        self.names: tuple[str, ...] = ()

    def preprocess_logits(self, logits: Any, labels: Any) -> Tensor:
        return logits[0] if isinstance(logits, tuple) else logits  # attentions and the like may follow

    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        logits, labels = predictions.predictions, predictions.label_ids  # (examples, classes), (examples,)
        chosen = np.argmax(logits, axis=1)
        metrics: dict[str, float] = load("accuracy").compute(predictions=chosen, references=labels)
        return metrics | {"class_accuracy": unweighted_accuracy(chosen, labels)}

    def rows(self, predictions: Any, labels: Any, examples: Examples) -> list[dict[str, Any]]:
        column = self.kind.column
        return classification_rows(predictions, labels, self.names, examples, lambda row: describe(row, column))

    def write_extra(self, folder: Any, split: str, rows: Any) -> None:
        write_confusion(folder, split, rows, self.names)
