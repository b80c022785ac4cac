"""What does each layer know? Classifiers on the features of every layer, and curves over few labels.

`sources` are what is compared: an encoder's layers, those of untrained networks of the same shape, raw features. A
source is one or more networks, each a dict of layers; accuracies of several networks are averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...pretraining.evaluation.probe import Features, TooFewExamples, few_label_accuracy, knn_accuracy, linear_probe
from .arguments import ProbeTask


Pair = tuple[Features, Features]  # of the training and of the test examples, (examples, dim)
Network = Mapping[str, Pair]  # by layer


@dataclass(frozen=True)
class ProbeLabels:
    """Class numbers (examples,) of the training and of the test examples, and the classes' names."""

    train: np.ndarray
    test: np.ndarray
    names: Sequence[str]


def probe_layers(networks: Sequence[Network], labels: ProbeLabels, args: ProbeTask, seed: int, title: str) -> Any:
    """Accuracies of each layer, 0 to 1: {layer: {"knn", "linear", "validation"}}, the mean over networks.

    `validation` is the linear probe's accuracy on the part of the training examples that chose its penalty.
    """
    found: dict[str, list[dict[str, float]]] = {layer: [] for layer in networks[0]}
    with tqdm(total=len(networks) * len(found), desc=f"probing {title}", unit="layer") as bar:
        for network in networks:
            for layer, (train, test) in network.items():
                scores = {}
                if "knn" in args.probes:
                    scores["knn"] = knn_accuracy(train, labels.train, test, labels.test, args.neighbours)
                if "linear" in args.probes:
                    probe = linear_probe(train, labels.train, test, labels.test, seed)
                    scores |= {"linear": probe.accuracy, "validation": probe.validation_accuracy}
                found[layer].append(scores)
                bar.update()
    return {
        layer: {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
        for layer, scores in found.items()
    }


def best_layer(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The layer with the best validation accuracy; where nothing was validated, the last one."""
    layers = list(scores)
    return max(layers, key=lambda layer: scores[layer].get("validation", float(layers.index(layer))))


def few_label_curve(
    networks: Sequence[Network], layer: str, labels: ProbeLabels, args: ProbeTask, seed: int
) -> dict[str, dict[str, Any]]:
    """Accuracies over draws, by labels per class: {"10": {"mean", "std", "accuracies"}}.

    A number that a class has too few examples for says so under "not_possible".
    """
    curve: dict[str, dict[str, Any]] = {}
    for number in args.labels_per_class:
        try:
            scores = [
                few_label_accuracy(train, labels.train, test, labels.test, number, args.draws, seed)
                for train, test in (network[layer] for network in networks)
            ]
        except TooFewExamples as error:
            there = f"of class {labels.names[error.label]!r} there are {error.there} training examples"
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
    sources: Mapping[str, Sequence[Network]], labels: ProbeLabels, args: ProbeTask, seed: int
) -> dict[str, Any]:
    """{source: {"layers": ..., "best": layer, "few_labels": {layer: curve}}} of every source.

    Few labels are given to the best layer and to the last one.
    """
    results = {}
    for name, networks in sources.items():
        layers = probe_layers(networks, labels, args, seed, name)
        best = best_layer(layers)
        results[name] = {"networks": len(networks), "layers": layers, "best": best}
        if "few_labels" in args.probes:
            chosen = dict.fromkeys((best, list(layers)[-1]))
            results[name]["few_labels"] = {
                layer: few_label_curve(networks, layer, labels, args, seed) for layer in chosen
            }
    return results
