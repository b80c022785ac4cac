"""The report as a picture: accuracies on the left, the run's curves on the right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil, isfinite
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator


INK, PALE, GREEN, RED = "#222222", "#d9d9d9", "#2a9d6f", "#c2452d"
COLOURS = {"student": "#1f5fa8", "teacher": "#7fb2e5", "untrained": "#9a9a9a"}
RAW_COLOURS = ("#e08a1e", "#f2c078")


@dataclass(frozen=True)
class Panel:
    """Curves of the log that share their axes."""

    title: str
    curves: dict[str, tuple[str | None, str, str]]  # log key -> (label, colour, line)
    scale: float = 1.0
    from_zero: bool = True


PANELS = (
    Panel("loss", {"loss": (None, INK, "-")}),
    Panel(
        "spread (near zero: collapsed)",
        {
            "target_std": ("targets", COLOURS["student"], "-"),
            "prediction_std": ("predictions", GREEN, "-"),
            "position_std": ("targets, across samples", RED, "-"),
        },
    ),
    Panel(
        "online probe, accuracy in %",
        {
            "probe/knn_student": ("k-NN, student", COLOURS["student"], "-"),
            "probe/knn_teacher": ("k-NN, teacher", COLOURS["teacher"], "-"),
            "probe/linear_student": ("linear probe, student", COLOURS["student"], "--"),
            "probe/linear_teacher": ("linear probe, teacher", COLOURS["teacher"], "--"),
        },
        scale=100.0,
        from_zero=False,
    ),
)


def draw_report(results: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """A figure of `report.json`'s accuracies and of the logged loss, spreads and online probe, where there are any."""
    panels = [panel for panel in PANELS if any(_series(log_history, name)[0] for name in panel.curves)]
    figure = Figure(figsize=(13.5, 6.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08), facecolor="white")
    rows, labels = results["rows"], results["settings"]["labels_per_class"]
    pretrained, scratch = (100 * rows[kind]["fine_tuning"]["accuracy"] for kind in ("student", "untrained"))
    figure.suptitle(
        f"{results['model_type']}: fine-tuned from {labels} labels a class, {pretrained:.1f} % correct from the "
        f"pretrained encoder, {scratch:.1f} % from scratch",
        x=0.012,
        ha="left",
        fontsize=13,
        color=INK,
    )
    grid = figure.add_gridspec(max(len(panels), 1), 2 if panels else 1, width_ratios=(1.65, 1) if panels else None)
    _bars(figure.add_subplot(grid[:, 0]), results)
    shared: Axes | None = None
    for row, panel in enumerate(panels):
        axes = figure.add_subplot(grid[row, 1], sharex=shared)
        shared = shared or axes
        _curves(axes, panel, log_history)
        axes.tick_params(labelbottom=row == len(panels) - 1)
    if panels:
        axes.set_xlabel("optimizer steps")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _bars(axes: Axes, results: Mapping[str, Any]) -> None:
    """A group of bars a measurement, a bar a row of the table."""
    settings, rows = results["settings"], results["rows"]
    groups = {
        "fine_tuning": f"fine-tuned from\n{settings['labels_per_class']} labels a class",
        "few_labels": f"frozen,\n{settings['labels_per_class']} labels a class",
        "knn": "frozen,\nk-NN",
        "linear_probe": "frozen,\nlinear probe",
    }
    colours = COLOURS | dict(zip(results["raw"], cycle(RAW_COLOURS), strict=False))
    legend = {}
    left, ticks = 0.0, []
    for metric in groups:
        kinds = [kind for kind in rows if metric in rows[kind]]
        for place, kind in enumerate(kinds):
            value = rows[kind][metric]
            height, error = 100 * value["accuracy"], 100 * value.get("std", 0.0)
            legend[rows[kind]["name"]] = axes.bar(left + place, height, 0.86, color=colours[kind])
            if error:
                axes.errorbar(left + place, height, error, color=INK, linewidth=1, capsize=3)
            axes.annotate(
                "100" if height == 100 else f"{height:.1f}",
                (left + place, height + error),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=9,
                color=INK,
            )
        ticks.append(left + (len(kinds) - 1) / 2)
        left += len(kinds) + 0.9
    chance = axes.axhline(100 * results["commonest_class"], color=INK, linewidth=1, linestyle=":")
    in_order = {row["name"]: legend[row["name"]] for row in rows.values()} | {"always the commonest class": chance}
    axes.legend(list(in_order.values()), list(in_order), loc="upper left", ncols=3, frameon=False, fontsize=9.5)
    axes.set_xticks(ticks, list(groups.values()), fontsize=10)
    axes.set_xlim(-0.8, left - 1.1)
    axes.set_ylim(0, 122)  # room for the legend
    axes.set_yticks(range(0, 101, 20))
    title = f"accuracy in %: {results['test_examples']} test examples, seed {results['seed']}; error bars: std over "
    axes.set_title(title + f"{settings['draws']} draws of the labels", loc="left", fontsize=11)
    _plain(axes)


def _curves(axes: Axes, panel: Panel, log_history: Sequence[Mapping[str, Any]]) -> None:
    for name, (label, colour, line) in panel.curves.items():
        steps, values = _series(log_history, name)
        if steps:
            scaled = [panel.scale * value for value in values]
            marker = "o" if len(steps) <= 30 else None
            axes.plot(steps, scaled, line, color=colour, label=label, linewidth=1.5, marker=marker, markersize=3)
    axes.set_title(panel.title, loc="left", fontsize=11)
    bottom, top = (0.0 if panel.from_zero else axes.get_ylim()[0]), axes.get_ylim()[1]
    entries = len(axes.get_legend_handles_labels()[1])
    columns = 2 if entries == 4 else 3
    axes.set_ylim(bottom, top + 0.25 * ceil(entries / columns) * (top - bottom))  # room for the legend
    if entries:
        axes.legend(loc="upper left", ncols=columns, frameon=False, fontsize=9, columnspacing=1.2, handlelength=1.4)
    _plain(axes)


def _series(log_history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a quantity where it was logged."""
    logged = [(log["step"], log[name]) for log in log_history if name in log and isfinite(log[name])]
    return [step for step, _ in logged], [value for _, value in logged]


def _plain(axes: Axes) -> None:
    """No frame, faint lines behind the data."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(length=0, colors=INK)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
