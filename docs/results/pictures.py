"""The picture of a claim, from its data file alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from comparisons import BEST, MEASURES, TOKENS, comparisons, last
from matplotlib.axes import Axes
from matplotlib.figure import Figure


COLOURS = {"student": "#1f5fa8", "teacher": "#d9822b", "untrained": "#9a9a9a"}
ARM_COLOURS = ("#9a9a9a", "#1f5fa8", "#d9822b", "#3a8f5c", "#a8429a", "#7a6a4f", "#c9b037", "#4fb0c6")
HEALTH_NAMES = {
    "target_std": "spread of targets",
    "position_std": "spread across samples",
    "effective_rank": "effective rank of targets",
    "prediction_std": "spread of predictions",
    "loss": "loss",
}


def draw(found: dict[str, Any], picture: dict[str, Any], path: Path) -> None:
    """Draw a data file.

    Args:
        picture: `kind`, one of
            `arms`    an accuracy (`measure`) over the arms, a panel for each system;
            `layers`  an accuracy over the depth, a panel for each system;
            `clock`   the online probe over the training time, a panel for each data set, a line for each arm;
            `health`  what was logged (`columns`) over the updates, a row of panels for each system, a line for an arm.
    """
    figure = DRAWN[picture["kind"]](found, picture)
    figure.savefig(path, dpi=110)


def _arms(found: dict[str, Any], picture: dict[str, Any]) -> Figure:
    measure = picture.get("measure", "knn")
    figure, panels = _panels(len(found["systems"]))
    for axes, system in zip(panels, found["systems"].values(), strict=True):
        arms = system["arms"]
        for encoder, colour in COLOURS.items():
            rows = [_values(runs, encoder, measure) for runs in arms.values()]
            if any(rows):
                _band(axes, range(len(arms)), rows, colour, encoder, "--" if encoder == "untrained" else "o-")
        axes.set_xticks(range(len(arms)), list(arms), rotation=20 if max(map(len, arms)) > 6 else 0, ha="center")
        axes.set_title(system["title"], loc="left", fontsize=10)
        axes.set_xlabel(picture.get("x", ""))
    panels[0].set_ylabel(f"{(MEASURES | TOKENS).get(measure, BEST)}, in %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _layers(found: dict[str, Any], picture: dict[str, Any]) -> Figure:
    measure = picture.get("measure", "linear")
    figure, panels = _panels(len(found["systems"]))
    for axes, system in zip(panels, found["systems"].values(), strict=True):
        (runs,) = system["arms"].values()
        for encoder, colour in COLOURS.items():
            table = np.array([seed[encoder][measure] for seed in runs["seeds"]])  # (seeds, layers)
            _band(axes, range(table.shape[1]), list(table.T), colour, encoder, "o-")
            axes.set_xticks(range(table.shape[1]))
        for scores in system["raw"].values():
            axes.axhline(scores[measure], color="#bbbbbb", linewidth=0.8, linestyle=":")
        axes.set_title(system["title"], loc="left", fontsize=10)
        axes.set_xlabel("layer (0: embedding)")
    for axes in panels:
        axes.set_ylabel(f"{(MEASURES | TOKENS).get(measure, BEST)}, in %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _clock(found: dict[str, Any], _: dict[str, Any]) -> Figure:
    lines: dict[str, list[tuple[str, dict[str, Any]]]] = {}  # of each data set
    for system in found["systems"].values():
        family, data = system["title"].split(", ")
        for arm, runs in system["arms"].items():
            lines.setdefault(data, []).append((family if arm == "as it is" else f"{family}, {arm}", runs))
    figure, panels = _panels(len(lines))
    for axes, (data, of_data) in zip(panels, lines.items(), strict=True):
        for (label, runs), colour in zip(of_data, ARM_COLOURS, strict=False):
            seconds, knn = (
                np.array([seed["probe"][name] for seed in runs["seeds"]]) for name in ("seconds", "student")
            )  # (seeds, probes)
            _band(axes, seconds.mean(0), list(knn.T), colour, label, "o-")
        axes.set_title(data, loc="left", fontsize=10)
        axes.set_xlabel("training time in s, one CPU thread")
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    panels[0].set_ylabel("k-NN of the student, in %")
    return figure


def _health(found: dict[str, Any], picture: dict[str, Any]) -> Figure:
    columns = picture["columns"]
    systems = found["systems"]
    figure = Figure(figsize=(4.2 * len(columns), 3.2 * len(systems)), layout="constrained")
    grid = figure.subplots(len(systems), len(columns), squeeze=False)
    for row, system in zip(grid, systems.values(), strict=True):
        for axes, column in zip(row, columns, strict=True):
            for (arm, runs), colour in zip(system["arms"].items(), ARM_COLOURS, strict=False):
                for seed in runs["seeds"]:
                    label = arm if seed is runs["seeds"][0] else None
                    axes.plot(seed["health"]["step"], seed["health"][column], color=colour, label=label, linewidth=1.2)
            data = system["title"].split(", ")[-1]
            axes.set_title(f"{data}: {HEALTH_NAMES[column]}", loc="left", fontsize=9)
            axes.set_xlabel("update")
            axes.grid(alpha=0.3)
        row[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


DRAWN = {"arms": _arms, "layers": _layers, "clock": _clock, "health": _health}


def draw_effects(claims: Mapping[str, dict[str, Any]], path: Path) -> None:
    """A line for every comparison of every claim that is in points: its effect, with the interval; blue: decided."""
    figure = Figure(figsize=(9, 10), layout="constrained")
    axes = figure.subplots()
    ticks, row = {}, 0
    for found, rows in ((found, comparisons(name, found)) for name, found in claims.items()):
        shown = [comparison for comparison in rows if not comparison.unit]
        for comparison in shown:
            colour = COLOURS["student"] if comparison.decided else COLOURS["untrained"]
            mean, *interval = comparison.effect
            axes.plot(interval, [row] * len(interval), color=colour, linewidth=1.5)
            axes.plot(mean, row, "o", color=colour, markersize=5)
            row += 1
        if shown:
            ticks[row - (len(shown) + 1) / 2] = "\n".join(wrap(found["claim"], 52))
            axes.axhline(row, color="#dddddd", linewidth=0.7)
            row += 1
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(-30, 45)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_ylim(row, -1)
    figure.supxlabel(
        "effect in points, and its 95 % interval over seeds; blue: decided; right of 0: as the papers say", fontsize=9
    )
    figure.savefig(path, dpi=90)


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    across = min(number, 3)
    down = -(-number // across)
    figure = Figure(figsize=(4.2 * across, 3.4 * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in panels[number:]:
        axes.set_visible(False)
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure, panels[:number]


def _values(runs: dict[str, Any], encoder: str, measure: str) -> list[float]:
    return [last(seed[encoder][measure]) for seed in runs["seeds"] if encoder in seed]


def _band(axes: Axes, x: Any, rows: Sequence[Sequence[float]], colour: str, label: str, style: str) -> None:
    """Mean and range of the seeds, `rows[i]` at `x[i]`."""
    table = [np.asarray(row) for row in rows]
    axes.plot(x, [row.mean() for row in table], style, color=colour, label=label, markersize=4)
    lowest, highest = [row.min() for row in table], [row.max() for row in table]
    axes.fill_between(x, lowest, highest, color=colour, alpha=0.18, linewidth=0)
