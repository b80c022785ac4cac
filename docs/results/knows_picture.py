"""The pictures of the claim `knows`: for each question the score over the layers, and what training gains."""

from collections.abc import Sequence
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
NO_NETWORK = (0, (1, 3))
# what each picture shows, said of data/knows.json
SAID = {
    "audio": "What each layer knows of speech",
    "images": "What each layer knows of images",
    "text": "What each layer knows of letters",
}
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
        for score in (max(about["without"].values()), about["nothing known"]):
            axes.axhline(score, color=INK, linewidth=0.9, linestyle=NO_NETWORK)
        metric = "R², in %" if about["metric"] == "R2" else "accuracy, in %"
        axes.set_title(f"{question}", loc="left", fontsize=10, fontweight="bold")
        axes.set_ylabel(metric, fontsize=8)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -10.0), min(high, 101.0))
    for axes in panels[: len(questions)]:
        axes.set_xlabel("layer", fontsize=8)
    _gains(panels[len(questions)], questions, list(systems)[-1])
    for axes in panels[len(questions) + 1 :]:
        axes.set_visible(False)
    figure.suptitle(fill(SAID[name], 100), x=0.01, ha="left", fontsize=13, fontweight="bold")
    lines = [Line2D([], [], color=colour, label=encoder) for encoder, colour in COLOURS.items()]
    lines += [Line2D([], [], color=INK, linestyle=style, label=family) for family, style in STYLES.items()]
    lines.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=NO_NETWORK, label="no network, nothing known"))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=8.5)
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


def _gains(axes: Axes, questions: Sequence[str], system: dict[str, Any]) -> None:
    """Of the student of a system, at each question's best layer: points above the untrained network."""
    ends = []
    for question, colour in zip(questions, ARM_COLOURS[1:], strict=False):
        scores = [
            np.mean([best(seed["encoders"][encoder][question])[1] for seed in system["seeds"]]) for encoder in TRAINING
        ]
        gains = np.subtract(scores, scores[0])
        axes.plot(list(TRAINING.values()), gains, color=colour, linewidth=1.6, marker="o", markersize=3)
        ends.append((float(gains[-1]), question, colour))
    low, high = axes.get_ylim()
    apart, at = (high - low) / 14, -np.inf
    for gain, question, colour in sorted(ends):
        at = max(gain, at + apart)
        axes.text(104, at, question, color=colour, fontsize=7.5, va="center")
    axes.set_xlim(-4, 175)
    axes.set_xticks([0, 50, 100])
    axes.set_title(f"training, {_family(system)}", loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("updates, in %", fontsize=8)
    axes.set_ylabel("points above untrained", fontsize=8)
