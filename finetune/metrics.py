"""Metrics that scikit-learn, SciPy and jiwer do not have as they are; each returns {name: value}."""

from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score


def mean_average_precision(scores: Any, references: Any) -> dict[str, float]:
    """Mean over labels of the area under the precision-recall curve, of labels that some example has and some has not.

    `scores` and `references`, 0 or 1, are `(examples, labels)`.
    """
    scores, labels = np.asarray(scores), np.asarray(references) > 0.5
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
