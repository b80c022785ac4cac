"""Pictures of a run: curves of its log, accuracies of its report, what each layer knows.

draw_curves(log)          every panel of panels.py that was logged, in one picture, for a model card
draw_report(report, log)  accuracies of report.json as bars, beside the curves that explain them
draw_layers(axes, ...)    scores over depth, as finetune/run_probe.py and the page of a run measure it
"""

import io
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .panels import Curve, Log, Panel, curves_of, logged_panels, series
from .probe_metrics import METRICS, ProbeMetric


# Ink and grid become the page's colours in an SVG; the others have a contrast of 3:1 or more on white and on black.
INK, GRID = "#1f2328", "#d4d7dc"
COLOURS = ("#2f74c0", "#d1600f", "#1a8a5a", "#9b59b6", "#c43c5e", "#7d7f1c")
LINES = ("-", "--")
FLAT = 0.01  # a curve that moves less, as a share of itself, is drawn flat
SIZE = (4.3, 2.6)  # inches of a panel; shown at this size on a phone
ROW_COLOURS = {"student": "#1f5fa8", "teacher": "#7fb2e5", "untrained": "#9a9a9a"}  # of report.json
RAW_COLOURS = ("#e08a1e", "#f2c078")
# of layers: what a reader calls it, and its line
KINDS = {"linear": ("linear probe", "-"), "knn": ("k-NN", "--"), "mlp": ("MLP on frames", "-.")}


def png_of(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG on white. It keeps its layout, which takes as long to find as a figure takes to draw."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once; `savefig` draws twice
    figure.set_layout_engine("none")
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


# Curves


def draw_curves(log: Log, columns: int = 2) -> Figure | None:
    """All panels of a run that were logged, in one picture; `None` where nothing was."""
    panels = logged_panels(log)
    if not panels:
        return None
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows), layout="constrained", facecolor="white")
    for place, panel in enumerate(panels.values()):
        draw_panel(figure.add_subplot(rows, columns, place + 1), panel, panel.title, [curves_of(log, panel)])
    return figure


def draw_panels(logs: Mapping[str, Log]) -> dict[str, Figure]:
    """A figure of each panel that was logged; of several runs, one of each quantity (`PANEL.QUANTITY`)."""
    figures = {}
    for key, panel in logged_panels(*logs.values()).items():
        drawn = {key: (panel.title, [curves_of(log, panel) for log in logs.values()])}
        if len(logs) > 1:
            logged = [name for name in panel.quantities if any(series(log, name)[0] for log in logs.values())]
            several = len(logged) > 1
            drawn = {
                f"{key}.{name}" if several else key: (
                    f"{panel.short or panel.title}: {panel.quantities[name]}" if several else panel.title,
                    [[(run, *series(log, name))] for run, log in logs.items()],
                )
                for name in logged
            }
        for name, (title, runs) in drawn.items():
            figures[name] = Figure(figsize=SIZE, layout="constrained")
            draw_panel(figures[name].add_subplot(), panel, title, runs)
    return figures


