"""The pictures of the claim `knows`: for each question the score over the layers, and what training gains."""

from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from knows_probe import best
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pictures import ARM_COLOURS, COLOURS


ACROSS = 4
STYLES = {"data2vec 1": ":", "data2vec 2.0": "-"}
INK = "#333333"
FLOORS = {"without a network": (0, (5, 2)), "nothing known": (0, (1, 2))}  # straight lines
# what each picture shows, said of data/knows.json
SAID = {
    "audio": "Speech: training teaches who speaks, how high and what; layer 0, the front end, knows most of it",
    "images": "Images: colour and position are there untrained; training adds class, rotation and spatial frequency",
    "text": "Letters: data2vec 1 learns where in its word a letter stands; not casing, not the order of words",
}
LOWEST, HIGHEST, SPAN = -10.0, 101.0, 15.0  # of the axis of scores, and the least that it shows
TRAINING = {"untrained": 0, "student at 25 %": 25, "student at 50 %": 50, "student": 100}


def draw_modality(name: str, modality: dict[str, Any], path: Path) -> None:
    questions, systems = modality["questions"], modality["systems"].values()
    across = ACROSS if len(questions) + 1 > 6 else 3
    down = ceil((len(questions) + 1) / across)
    figure = Figure(figsize=(2.75 * across, 2.55 * down + 0.9), layout="constrained")
    panels = list(figure.subplots(down, across).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    for axes, (question, about) in zip(panels, questions.items(), strict=False):
        for system in systems:
            for encoder, colour in COLOURS.items():
                _curve(axes, _tests(system, encoder, question), colour, STYLES[_family(system)])
        floors = (max(about["without"].values()), about["nothing known"])
        for score, style in zip(floors, FLOORS.values(), strict=True):
            axes.axhline(score, color=INK, linewidth=0.8, linestyle=style)
        metric = "R², in %" if about["metric"] == "R2" else "accuracy, in %"
        axes.set_title(f"{question}", loc="left", fontsize=10, fontweight="bold")
        axes.set_ylabel(metric, fontsize=8)
        low, high = axes.get_ylim()
        more = max(SPAN - (high - low), 0) / 2
        axes.set_ylim(max(low - more, LOWEST), min(high + more, HIGHEST))
    for axes in panels[: len(questions)]:
        axes.set_xlabel("layer", fontsize=8)
    gains = {_family(system): {name: gained(system, name) for name in questions} for system in systems}
    most = max(gains, key=lambda family: sum(of[-1] for of in gains[family].values()))
    _training(panels[len(questions)], most, gains[most])
    for axes in panels[len(questions) + 1 :]:
        axes.set_visible(False)
    figure.suptitle(fill(SAID[name], 24 * across), x=0.01, ha="left", fontsize=13, fontweight="bold")
    lines = [Line2D([], [], color=colour, label=encoder) for encoder, colour in COLOURS.items()]
    lines += [Line2D([], [], color=INK, linestyle=style, label=family) for family, style in STYLES.items()]
    lines += [Line2D([], [], color=INK, linewidth=0.8, linestyle=style, label=said) for said, style in FLOORS.items()]
    figure.legend(
        handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=8, columnspacing=1.2
    )
    figure.savefig(path, dpi=110)


def _family(system: dict[str, Any]) -> str:
    return str(system["title"].split(", ")[0])


def _tests(system: dict[str, Any], encoder: str, question: str) -> np.ndarray:
    """(seeds, layers)"""
    return np.array([seed["encoders"][encoder][question]["test"] for seed in system["seeds"]])


def _curve(axes: Axes, scores: np.ndarray, colour: str, style: str) -> None:
    layers = np.arange(scores.shape[1])
    axes.plot(layers, scores.mean(0), style, color=colour, linewidth=1.6, marker="o", markersize=3)
    axes.fill_between(layers, scores.min(0), scores.max(0), color=colour, alpha=0.12, linewidth=0)
    axes.set_xticks(layers)


def gained(system: dict[str, Any], question: str) -> np.ndarray:
    """Points of the student above the untrained network, at the best layer of each, in the order of `TRAINING`."""
    of_encoders = [[best(seed["encoders"][encoder][question])[1] for seed in system["seeds"]] for encoder in TRAINING]
    scores = np.mean(of_encoders, axis=1)
    return scores - scores[0]


def _training(axes: Axes, family: str, gains: dict[str, np.ndarray]) -> None:
    """The gains of the family whose student gains most, over its training."""
    ends = []
    for (question, of_question), colour in zip(gains.items(), ARM_COLOURS[1:], strict=False):
        axes.plot(list(TRAINING.values()), of_question, color=colour, linewidth=1.6, marker="o", markersize=3)
        ends.append((float(of_question[-1]), question, colour))
    low, high = axes.get_ylim()
    apart, at = (high - low) / 14, -np.inf
    for gain, question, colour in sorted(ends):
        at = max(gain, at + apart)
        axes.text(104, at, question, color=colour, fontsize=7.5, va="center")
    axes.set_xlim(-4, 175)
    axes.set_xticks([0, 50, 100])
    axes.set_title(f"training, {family}", loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("updates, in %", fontsize=8)
    axes.set_ylabel("points above untrained", fontsize=8)
