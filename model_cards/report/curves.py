"""A run's curves, drawn from the `Trainer`'s log: one small figure a panel, or all panels in one picture.

    draw_curves({"run": log})              {"loss": Figure, "spread": Figure, ...}, of what was logged
    draw_curves({"one": log, "two": log})  the runs overlaid, a figure a quantity
    draw_sheet(log)                        one Figure, for a model card

SVG of these figures takes the colour of the text around it, so that it reads on a light and on a dark page.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..folder import Log


# Ink and grid become the page's colours in an SVG; the others have a contrast of 3:1 or more on white and on black.
INK, GRID = "#1f2328", "#d4d7dc"
COLOURS = ("#2f74c0", "#d1600f", "#1a8a5a", "#9b59b6", "#c43c5e", "#7d7f1c")
LINES = ("-", "--")
FLAT = 0.01  # a curve that moves less, as a share of itself, is drawn flat
LARGER = 1.3  # a figure grows on a page by this at most, or its letters look loud
SIZE = (4.3, 2.6)  # inches; shown at this size on a phone


@dataclass(frozen=True)
class Panel:
    """Quantities of the log that share their axes."""

    title: str
    quantities: dict[str, str]  # log key -> what a reader calls it
    means: str  # in a sentence or two
    short: str = ""  # title before a quantity's name, where each has a figure of its own
    scale: float = 1.0
    from_zero: bool = False
    top: float | None = None  # no value can be above it


PANELS = {
    "loss": Panel(
        "Loss",
        {"loss": "training", "eval_loss": "held-out"},
        "Falls, fast at first. A sudden drop to near 0 is a collapse, not success.",
        from_zero=True,
    ),
    "spread": Panel(
        "Spread of targets and predictions",
        {
            "target_std": "targets",
            "prediction_std": "predictions",
            "position_std": "targets, across samples",
        },
        "Targets stay well above 0.1, predictions rise towards them. If the spread across samples is a small share of "
        "that of the targets, these say where a token is, not what it is.",
        short="Spread",
        from_zero=True,
    ),
    "effective_rank": Panel(
        "Effective rank of the targets",
        {"effective_rank": "directions in use"},
        "How many directions the targets use, of the model's width. It must not fall towards 1.",
        from_zero=True,
    ),
    "probe": Panel(
        "Online probe, accuracy in %",
        {
            "probe/knn_student": "k-NN, student",
            "probe/knn_teacher": "k-NN, teacher",
            "probe/linear_student": "linear, student",
            "probe/linear_teacher": "linear, teacher",
        },
        "A classifier on the frozen features of labelled examples. It rises; where it falls while the loss improves, "
        "the loss has found a short cut.",
        short="Probe, %",
        scale=100.0,
    ),
    "evaluation": Panel(
        "Evaluation, in %",
        {
            "eval_accuracy": "accuracy",
            "eval_f1": "F1",
            "eval_mAP": "mean average precision",
            "eval_wer": "word error rate",
            "eval_cer": "character error rate",
        },
        "Measured on the validation examples.",
        short="Evaluation, %",
        scale=100.0,
    ),
    "grad_norm": Panel(
        "Gradient norm before clipping",
        {"grad_norm": "norm"},
        "Spikes that go away are ordinary; a level that keeps rising ends in divergence.",
        from_zero=True,
    ),
    "learning_rate": Panel(
        "Learning rate", {"learning_rate": "rate"}, "Warm-up and decay, as the recipe says.", from_zero=True
    ),
    "ema_decay": Panel(
        "Decay of the teacher",
        {"ema_decay": "decay"},
        "The share of itself that the teacher keeps at each update: rises, then stays.",
        top=1.0,
    ),
    "throughput": Panel(
        "Throughput",
        {"samples_per_second": "samples a second"},
        "Of all devices together. A slow decline points at data loading.",
        from_zero=True,
    ),
    "masked_fraction": Panel(
        "Share of the input hidden, in %",
        {"masked_fraction": "hidden"},
        "What the student does not see. It stays where the recipe puts it.",
        scale=100.0,
        from_zero=True,
        top=100.0,
    ),
}


def draw_curves(logs: Mapping[str, Log]) -> dict[str, Figure]:
    """A figure of each panel that was logged; of several runs, one of each quantity, with a line a run.

    Args:
        logs: run name -> `log_history` of its trainer_state.json.

    Returns:
        by the key of `PANELS`, or `PANEL.QUANTITY` where there are several runs and a panel has several quantities.
    """
    figures = {}
    for key, panel in PANELS.items():
        logged = [name for name in panel.quantities if any(_series(log, name)[0] for log in logs.values())]
        if not logged:
            continue
        if len(logs) == 1:
            figures[key] = _figure(panel, panel.title, [_curves_of_run(next(iter(logs.values())), panel)])
            continue
        for name in logged:
            several = len(logged) > 1
            title = f"{panel.short or panel.title}: {panel.quantities[name]}" if several else panel.title
            curves = [[(run, *_series(log, name))] for run, log in logs.items()]
            figures[f"{key}.{name}" if several else key] = _figure(panel, title, curves)
    return figures


def draw_sheet(log: Log, keys: Sequence[str] | None = None, columns: int = 2) -> Figure | None:
    """All panels of one run that were logged, or those of `keys`, in one picture; `None` where nothing was."""
    chosen = [key for key in keys or PANELS if any(_series(log, name)[0] for name in PANELS[key].quantities)]
    if not chosen:
        return None
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows), layout="constrained", facecolor="white")
    for place, key in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        _draw(axes, PANELS[key], PANELS[key].title, [_curves_of_run(log, PANELS[key])])
    return figure


Curve = tuple[str, list[int], list[float]]  # label, steps, values


def _curves_of_run(log: Log, panel: Panel) -> list[Curve]:
    return [(label, *_series(log, name)) for name, label in panel.quantities.items()]


def _figure(panel: Panel, title: str, runs: list[list[Curve]]) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    _draw(figure.add_subplot(), panel, title, runs)
    return figure


def _draw(axes: Axes, panel: Panel, title: str, runs: list[list[Curve]]) -> None:
    """The curves of one run, a colour each, or one curve of each run, a colour and a dash each."""
    drawn = 0
    for number, curves in enumerate(runs):
        for place, (label, steps, values) in enumerate(curves):
            if not steps:
                continue
            colour, line = COLOURS[place + number], LINES[number % len(LINES)]
            scaled = [panel.scale * value for value in values]
            marker = "o" if len(steps) <= 20 else None
            axes.plot(steps, scaled, line, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3)
            drawn += 1
    _set_limits(axes, panel)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))  # two points of a short run are not its beginning
    finish(axes, title)
    axes.set_xlabel("optimizer steps", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if drawn > 1 or len(runs) > 1:
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.24), ncols=2, frameon=False, fontsize=8.5, labelcolor=INK
        )


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


def finish(axes: Axes, title: str) -> None:
    """The look of every figure: a title on the left, no frame, faint lines behind the data."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _series(log: Log, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a quantity where it was logged and finite."""
    logged = [(entry["step"], float(entry[name])) for entry in log if "step" in entry and _is_number(entry.get(name))]
    return [step for step, _ in logged], [value for _, value in logged]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


# ---- to a page ----


def svg_of(figure: Figure, label: str, salt: str) -> str:
    """The figure as an `<svg>` element to stand inside a page: scalable, with text as text, in the page's ink.

    Args:
        label: what it shows, for those who do not see it.
        salt: makes the names inside differ from those of the page's other figures.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # groups that nothing refers to, alike in every figure
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    widest = round(figure.get_figwidth() * 96 * LARGER)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    quoted = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{quoted}" style="max-width: {widest}px"', 1).strip()


def png_of(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()
