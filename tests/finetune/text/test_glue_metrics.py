"""The text metrics, against their definitions written out."""

import math

import numpy as np
import pytest

from data2vec.finetune.metrics import F1, MatthewsCorrelation, PearsonSpearman


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


def test_f1_is_of_the_second_class_or_the_mean_over_classes():
    guessed, labels = classes(53, 2, 0)
    found = F1().compute(predictions=guessed, references=labels)
    assert found["f1"] == pytest.approx(counted_f1(guessed, labels, 1))
    assert found["f1"] != pytest.approx(counted_f1(guessed, labels, 0))
    guessed, labels = classes(53, 3, 1)
    found = F1().compute(predictions=guessed, references=labels, average="macro")
    assert found["f1"] == pytest.approx(sum(counted_f1(guessed, labels, c) for c in range(3)) / 3)


def test_matthews_is_the_correlation_of_two_columns_of_zeros_and_ones():
    guessed, labels = classes(47, 2, 2)
    found = MatthewsCorrelation().compute(predictions=guessed, references=labels)
    assert found["matthews_correlation"] == pytest.approx(correlation(guessed, labels))
    always = MatthewsCorrelation().compute(predictions=[1] * 47, references=labels)
    assert always["matthews_correlation"] == 0.0


def test_pearson_and_spearman_with_ties():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 6, 41).astype(np.float32)  # many ties, as in STS-B
    guessed = (labels**3 + 20 * rng.random(41)).astype(np.float32)
    found = PearsonSpearman().compute(predictions=guessed, references=labels)
    assert found["pearson"] == pytest.approx(correlation(guessed.tolist(), labels.tolist()), abs=1e-6)
    ranks = mean_ranks(guessed.tolist()), mean_ranks(labels.tolist())
    assert found["spearman"] == pytest.approx(correlation(*ranks), abs=1e-6)
    assert found["pearson"] != pytest.approx(found["spearman"], abs=1e-3)
    still = PearsonSpearman().compute(predictions=[2.0] * 41, references=labels)
    assert still == {"pearson": 0.0, "spearman": 0.0}  # a number that `load_best_model_at_end` can compare
