"""What labels are: classes or numbers. A kind says which probes there are, and what a layer scores.

A layer is scored over folds, each with training and test examples: accuracies are averaged over folds; R² is that of
the predictions of all folds together, since a fold, such as one speaker, may hold only one number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from scipy import sparse
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from ...pretraining.evaluation.probe import (
    Features,
    knn_accuracy,
    knn_numbers,
    linear_probe,
    ridge_probe,
)
from ..metrics import correlations
from .arguments import Kind, ProbeTask
from .mlp import Frames, mlp_probe


Rows: TypeAlias = Features | Frames  # (examples, dim), or of every example (time, dim)
Pair = tuple[Rows, Rows]  # of the training and of the test examples
Scores = dict[str, float]  # by kind of probe, such as "knn", and of what else was measured with it


@dataclass(frozen=True)
class ProbeLabels:
    """Labels (examples,) of the training and of the test examples, and the classes' names.

    Class numbers are int64. Without names, the labels are numbers, float64.
    """

    train: np.ndarray
    test: np.ndarray
    names: Sequence[str]


class LabelKind:
    """Classes or numbers."""

    metric: ClassVar[str]  # of `METRICS`

    def probes(self, task: ProbeTask, given: bool, labels: Mapping[str, np.ndarray]) -> list[Kind]:
        """What of `task.probes` there is for these labels.

        Args:
            given: whether the recipe says it; if it is the default, what is not for these labels is left out.
            labels: of each split.

        Raises:
            ValueError: there is no such probe, or none of these labels.
        """
        return task.probes

    def nothing_known(self, tested: np.ndarray) -> dict[str, float]:
        """Scores of the same answer for all test examples, where they depend on the labels."""
        raise NotImplementedError

    def scores(
        self, folds: Sequence[tuple[Pair, ProbeLabels]], task: ProbeTask, seed: int, device: torch.device | str
    ) -> Scores:
        """Test scores of one layer, and "validation" of what chose its settings."""
        raise NotImplementedError


class Classes(LabelKind):
    """`validation` is the accuracy on the fifth of the training examples that chose the linear probe's penalty or,
    without that probe, the epoch of `mlp`, which also gives `mlp_unweighted_accuracy` and `mlp_weighted_f1`.
    """

    metric = "accuracy"

    def nothing_known(self, tested: np.ndarray) -> dict[str, float]:
        return {"majority": float(np.bincount(tested).max() / len(tested))}

    def scores(
        self, folds: Sequence[tuple[Pair, ProbeLabels]], task: ProbeTask, seed: int, device: torch.device | str
    ) -> Scores:
        return means([self._of_fold(pair, labels, task, seed, device) for pair, labels in folds])

    def _of_fold(
        self, pair: Pair, labels: ProbeLabels, task: ProbeTask, seed: int, device: torch.device | str
    ) -> Scores:
        scores: Scores = {}
        train, test = pooled(pair)
        if "knn" in task.probes:
            scores["knn"] = knn_accuracy(train, labels.train, test, labels.test, task.neighbours)
        if "linear" in task.probes:
            probe = linear_probe(train, labels.train, test, labels.test, seed)
            scores |= {"linear": probe.accuracy, "validation": probe.validation_accuracy}
        if "mlp" in task.probes:
            train, test = _frames(pair)
            mlp = mlp_probe(train, labels.train, test, labels.test, len(labels.names), seed, device)
            scores |= {
                "mlp": mlp.accuracy,
                "mlp_unweighted_accuracy": mlp.unweighted_accuracy,
                "mlp_weighted_f1": mlp.weighted_f1,
            }
            scores.setdefault("validation", mlp.validation_accuracy)
        return scores


class Numbers(LabelKind):
    """`validation` is the R² on the fifth of the training examples that chose the linear probe's penalty, a mean over
    folds. Beside R², each probe gives Pearson's and Spearman's correlation: `linear_pearson`, `linear_spearman`.
    """

    metric = "r2"

    def probes(self, task: ProbeTask, given: bool, labels: Mapping[str, np.ndarray]) -> list[Kind]:
        found: list[Kind] = [kind for kind in task.probes if kind in ("knn", "linear")]
        if given and found != task.probes:
            task.refuse("probes", "the labels are numbers; use knn and linear, few_labels and mlp are for classes")
        for split, numbers in labels.items():
            if found and np.ptp(numbers) == 0:
                raise ValueError(
                    f"data.{split}: all labels are {numbers[0]}, and R² needs numbers that differ: set "
                    f"data.{split}.label_column to another column."
                )
        return found

    def nothing_known(self, tested: np.ndarray) -> dict[str, float]:
        return {}  # R² is 0 by definition

    def scores(
        self, folds: Sequence[tuple[Pair, ProbeLabels]], task: ProbeTask, seed: int, device: torch.device | str
    ) -> Scores:
        predicted: dict[str, list[np.ndarray]] = {kind: [] for kind in task.probes}
        validation = []
        for pair, labels in folds:
            train, test = pooled(pair)
            if "knn" in predicted:
                predicted["knn"].append(knn_numbers(train, labels.train, test, task.neighbours))
            if "linear" in predicted:
                probe = ridge_probe(train, labels.train, test, seed)
                predicted["linear"].append(probe.predictions)
                validation.append(probe.validation_r2)
        tested = np.concatenate([labels.test for _, labels in folds])
        scores: Scores = {}
        for kind, of_folds in predicted.items():
            numbers = np.concatenate(of_folds)
            scores[kind] = float(r2_score(tested, numbers))
            scores |= {f"{kind}_{name}": value for name, value in correlations(numbers, tested).items()}
        return scores | ({"validation": float(np.mean(validation))} if validation else {})


CLASSES, NUMBERS = Classes(), Numbers()


def kind_of(names: Sequence[str]) -> LabelKind:
    """Of labels with these classes; none: they are numbers."""
    return CLASSES if names else NUMBERS


def means(scores: Sequence[Mapping[str, float]]) -> Scores:
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def pooled(pair: Pair) -> tuple[Features, Features]:
    """The mean over time steps of each example."""
    train, test = (
        rows if isinstance(rows, np.ndarray | sparse.csr_matrix) else np.stack([row.mean(0) for row in rows])
        for rows in pair
    )
    return train, test


def _frames(pair: Pair) -> tuple[Frames, Frames]:
    """Time steps of each example; features without them, whose scales are arbitrary, as one standardised step each."""
    train: Any
    test: Any
    train, test = (rows.toarray() if isinstance(rows, sparse.csr_matrix) else rows for rows in pair)
    if isinstance(train, np.ndarray):
        scaler = StandardScaler().fit(train)
        train, test = list(scaler.transform(train)), list(scaler.transform(test))
    return train, test
