"""What does each layer know? Classifiers on the features of every layer, and curves over few labels.

`sources` are what is compared: an encoder's layers, those of untrained networks of the same shape, raw features. A
source is one or more networks, each a dict of layers; accuracies of several networks, and of folds, are averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import sparse
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from ...pretraining.evaluation.probe import Features, TooFewExamples, few_label_accuracy, knn_accuracy, linear_probe
from .arguments import ProbeTask
from .mlp import Frames, mlp_probe


Rows: TypeAlias = Features | Frames  # (examples, dim), or of every example (time, dim)
Pair = tuple[Rows, Rows]  # of the training and of the test examples
Network = Mapping[str, Pair]  # by layer


@dataclass(frozen=True)
class ProbeLabels:
    """Class numbers (examples,) of the training and of the test examples, and the classes' names."""

    train: np.ndarray
    test: np.ndarray
    names: Sequence[str]


@dataclass(frozen=True)
class Fold:
    """What is compared, source -> networks, on one division into training and test examples."""

    sources: Mapping[str, Sequence[Network]]
    labels: ProbeLabels


def probe_layers(
    networks: Sequence[Network],
    labels: ProbeLabels,
    args: ProbeTask,
    seed: int,
    title: str,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, float]]:
    """Accuracies of each layer, 0 to 1: {layer: {"knn", "linear", "mlp", "validation"}}, the mean over networks.

    `validation` is the accuracy on the fifth of the training examples that chose the linear probe's penalty or,
    without that probe, the epoch of `mlp`, which also gives `mlp_unweighted_accuracy` and `mlp_weighted_f1` and is
    trained on `device`.
    """
    found: dict[str, list[dict[str, float]]] = {layer: [] for layer in networks[0]}
    with tqdm(total=len(networks) * len(found), desc=f"probing {title}", unit="layer") as bar:
        for network in networks:
            for layer, pair in network.items():
                scores: dict[str, float] = {}
                train, test = _pooled(pair)
                if "knn" in args.probes:
                    scores["knn"] = knn_accuracy(train, labels.train, test, labels.test, args.neighbours)
                if "linear" in args.probes:
                    probe = linear_probe(train, labels.train, test, labels.test, seed)
                    scores |= {"linear": probe.accuracy, "validation": probe.validation_accuracy}
                if "mlp" in args.probes:
                    train, test = _frames(pair)
                    mlp = mlp_probe(train, labels.train, test, labels.test, len(labels.names), seed, device)
                    scores |= {
                        "mlp": mlp.accuracy,
                        "mlp_unweighted_accuracy": mlp.unweighted_accuracy,
                        "mlp_weighted_f1": mlp.weighted_f1,
                    }
                    scores.setdefault("validation", mlp.validation_accuracy)
                found[layer].append(scores)
                bar.update()
    return {layer: _means(scores) for layer, scores in found.items()}


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def _pooled(pair: Pair) -> tuple[Features, Features]:
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


def best_layer(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The layer with the best validation accuracy; where nothing was validated, the last one."""
    layers = list(scores)
    return max(layers, key=lambda layer: scores[layer].get("validation", float(layers.index(layer))))


def few_label_curve(
    folds: Sequence[tuple[Sequence[Network], ProbeLabels]], layer: str, args: ProbeTask, seed: int
) -> dict[str, dict[str, Any]]:
    """Accuracies over draws and folds, by labels per class: {"10": {"mean", "std", "accuracies"}}.

    A number that a class has too few examples for says so under "not_possible".
    """
    curve: dict[str, dict[str, Any]] = {}
    for number in args.labels_per_class:
        try:
            scores = [
                few_label_accuracy(train, labels.train, test, labels.test, number, args.draws, seed)
                for networks, labels in folds
                for train, test in (_pooled(network[layer]) for network in networks)
            ]
        except TooFewExamples as error:
            names = folds[0][1].names
            there = f"of class {names[error.label]!r} there are {error.there} training examples"
            curve[str(number)] = {"not_possible": f"{there} beside the fifth that is held out"}
            continue
        accuracies = [accuracy for score in scores for accuracy in score.accuracies]
        curve[str(number)] = {
            "mean": float(np.mean(accuracies)),
            "std": float(np.std(accuracies, ddof=1)),
            "accuracies": accuracies,
        }
    return curve


def probe_everything(
    folds: Sequence[Fold], args: ProbeTask, seed: int, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """{source: {"layers": ..., "best": layer, "few_labels": {layer: curve}}} of every source, the mean over folds.

    Few labels are given to the best layer and to the last one.
    """
    results = {}
    for name in folds[0].sources:
        of_folds = [(fold.sources[name], fold.labels) for fold in folds]
        scores = [probe_layers(networks, labels, args, seed, name, device) for networks, labels in of_folds]
        layers = {layer: _means([one[layer] for one in scores]) for layer in scores[0]}
        best = best_layer(layers)
        results[name] = {"networks": len(folds[0].sources[name]), "layers": layers, "best": best}
        if "few_labels" in args.probes:
            chosen = dict.fromkeys((best, list(layers)[-1]))
            results[name]["few_labels"] = {layer: few_label_curve(of_folds, layer, args, seed) for layer in chosen}
    return results
