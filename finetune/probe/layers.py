"""What does each layer know? Probes of the features of every layer, and curves over few labels.

`sources` are what is compared: an encoder's layers, those of untrained networks of the same shape, raw features. A
source is one or more networks, each a dict of layers; scores of several networks are averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ...pretraining.evaluation.probe import TooFewExamples, few_label_accuracy
from .arguments import ProbeTask
from .kinds import Pair, ProbeLabels, Scores, kind_of, means, pooled


Network = Mapping[str, Pair]  # by layer


@dataclass(frozen=True)
class Fold:
    """What is compared, source -> networks, on one division into training and test examples."""

    sources: Mapping[str, Sequence[Network]]
    labels: ProbeLabels


def probe_layers(
    folds: Sequence[tuple[Sequence[Network], ProbeLabels]],
    args: ProbeTask,
    seed: int,
    title: str,
    device: torch.device | str = "cpu",
) -> dict[str, Scores]:
    """Scores of each layer, 1.0 at best, the mean over networks: {layer: {"knn", "linear", "validation", ...}}.

    What they are depends on the labels, see [`kinds.LabelKind`]; `mlp` is trained on `device`.
    """
    kind, networks = kind_of(folds[0][1].names), range(len(folds[0][0]))
    layers = list(folds[0][0][0])
    found: dict[str, list[Scores]] = {layer: [] for layer in layers}
    with tqdm(total=len(networks) * len(layers), desc=f"probing {title}", unit="layer") as bar:
        for number in networks:
            for layer in layers:
                of_folds = [(of[number][layer], labels) for of, labels in folds]
                found[layer].append(kind.scores(of_folds, args, seed, device))
                bar.update()
    return {layer: means(scores) for layer, scores in found.items()}


def best_layer(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The layer with the best validation score; where nothing was validated, the last one."""
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
                for train, test in (pooled(network[layer]) for network in networks)
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
    """{source: {"layers": ..., "best": layer, "few_labels": {layer: curve}}} of every source.

    Few labels are given to the best layer and to the last one.
    """
    results = {}
    for name in folds[0].sources:
        of_folds = [(fold.sources[name], fold.labels) for fold in folds]
        layers = probe_layers(of_folds, args, seed, name, device)
        best = best_layer(layers)
        results[name] = {"networks": len(folds[0].sources[name]), "layers": layers, "best": best}
        if "few_labels" in args.probes:
            chosen = dict.fromkeys((best, list(layers)[-1]))
            results[name]["few_labels"] = {layer: few_label_curve(of_folds, layer, args, seed) for layer in chosen}
    return results
