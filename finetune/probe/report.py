"""What a probe found, in words and tables (report.md) and as pictures (layers.png, few_labels.png)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ...pretraining.evaluation.plots import INK, KINDS, draw_few_labels, draw_layers, layer_name, legend_below, png_of
from ...pretraining.evaluation.probe_metrics import METRICS, ProbeMetric
from ...pretraining.evaluation.report_text import markdown_table, percent, templates
from .arguments import ProbeTask


FURTHER = {
    "unweighted_accuracy": "unweighted accuracy",
    "weighted_f1": "weighted F1",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def describe(folder: Path, results: Mapping[str, Any], task: ProbeTask) -> None:
    """Write report.md and the pictures that it shows."""
    probed, metric = results["probed"], METRICS[results["metric"]]
    baseline = results.get("majority", 0.0)
    kinds: dict[str, str] = {kind: called for kind, (called, _) in KINDS.items() if kind in task.probes}
    curves = {
        name if layer == "raw" else f"{name}, {layer_name(layer)}": curve
        for name, source in probed.items()
        for layer, curve in source.get("few_labels", {}).items()
    }
    if kinds:
        figure = Figure(figsize=(8.5, 4.8), layout="constrained")
        axes = figure.add_subplot()
        draw_layers(axes, {name: source["layers"] for name, source in probed.items()}, metric)
        axes.axhline(metric.scale * baseline, color=INK, linewidth=1, linestyle=":", label=metric.baseline)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        legend_below(axes, gap=0.15)
        (folder / "layers.png").write_bytes(png_of(figure, dpi=120))
    if curves:
        figure = Figure(figsize=(8.5, 4.8), layout="constrained")
        draw_few_labels(figure.add_subplot(), curves)
        (folder / "few_labels.png").write_bytes(png_of(figure, dpi=120))
    text = TEMPLATES.get_template("report.md.jinja").render(
        **{**results, "metric": metric},
        baseline=baseline,
        task=task,
        kinds=kinds,
        kind=next(iter(kinds), None),
        pretrained=probed["pretrained"],
        layers=_layers_table(probed, kinds, metric),
        raw=_raw_table(probed, kinds, metric),
        further=_further_table(probed, kinds, metric),
        few_labels=_few_labels_table(curves, task),
        reasons={
            number: point["not_possible"]
            for curve in curves.values()
            for number, point in curve.items()
            if "not_possible" in point
        },
    )
    (folder / "report.md").write_text(text.rstrip() + "\n", encoding="utf-8")


def _layers_table(probed: Mapping[str, Any], kinds: Mapping[str, str], metric: ProbeMetric) -> str:
    """A row a layer, a column a source and a kind of probe."""
    sources = {name: source["layers"] for name, source in probed.items() if "raw" not in source["layers"]}
    heads = ["layer", *(f"{name}, {called}" for name in sources for called in kinds.values())]
    rows = [
        [layer_name(layer), *(metric.written(layers[layer][kind]) for layers in sources.values() for kind in kinds)]
        for layer in probed["pretrained"]["layers"]
    ]
    return markdown_table(heads, rows)


def _raw_table(probed: Mapping[str, Any], kinds: Mapping[str, str], metric: ProbeMetric) -> str:
    raw = {name: source["layers"]["raw"] for name, source in probed.items() if "raw" in source["layers"]}
    rows = [[name, *(metric.written(scores[kind]) for kind in kinds)] for name, scores in raw.items()]
    return markdown_table(["raw features", *kinds.values()], rows) if rows else ""


def _further_table(probed: Mapping[str, Any], kinds: Mapping[str, str], metric: ProbeMetric) -> str:
    """What was measured beside the metric: a row a source, at its best layer."""
    scores = {name: source["layers"][source["best"]] for name, source in probed.items()}
    further = {
        f"{kind}_{key}": f"{called}: {name}"
        for kind, called in kinds.items()
        for key, name in FURTHER.items()
        if f"{kind}_{key}" in scores["pretrained"]
    }
    rows = [[name, *(metric.written(score[key]) for key in further)] for name, score in scores.items()]
    return markdown_table(["features", *further.values()], rows) if further else ""


def _few_labels_table(curves: Mapping[str, Any], task: ProbeTask) -> str:
    numbers = [str(number) for number in task.labels_per_class]
    rows = [
        [
            name,
            *(f"{percent(p['mean'])} ± {percent(p['std'])}" if "mean" in p else "-" for p in map(curve.get, numbers)),
        ]
        for name, curve in curves.items()
    ]
    return markdown_table(["features", *(f"{number} per class" for number in numbers)], rows) if rows else ""


TEMPLATES = templates(Path(__file__).parent)
TEMPLATES.filters["called"] = layer_name
