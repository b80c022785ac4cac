"""mAP, against its definition: the mean precision at the ranks of the positives."""

import numpy as np
import pytest

from data2vec.finetune.metrics import MeanAveragePrecision


def average_precision(scores, labels):
    ranked = labels[np.argsort(-scores)]
    hits = np.flatnonzero(ranked)
    return np.mean([(i + 1) / (rank + 1) for i, rank in enumerate(hits)])


def test_it_is_the_mean_precision_at_the_positives_over_labels_that_have_some():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(37, 5)), rng.random((37, 5)) < 0.3
    labels[:, 3], labels[:, 1] = False, True  # nothing to find, nothing to miss
    expected = np.mean([average_precision(scores[:, i], labels[:, i]) for i in (0, 2, 4)])
    result = MeanAveragePrecision().compute(predictions=scores, references=labels.astype(float))
    assert result["mAP"] == pytest.approx(expected, abs=1e-6)
    assert result["mAP_labels"] == 3


def test_by_hand():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    result = MeanAveragePrecision().compute(predictions=scores, references=np.array([[0.0], [1.0], [0.0], [1.0]]))
    assert result["mAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_a_split_without_positives_is_refused():
    with pytest.raises(ValueError, match="mAP needs a label"):
        MeanAveragePrecision().compute(predictions=np.zeros((3, 2)), references=np.zeros((3, 2)))
