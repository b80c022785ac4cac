"""Questions about inputs, and how well a linear probe on each layer of a frozen encoder answers them.

A question about classes is answered by a logistic regression (accuracy), one about numbers by a ridge regression (R^2,
the share of the variance that is explained). What a probe is penalised with is chosen on a part of its training
examples. Scores times 100.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.metrics import r2_score
from torch import Tensor
from transformers import PreTrainedModel

from data2vec.pretraining.evaluation.probe import batches_of, extract_layers, linear_probe, ridge_probe


@dataclass(frozen=True)
class Question:
    """What is asked about some inputs.

    Args:
        labels: (n,) class numbers, or (n, values) floats.
        without: features (n, dim) that need no network, by name.
        at: (n, 2) the example and the time step that each label is about; without it, a label an example.
    """

    labels: np.ndarray
    without: dict[str, np.ndarray] = field(default_factory=dict)
    at: np.ndarray | None = None

    @property
    def metric(self) -> str:
        return "R2" if self.labels.ndim == 2 else "accuracy"

    def features(self, steps: Sequence[np.ndarray]) -> np.ndarray:
        """Those of a layer, (n, dim): single time steps, or the mean over them; `steps[i]` is (time, dim)."""
        if self.at is None:
            return np.stack([row.mean(0) for row in steps])
        return np.stack([steps[example][step] for example, step in self.at])


@dataclass(frozen=True)
class Inputs:
    """Examples as a collator takes them, and what is asked about them."""

    examples: list[dict[str, Tensor]]
    questions: dict[str, Question]


Splits = Sequence[tuple[Inputs, Inputs]]  # training and test inputs, with the same questions
Answers = dict[str, dict[str, list[float]]]  # question -> "test" and "validation" -> a score a layer


def answers(encoder: PreTrainedModel, collate: Callable[..., Any], splits: Splits) -> Answers:
    """Scores of every layer, from the first block's input to the last hidden state."""
    found: Answers = {}
    for train, test in splits:
        layers, test_layers = (
            extract_layers(encoder, batches_of(part.examples, collate), pooled=False)[0] for part in (train, test)
        )
        for name, question in train.questions.items():
            asked = test.questions[name]
            scores = [
                score(question.features(layers[layer]), question, asked.features(test_layers[layer]), asked)
                for layer in layers
            ]
            found[name] = {"test": [one for one, _ in scores], "validation": [other for _, other in scores]}
    return found


def answers_without(splits: Splits) -> dict[str, Any]:
    """Of each question its metric and size, the score of features without a network, and of knowing nothing."""
    found = {}
    for train, test in splits:
        for name, question in train.questions.items():
            asked = test.questions[name]
            kinds = question.without.items()
            found[name] = {
                "metric": question.metric,
                "train": len(question.labels),
                "test": len(asked.labels),
                "nothing known": 0.0 if question.metric == "R2" else _commonest(question.labels, asked.labels),
                "without": {kind: score(x, question, asked.without[kind], asked)[0] for kind, x in kinds},
            }
    return found


def _commonest(labels: np.ndarray, asked: np.ndarray) -> float:
    """Accuracy of always saying the commonest class."""
    return _percent(np.mean(asked == np.bincount(labels).argmax()))


def score(x: np.ndarray, question: Question, test_x: np.ndarray, asked: Question) -> tuple[float, float]:
    """On the test examples, and on the part of the training examples that chose the penalty."""
    if question.metric == "R2":
        ridge = ridge_probe(x, question.labels, test_x)
        return _percent(r2_score(asked.labels, ridge.predictions)), _percent(ridge.validation_r2)
    probe = linear_probe(x, question.labels, test_x, asked.labels)
    return _percent(probe.accuracy), _percent(probe.validation_accuracy)


def best(scores: dict[str, list[float]]) -> tuple[int, float]:
    """The layer that is best on held-out training examples, and its test score."""
    layer = int(np.argmax(scores["validation"]))
    return layer, scores["test"][layer]


def one_hot(numbers: np.ndarray, count: int) -> np.ndarray:
    """(..., count) float32"""
    return np.eye(count, dtype=np.float32)[numbers]


def _percent(share: float) -> float:
    return round(100 * float(share), 2)
