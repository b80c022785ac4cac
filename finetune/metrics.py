"""Metrics as `evaluate.Metric`s, made directly: `evaluate.load` would download a script for each.

    load("accuracy").compute(predictions=[1, 0], references=[1, 1])  # {"accuracy": 0.5}

They combine as others do: `evaluate.combine([load("accuracy"), load("f1")])`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import jiwer
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    recall_score,
    top_k_accuracy_score,
)


CLASS, TEXT, NUMBER = datasets.Value("int64"), datasets.Value("string"), datasets.Value("float64")
NUMBERS = datasets.Sequence(NUMBER)  # one per class


@dataclass(frozen=True)
class Definition:
    """What a metric takes, and how it is computed from all predictions and references: {name: value}."""

    predictions: Any
    references: Any
    compute: Callable[..., dict[str, float]]


def mean_average_precision(predictions: Any, references: Any) -> dict[str, float]:
    """Mean over labels of the area under the precision-recall curve, of labels that some example has and some has not.

    `predictions` are scores, `references` 0 or 1, both `(examples, labels)`.
    """
    scores, labels = np.asarray(predictions), np.asarray(references) > 0.5
    scored = labels.any(0) & ~labels.all(0)
    if not scored.any():
        raise ValueError("mAP needs a label that some of the examples have and some have not: use more examples.")
    values = average_precision_score(labels[:, scored], scores[:, scored], average=None)
    return {"mAP": float(np.mean(values)), "mAP_labels": int(scored.sum())}


def correlations(predictions: Any, references: Any) -> dict[str, float]:
    """Pearson's and Spearman's correlation of two columns of numbers; 0 where either is always the same."""
    first, second = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(first, second).statistic),
        "spearman": float(spearmanr(first, second).statistic),
    }


def top5(predictions: Any, references: Any) -> dict[str, float]:
    """Share of references among the five highest scores `(examples, classes)`."""
    classes = range(len(predictions[0]))
    return {"top5": float(top_k_accuracy_score(references, np.asarray(predictions), k=5, labels=classes))}


def f1(predictions: Any, references: Any, average: str = "binary") -> dict[str, float]:
    """F1 of class 1 (`"binary"`, as GLUE reports it) or the unweighted mean over classes (`"macro"`)."""
    return {"f1": float(f1_score(references, predictions, average=average, zero_division=0.0))}


def unweighted_accuracy(predictions: Any, references: Any) -> float:
    """The mean of the recalls of the classes that occur among the references."""
    there = np.unique(references)
    return float(recall_score(references, predictions, labels=there, average="macro", zero_division=0.0))


def weighted_f1(predictions: Any, references: Any) -> float:
    """The mean of the classes' F1, each weighted with the number of its references."""
    return float(f1_score(references, predictions, average="weighted", zero_division=0.0))


METRICS = {
    "accuracy": Definition(CLASS, CLASS, lambda predictions, references: {
        "accuracy": float(accuracy_score(references, predictions))
    }),
    "top5": Definition(NUMBERS, CLASS, top5),
    "f1": Definition(CLASS, CLASS, f1),
    "matthews_correlation": Definition(CLASS, CLASS, lambda predictions, references: {
        "matthews_correlation": float(matthews_corrcoef(references, predictions))
    }),
    "correlations": Definition(NUMBER, NUMBER, correlations),
    "mean_average_precision": Definition(NUMBERS, NUMBERS, mean_average_precision),
    "wer": Definition(TEXT, TEXT, lambda predictions, references: {"wer": float(jiwer.wer(references, predictions))}),
    "cer": Definition(TEXT, TEXT, lambda predictions, references: {"cer": float(jiwer.cer(references, predictions))}),
}  # fmt: skip


class Metric(evaluate.Metric):
    """One of [`METRICS`]."""

    def __init__(self, name: str):
        self.definition, self.called = METRICS[name], name
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        columns = {"predictions": self.definition.predictions, "references": self.definition.references}
        description = self.definition.compute.__doc__ or self.called
        return evaluate.MetricInfo(description=description, citation="", features=datasets.Features(columns))

    def _compute(self, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        return self.definition.compute(list(predictions), list(references), **settings)


def load(name: str) -> Metric:
    """A metric by its name, as `evaluate.load` gives the Hub's. Raises KeyError for one that is not in METRICS."""
    return Metric(name)
