"""Metrics, against their definitions written out."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from transformers.trainer_utils import EvalPrediction

from data2vec.finetune.metrics import correlations, mean_average_precision
from data2vec.finetune.text.task import TextClassification


def average_precision(scores, labels):
    ranked = labels[np.argsort(-scores)]
    hits = np.flatnonzero(ranked)
    return np.mean([(i + 1) / (rank + 1) for i, rank in enumerate(hits)])


def test_map_is_the_mean_precision_at_the_positives_over_labels_that_have_some():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(37, 5)), rng.random((37, 5)) < 0.3
    labels[:, 3], labels[:, 1] = False, True  # nothing to find, nothing to miss
    expected = np.mean([average_precision(scores[:, i], labels[:, i]) for i in (0, 2, 4)])
    result = mean_average_precision(scores, labels.astype(float))
    assert result["mAP"] == pytest.approx(expected, abs=1e-6)
    assert result["mAP_labels"] == 3


def test_map_by_hand():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    result = mean_average_precision(scores, np.array([[0.0], [1.0], [0.0], [1.0]]))
    assert result["mAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_a_split_without_positives_is_refused():
    with pytest.raises(ValueError, match="mAP needs a label"):
        mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2)))


def classes(count: int, number: int, seed: int) -> tuple[list[int], list[int]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, number, count)
    guessed = np.where(rng.random(count) < 0.4, labels, rng.integers(0, number, count))
    return guessed.tolist(), labels.tolist()


def counted_f1(guessed: list[int], labels: list[int], positive: int) -> float:
    hit = sum(g == positive and t == positive for g, t in zip(guessed, labels, strict=True))
    return 2 * hit / (guessed.count(positive) + labels.count(positive))


def correlation(first: list[float], second: list[float]) -> float:
    a, b = sum(first) / len(first), sum(second) / len(second)
    both = sum((x - a) * (y - b) for x, y in zip(first, second, strict=True))
    return both / math.sqrt(sum((x - a) ** 2 for x in first) * sum((y - b) ** 2 for y in second))


def mean_ranks(values: list[float]) -> list[float]:
    """Equal values share the mean of their ranks."""
    return [sum(v < value for v in values) + (1 + sum(v == value for v in values)) / 2 for value in values]


def text_metrics(guessed: list[int], labels: list[int], names: tuple[str, ...]) -> dict[str, float]:
    task = SimpleNamespace(names=names, data_args=SimpleNamespace(task=None))
    logits = np.eye(len(names))[guessed]
    return TextClassification.compute_metrics(task, EvalPrediction(logits, np.array(labels)))


def test_f1_is_of_the_second_class_or_the_mean_over_classes():
    guessed, labels = classes(53, 2, 0)
    found = text_metrics(guessed, labels, ("a", "b"))
    assert found["f1"] == pytest.approx(counted_f1(guessed, labels, 1))
    assert found["f1"] != pytest.approx(counted_f1(guessed, labels, 0))
    guessed, labels = classes(53, 3, 1)
    found = text_metrics(guessed, labels, ("a", "b", "c"))
    assert found["f1"] == pytest.approx(sum(counted_f1(guessed, labels, c) for c in range(3)) / 3)
    assert found["accuracy"] == np.mean(np.array(guessed) == labels) == found["score"]


def test_matthews_is_the_correlation_of_two_columns_of_zeros_and_ones():
    guessed, labels = classes(47, 2, 2)
    found = text_metrics(guessed, labels, ("a", "b"))
    assert found["matthews_correlation"] == pytest.approx(correlation(guessed, labels))
    assert text_metrics([1] * 47, labels, ("a", "b"))["matthews_correlation"] == 0.0


def test_pearson_and_spearman_with_ties():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 6, 41).astype(np.float32)  # many ties, as in STS-B
    guessed = (labels**3 + 20 * rng.random(41)).astype(np.float32)
    found = correlations(guessed, labels)
    assert found["pearson"] == pytest.approx(correlation(guessed.tolist(), labels.tolist()), abs=1e-6)
    ranks = mean_ranks(guessed.tolist()), mean_ranks(labels.tolist())
    assert found["spearman"] == pytest.approx(correlation(*ranks), abs=1e-6)
    assert found["pearson"] != pytest.approx(found["spearman"], abs=1e-3)
    still = correlations([2.0] * 41, labels)
    assert still == {"pearson": 0.0, "spearman": 0.0}  # a number that `load_best_model_at_end` can compare