def draw_panel(axes: Axes, panel: Panel, title: str, runs: list[list[Curve]]) -> None:
    """The curves of one run, a colour each, or one curve of each run, a colour and a dash each."""
    drawn = 0
    for number, curves in enumerate(runs):
        for place, (label, steps, values) in enumerate(curves):
            if not steps:
                continue
            colour, line = COLOURS[(place + number) % len(COLOURS)], LINES[number % len(LINES)]
            scaled = [panel.scale * value for value in values]
            marker = "o" if len(steps) <= 20 else None
            axes.plot(steps, scaled, line, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3)
            drawn += 1
    _set_limits(axes, panel)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))  # two points of a short run are not its beginning
    finish(axes, title, "optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if drawn > 1 or len(runs) > 1:
        legend_below(axes)


def _set_limits(axes: Axes, panel: Panel) -> None:
    """From zero where the panel says so, never above what is possible, and no rounding that fills the figure."""
    heights = [float(value) for line in axes.get_lines() for value in np.asarray(line.get_ydata())]
    low, high = min(heights), max(heights)
    bottom, top = axes.get_ylim()
    if high - low < FLAT * abs(low):
        bottom, top = low - FLAT * abs(low), high + FLAT * abs(high)
    if panel.from_zero:
        bottom = min(0.0, low)
    axes.set_ylim(bottom, top if panel.top is None else min(top, panel.top))


def finish(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """The look of every figure: a title on the left, no frame, faint lines behind the data."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def legend_below(axes: Axes, ncols: int = 2, gap: float = 0.24, **look: Any) -> None:
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.02, -gap),
        ncols=ncols,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        **look,
    )


# The report of a run


def draw_report(report: Mapping[str, Any], log: Log) -> Figure:
    """Accuracies of report.json, and the logged loss, spreads and online probe, where there are any."""
    panels = [panel for key, panel in logged_panels(log).items() if key in ("loss", "spread", "probe")]
    figure = Figure(figsize=(13.5, 7), layout="constrained", facecolor="white")
    labels = report["settings"]["labels_per_class"]
    pretrained, scratch = (100 * report["rows"][kind]["fine_tuning"]["accuracy"] for kind in ("student", "untrained"))
    figure.suptitle(
        f"{report['model_type']}: fine-tuned from {labels} labels per class, {pretrained:.1f} % correct from the "
        f"pretrained encoder, {scratch:.1f} % from scratch",
        x=0.012, ha="left", fontsize=13, color=INK,
    )  # fmt: skip
    grid = figure.add_gridspec(max(len(panels), 1), 2 if panels else 1, width_ratios=(1.65, 1) if panels else None)
    _bars(figure.add_subplot(grid[:, 0]), report)
    for row, panel in enumerate(panels):
        draw_panel(figure.add_subplot(grid[row, 1]), panel, panel.title, [curves_of(log, panel)])
    return figure


def _bars(axes: Axes, report: Mapping[str, Any]) -> None:
    """A group of bars a measurement, a bar a row of the table."""
    settings, rows = report["settings"], report["rows"]
    groups = {
        "fine_tuning": f"fine-tuned from\n{settings['labels_per_class']} labels per class",
        "few_labels": f"frozen,\n{settings['labels_per_class']} labels per class",
        "knn": "frozen,\nk-NN",
        "linear_probe": "frozen,\nlinear probe",
    }
    colours = ROW_COLOURS | dict(zip(report["raw"], cycle(RAW_COLOURS), strict=False))
    bars, ticks, left = {}, [], 0.0
    for metric in groups:
        kinds = [kind for kind in rows if metric in rows[kind]]
        for place, kind in enumerate(kinds):
            height, error = (100 * rows[kind][metric].get(key, 0.0) for key in ("accuracy", "std"))
            bars[rows[kind]["name"]] = axes.bar(
                left + place, height, 0.86, yerr=error or None, ecolor=INK, capsize=3, color=colours[kind]
            )
            where: Any = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axes.annotate(
                "100" if height == 100 else f"{height:.1f}",
                (left + place, height + error),
                fontsize=9,
                color=INK,
                **where,
            )
        ticks.append(left + (len(kinds) - 1) / 2)
        left += len(kinds) + 0.9
    chance = axes.axhline(100 * report["commonest_class"], color=INK, linewidth=1, linestyle=":")
    legend = {row["name"]: bars[row["name"]] for row in rows.values()} | {
        "chance: always the most frequent class": chance
    }
    axes.legend(list(legend.values()), list(legend), loc="upper left", ncols=3, frameon=False, fontsize=9.5)
    axes.set_ylim(0, 122)  # room for the legend
    title = f"accuracy in %: {report['test_examples']} test examples, seed {report['seed']}; error bars: std over "
    finish(axes, title + f"{settings['draws']} draws of the labels")
    axes.set_xticks(ticks, list(groups.values()), fontsize=10)
    axes.set_yticks(range(0, 101, 20))


# Layers


def draw_layers(
    axes: Axes, scores: Mapping[str, Mapping[str, Mapping[str, float]]], metric: ProbeMetric = METRICS["accuracy"]
) -> None:
    """Scores over depth; a source that has no layers is a level.

    Args:
        scores: source -> layer (or "raw") -> kind of `KINDS` -> score, 1.0 at best.
    """
    for colour, (source, layers) in zip(COLOURS, scores.items(), strict=False):
        for kind, (called, line) in KINDS.items():
            values = [metric.scale * at[kind] for at in layers.values() if kind in at]
            look: Any = {"color": colour, "linestyle": line, "label": f"{source}, {called}"}
            if values and "raw" in layers:
                axes.axhline(values[0], linewidth=1, **look)
            elif values:
                axes.plot(range(len(values)), values, marker="o", markersize=3.5, **look)
    unit = f", in {metric.unit}" if metric.unit else ""
    finish(axes, f"{metric.called} by layer{unit}", "layer (0: input of the first block)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(*metric.limits(*axes.get_ylim()))
    legend_below(axes, gap=0.2)


def draw_few_labels(axes: Axes, curves: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Accuracy over labels of each class, its error bars over draws.

    Args:
        curves: features -> labels -> {"mean", "std"}, from 0 to 1; labels without a mean are left out.
    """
    for number, (name, curve) in enumerate(curves.items()):
        points = {int(labels): point for labels, point in curve.items() if "mean" in point}
        means, errors = ([100 * point[key] for point in points.values()] for key in ("mean", "std"))
        line: Any = {"color": COLOURS[number % len(COLOURS)], "marker": "o", "markersize": 4, "capsize": 3}
        axes.errorbar(list(points), means, yerr=errors, label=name, **line)
    axes.set_xscale("log")
    labels = sorted({int(number) for curve in curves.values() for number in curve})
    finish(axes, "Accuracy with few labels, in %", "labelled examples of each class")
    axes.set_xticks(labels, [str(number) for number in labels])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    legend_below(axes, gap=0.2)


def layer_name(layer: str) -> str:
    """What a reader calls a layer of a probe."""
    known = {"last": "last hidden state", "average": "average of all layers", "raw": "raw features"}
    return known.get(layer, layer.replace("_", " "))
