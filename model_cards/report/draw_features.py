"""A map of the features of labelled examples, and what each layer knows of their labels."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel

from ...finetune.probe.arguments import ProbeTask
from ...finetune.probe.kinds import ProbeLabels
from ...finetune.probe.layers import probe_layers
from ...pretraining.evaluation.plots import COLOURS, draw_layers, finish, legend_below
from ...pretraining.evaluation.probe import (
    batches_of,
    extract_features,
    extract_layers,
    hidden_layers,
    untrained_encoder,
)
from ...pretraining.evaluation.probe_metrics import METRICS, ProbeMetric
from ..command_line import MapMethod
from .figures import ReportFigure, figure
from .inputs import Example, Inputs, Labelled, Masked


MAPPED = 600  # examples on a map
MARKERS = "os^Dv"
CLASS_COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]
NAMED = 10  # classes with a colour and a marker of their own


def feature_map(
    inputs: Inputs,
    encoder: PreTrainedModel,
    examples: Sequence[Example],
    names: Sequence[str],
    method: MapMethod,
    name: str,
) -> ReportFigure:
    """Two directions of the standardised, mean-pooled features of examples, coloured by label.

    Args:
        names: of the classes; empty where nothing is labelled.
    """
    drawn_from = examples[:MAPPED]
    given = drawn_from if names else [{**example, "labels": 0} for example in drawn_from]
    features, labels = extract_features(encoder, batches_of(given, inputs.collate))
    places, axes_are = _flattened(StandardScaler().fit_transform(features), method, inputs.seed)
    drawn = Figure(figsize=(5.4, 4.9), layout="constrained")
    axes = drawn.add_subplot()
    _scatter(axes, places, labels, names)
    finish(axes, f"{len(places)} examples, {features.shape[1]} features in two")
    axes.set(xticks=[], yticks=[])
    axes.spines["bottom"].set_visible(False)
    if names:
        legend_below(axes, ncols=3, gap=0.02, handletextpad=0.2, columnspacing=0.8, markerscale=1.4)
    coloured = "coloured by label" if names else "not coloured, as no labelled set is configured"
    return figure(name, drawn, f"{axes_are}, {coloured}.", f"Map of the features, {coloured}. {axes_are}.", wide=True)


def feature_colours(inputs: Inputs, example: Masked) -> np.ndarray:
    """The last block's features of each part of an example, their three main directions as (parts, 3) uint8."""
    encoder = inputs.encoder()
    batch = {name: values.to(encoder.device) for name, values in example.batch.items()}
    with torch.no_grad():
        hidden, real = hidden_layers(encoder, batch)
    return principal_colours(hidden["last"][0][real[0]].float().cpu().numpy())


def principal_colours(features: np.ndarray, cut: float = 0.0) -> np.ndarray:
    """Features (parts, dim) as colours (parts, 3) uint8: each of the first three principal components is a channel.

    Args:
        cut: percent of a channel's values at each end that share its darkest and its brightest.
    """
    components = PCA(3, svd_solver="full").fit_transform(features)
    low, high = np.percentile(components, (cut, 100 - cut), axis=0)
    return (255 * shares(np.clip(components, low, high))).astype(np.uint8)


def shares(values: np.ndarray) -> np.ndarray:
    """Each column from 0 to 1."""
    low, high = values.min(0), values.max(0)
    found: np.ndarray = (values - low) / np.maximum(high - low, 1e-12)
    return found


def _flattened(features: np.ndarray, method: MapMethod, seed: int) -> tuple[np.ndarray, str]:
    if method == "umap":
        umap = import_module("umap")  # optional: pip install umap-learn
        places = umap.UMAP(random_state=seed, n_jobs=1).fit_transform(features)
        return places, "UMAP: neighbours are kept, distances are not"
    if not features.any():
        return features[:, :2], "All features are alike"
    pca = PCA(2, svd_solver="full").fit(features)
    shares = " and ".join(f"{100 * share:.0f} %" for share in pca.explained_variance_ratio_)
    return pca.transform(features), f"PCA: the two directions with the most variance, {shares} of all"


def _scatter(axes: Axes, places: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """A colour and a marker each for the commonest classes, grey for the others."""
    if not names:
        axes.scatter(places[:, 0], places[:, 1], s=14, color=COLOURS[0], alpha=0.7, linewidths=0)
        return
    counts = np.bincount(labels, minlength=len(names))
    chosen = np.sort(np.argsort(-counts, kind="stable")[:NAMED])
    others = ~np.isin(labels, chosen)
    if others.any():
        axes.scatter(
            places[others, 0], places[others, 1], s=12, color="#8a8f98", alpha=0.5, linewidths=0, label="other classes"
        )
    for number, label in enumerate(chosen[counts[chosen] > 0]):
        of_class = labels == label
        look = {
            "color": CLASS_COLOURS[number],
            "marker": MARKERS[number % len(MARKERS)],
            "label": _short(names[label]),
        }
        axes.scatter(places[of_class, 0], places[of_class, 1], s=16, alpha=0.8, linewidths=0, **look)


def _short(name: str, most: int = 16) -> str:
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


# ---- layers ----


Scores = dict[str, dict[str, dict[str, float]]]  # source -> layer -> {"knn", "linear"}


def scores_of_probe(results: Mapping[str, Any]) -> tuple[Scores, ProbeMetric]:
    """Scores by layer from what finetune/run_probe.py wrote, at first of classes only."""
    layers = {name: source["layers"] for name, source in results["probed"].items()}
    metric = METRICS[results.get("metric", "accuracy")]
    return {name: found for name, found in layers.items() if "raw" not in found}, metric


def probe_all_layers(inputs: Inputs, encoder: PreTrainedModel, labelled: Labelled) -> Scores:
    """Accuracy by layer of the encoder, and of a network of its shape with random weights.

    Raises:
        ValueError: there are too few labelled examples for a probe.
    """
    untrained = untrained_encoder(inputs.config, inputs.seed)
    untrained.to(encoder.device)  # type: ignore[arg-type]
    scores = {}
    for name, network in (("pretrained", encoder), ("untrained", untrained)):
        (train, train_y), (test, test_y) = (
            extract_layers(network, batches_of(examples, inputs.collate))
            for examples in (labelled.train, labelled.test)
        )
        layers = {layer: (np.stack(train[layer]), np.stack(test[layer])) for layer in train}
        labels = ProbeLabels(train_y, test_y, labelled.names)
        task = ProbeTask(probes=["knn", "linear"], neighbours=min(10, len(train_y)))
        scores[name] = probe_layers([([layers], labels)], task, inputs.seed, name)
    return scores


def layers_figure(scores: Scores, name: str, metric: ProbeMetric) -> ReportFigure:
    """Scores over depth: a colour a source, a line a kind of probe."""
    drawn = Figure(figsize=(4.6, 3.4), layout="constrained")
    draw_layers(drawn.add_subplot(), scores, metric)
    return figure(name, drawn, "Frozen features, averaged over time.", f"{metric.called} of probes of each layer.")
