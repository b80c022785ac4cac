"""Metrics as `evaluate.Metric` classes, made directly: `evaluate.load` would download its script.

Accuracy().compute(predictions=[1, 0], references=[1, 1])  # {"accuracy": 0.5}
"""

from typing import Any

import datasets
import evaluate
import jiwer
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef


class Accuracy(evaluate.Metric):
    """Share of predictions, class numbers, that are right."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("accuracy", datasets.Value("int64"), datasets.Value("int64"), Accuracy.__doc__)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class TopK(evaluate.Metric):
    """Share of references among the k highest scores; `predictions` are scores `(examples, classes)`."""

    def _info(self) -> evaluate.MetricInfo:
        scores = datasets.Sequence(datasets.Value("float32"))
        return _info("top_k", scores, datasets.Value("int64"), TopK.__doc__)

    def _compute(self, predictions: Any, references: Any, k: int = 5) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)  # (examples, classes), (examples,)
        highest = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # (examples, k)
        return {f"top{k}": float(np.mean((highest == labels[:, None]).any(1)))}


class WordErrorRate(evaluate.Metric):
    """Word edits (substitutions, deletions, insertions) as a share of the references' words, over all texts."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("wer", datasets.Value("string"), datasets.Value("string"), WordErrorRate.__doc__)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"wer": float(jiwer.wer(list(references), list(predictions)))}


class CharacterErrorRate(evaluate.Metric):
    """The same of characters, spaces included."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("cer", datasets.Value("string"), datasets.Value("string"), CharacterErrorRate.__doc__)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"cer": float(jiwer.cer(list(references), list(predictions)))}


class MeanAveragePrecision(evaluate.Metric):
    """Mean over labels of the area under the precision-recall curve, of labels that some example has and some has not.

    `predictions` are scores, `references` 0 or 1, both `(examples, labels)`.
    """

    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.Sequence(datasets.Value("float32"))
        return _info("mean_average_precision", numbers, numbers, MeanAveragePrecision.__doc__)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references) > 0.5  # (examples, labels)
        scored = labels.any(0) & ~labels.all(0)
        if not scored.any():
            raise ValueError("mAP needs a label that some of the examples have and some have not: use more examples.")
        values = average_precision_score(labels[:, scored], scores[:, scored], average=None)
        return {"mAP": float(np.mean(values)), "mAP_labels": int(scored.sum())}


class F1(evaluate.Metric):
    """F1 of class 1 (`average="binary"`, as GLUE reports it) or the unweighted mean over classes (`"macro"`)."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("f1", datasets.Value("int64"), datasets.Value("int64"), F1.__doc__)

    def _compute(self, predictions: Any, references: Any, average: str = "binary") -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions, average=average, zero_division=0.0))}


class MatthewsCorrelation(evaluate.Metric):
    """Matthews correlation of predicted and true classes, -1 to 1; 0 where either is always the same."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "matthews_correlation", datasets.Value("int64"), datasets.Value("int64"), MatthewsCorrelation.__doc__
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


class PearsonSpearman(evaluate.Metric):
    """Correlation of two columns of numbers, and of their ranks; 0 where either column is always the same."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("pearson_spearman", datasets.Value("float32"), datasets.Value("float32"), PearsonSpearman.__doc__)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        first, second = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
        if np.ptp(first) == 0 or np.ptp(second) == 0:
            return {"pearson": 0.0, "spearman": 0.0}
        return {
            "pearson": float(pearsonr(first, second).statistic),
            "spearman": float(spearmanr(first, second).statistic),
        }


def _info(name: str, predictions: Any, references: Any, description: str | None) -> evaluate.MetricInfo:
    features = datasets.Features({"predictions": predictions, "references": references})
    return evaluate.MetricInfo(description=description or name, citation="", features=features)
