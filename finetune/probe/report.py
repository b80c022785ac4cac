"""What a probe found, in words and tables (report.md) and as pictures (layers.png, few_labels.png)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .arguments import ProbeArguments


Results = Mapping[str, Any]
COLOURS = ("#1f5fa8", "#9a9a9a", "#e08a1e", "#f2c078")
TITLES = {"linear": "linear probe", "knn": "k-NN"}


def write_report(folder: Path, results: Results, args: ProbeArguments) -> None:
    """report.md and the pictures that it shows."""
    lines = [*_summary(results, args), ""]
    if any(kind in args.probes for kind in TITLES):
        _draw_layers(results, args).savefig(folder / "layers.png", dpi=120)
        lines += ["## Accuracy over depth", "", "![accuracy over depth](layers.png)", ""]
        lines += [*_layers_table(results, args), ""]
    if "few_labels" in args.probes:
        _draw_few_labels(results).savefig(folder / "few_labels.png", dpi=120)
        lines += ["## Few labels", "", "![accuracy over labels](few_labels.png)", ""]
        lines += [*_few_labels_table(results, args), ""]
    lines += ["## How it was measured", "", *_method(results, args), ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _summary(results: Results, args: ProbeArguments) -> list[str]:
    lines = [f"# What does {results['model']} know?", ""]
    probed = results["probed"]
    kind = next((kind for kind in TITLES if kind in args.probes), None)
    if kind is not None:
        best = probed["pretrained"]["best"]
        pretrained = probed["pretrained"]["layers"][best][kind]
        what = f"{TITLES[kind]} on the {results['weights']}'s {_called(best)}"
        lines.append(f"- {what}: {_percent(pretrained)} % correct")
        for name, source in probed.items():
            if name != "pretrained":
                what = f"{name}, {_called(source['best'])}" if name == "untrained" else name
                lines.append(f"- the same on {what}: {_percent(source['layers'][source['best']][kind])} %")
        lines.append(f"- always the most frequent class: {_percent(results['majority'])} %")
        chosen = (
            f"Of {len(probed['pretrained']['layers'])} layers this is the one that was best on a part of the training "
            "examples; test examples chose nothing."
        )
        if "linear" in args.probes and len(probed["pretrained"]["layers"]) > 1:
            lines += ["", chosen]
    return lines


def _layers_table(results: Results, args: ProbeArguments) -> list[str]:
    """A row a layer, a column a source and a kind of probe."""
    kinds = [kind for kind in TITLES if kind in args.probes]
    sources = {name: source["layers"] for name, source in results["probed"].items() if "raw" not in source["layers"]}
    raw = {name: source["layers"]["raw"] for name, source in results["probed"].items() if "raw" in source["layers"]}
    heads = [f"{name}, {TITLES[kind]}" for name in sources for kind in kinds]
    lines = [_row(["layer", *heads]), _row(["---"] * (1 + len(heads)))]
    for layer in results["probed"]["pretrained"]["layers"]:
        cells = [_percent(layers[layer][kind]) for layers in sources.values() for kind in kinds]
        lines.append(_row([_called(layer), *cells]))
    if raw:
        lines += ["", _row(["raw features", *(TITLES[kind] for kind in kinds)]), _row(["---"] * (1 + len(kinds)))]
        lines += [_row([name, *(_percent(scores[kind]) for kind in kinds)]) for name, scores in raw.items()]
    return [*lines, "", "Accuracy in %."]


def _few_labels_table(results: Results, args: ProbeArguments) -> list[str]:
    numbers = [str(number) for number in args.labels_per_class]
    lines = [_row(["features", *(f"{number} a class" for number in numbers)]), _row(["---"] * (1 + len(numbers)))]
    reasons = {}
    for name, layer, curve in _curves(results):
        cells = []
        for number in numbers:
            point = curve[number]
            if "not_possible" in point:
                reasons[number] = point["not_possible"]
            cells.append("-" if "mean" not in point else f"{_percent(point['mean'])} ± {_percent(point['std'])}")
        lines.append(_row([_curve_name(name, layer), *cells]))
    lines += ["", f"Accuracy in %, mean and spread over {args.draws} draws of the labelled examples."]
    return [*lines, *(f"\n{number} a class: {reason}" for number, reason in reasons.items())]


def _method(results: Results, args: ProbeArguments) -> list[str]:
    examples = results["examples"]
    lines = [
        f"- {examples['train']} training and {examples['test']} test examples of {len(results['classes'])} classes.",
        "- Features are averaged over time steps, without padding and class tokens, and standardised with the "
        "training set's statistics. Layer 0 is the input of the first block.",
        "- Linear probe: logistic regression, its penalty chosen on a fifth of the training examples, then fitted on "
        f"all. k-NN: {args.neighbours} neighbours by cosine. Few labels: logistic regression with a fixed penalty; "
        "the layer was chosen with all labels.",
    ]
    if "untrained" in results["probed"]:
        number = results["probed"]["untrained"]["networks"]
        what = "one network" if number == 1 else f"{number} networks, averaged,"
        lines.append(f"- Untrained: {what} of the same shape with random weights.")
    for split, reasons in results["left_out"].items():
        lines.append(f"- Left out of {split}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
    return lines


def _draw_layers(results: Results, args: ProbeArguments) -> Figure:
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    kinds = {kind: line for kind, line in (("linear", "-"), ("knn", "--")) if kind in args.probes}
    for name, source in results["probed"].items():
        layers, colour = source["layers"], _colour(results, name)
        for kind, line in kinds.items():
            values = [100 * scores[kind] for scores in layers.values()]
            label = f"{name}, {TITLES[kind]}"
            if "raw" in layers:
                axes.axhline(values[0], color=colour, linestyle=line, linewidth=1, label=label)
            else:
                axes.plot(range(len(values)), values, line, marker="o", markersize=4, color=colour, label=label)
    axes.axhline(100 * results["majority"], color="#222222", linewidth=1, linestyle=":", label="most frequent class")
    names = list(results["probed"]["pretrained"]["layers"])
    axes.set(xlabel="layer (0: input of the first block)", ylabel="test accuracy in %")
    if names[0].startswith("layer_") and len(names) > 1:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xticks(range(len(names)), [_called(name) for name in names])
    _finish(axes, "What does each layer know?")
    return figure


def _draw_few_labels(results: Results) -> Figure:
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, layer, curve in _curves(results):
        points = {int(number): point for number, point in curve.items() if "mean" in point}
        means, spreads = ([100 * point[key] for point in points.values()] for key in ("mean", "std"))
        line = "-" if layer == results["probed"][name]["best"] else "--"
        axes.errorbar(
            list(points), means, yerr=spreads, color=_colour(results, name), linestyle=line, marker="o", markersize=4,
            capsize=3, label=_curve_name(name, layer),
        )  # fmt: skip
    axes.set_xscale("log")
    numbers = sorted({int(number) for _, _, curve in _curves(results) for number in curve})
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set(xlabel="labelled examples of each class", ylabel="test accuracy in %")
    _finish(axes, "With few labels")
    return figure


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _curves(results: Results) -> list[tuple[str, str, dict[str, Any]]]:
    """(source, layer, curve) of every curve over few labels."""
    return [
        (name, layer, curve)
        for name, source in results["probed"].items()
        for layer, curve in source["few_labels"].items()
    ]


def _colour(results: Results, name: str) -> str:
    return COLOURS[list(results["probed"]).index(name)]


def _curve_name(name: str, layer: str) -> str:
    return name if layer == "raw" else f"{name}, {_called(layer)}"


def _called(layer: str) -> str:
    known = {"last": "last hidden state", "average": "average of all layers", "raw": "raw features"}
    return known.get(layer, layer.replace("_", " "))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
