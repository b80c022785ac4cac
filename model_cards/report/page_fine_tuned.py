"""What a fine-tuned model gets right: from its predictions, by class, by utterance or by value.

The examples themselves stay in `predictions/`: a report is published with its model, they are not.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer

from ...pretraining.evaluation.plots import COLOURS, INK, finish
from ..folder import Folder
from .figures import Group, ReportFigure, figure
from .page import Column, Section, Table


Row = Mapping[str, Any]
PREDICTIONS = "predictions"
MOST_IN_PICTURE = 40  # classes
MOST_WITH_NUMBERS = 12
MOST_IN_TABLE = 60
NONE = "–"


def predictions(folders: Mapping[str, Folder]) -> Section:
    """The section for runs of fine-tuning; one of pretraining beside them has none of its own."""
    columns = []
    for number, (name, folder) in enumerate(folders.items(), 1):
        several = len(folders) > 1
        column = _column(folder, f"run{number}_" if several else "")
        columns.append(replace(column, run=name if several else ""))
    intro = "Counted from the run's predictions for the test split, which was not used to choose anything."
    return Section("predictions", "Right and wrong", intro, columns)


def _column(folder: Folder, prefix: str) -> Column:
    if folder.pretrains:
        return Column(absent="A run of pretraining predicts no labels.")
    split = ((folder.results or {}).get("main") or {}).get("split", "test")
    path = folder.path / PREDICTIONS / f"{split}.jsonl"
    if not path.is_file():
        return Column(absent=f"There is no {PREDICTIONS}/{split}.jsonl: a finished run of fine-tuning writes it.")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    if not rows or rows[0].get("label") is None:
        return Column(absent=f"{PREDICTIONS}/{split}.jsonl holds no labels to compare with.")
    shown = _shown(rows, prefix, split)
    where = f"The worst mistakes are listed in {PREDICTIONS}/{split}_errors.md in the run's folder."
    return Column(words=[*shown.words, where], groups=shown.groups, tables=shown.tables)


def _shown(rows: Sequence[Row], prefix: str, split: str) -> Column:
    if "wer" in rows[0]:
        return _utterances(rows, prefix, split)
    if isinstance(rows[0]["label"], list):
        return _labels(rows, split)
    if isinstance(rows[0]["prediction"], int | float):
        return _values(rows, prefix, split)
    return _classes(rows, prefix, split)


def _classes(rows: Sequence[Row], prefix: str, split: str) -> Column:
    """One class per example: a table of classes and the confusion matrix."""
    pairs = Counter((str(row["label"]), str(row["prediction"])) for row in rows)
    names = sorted({name for pair in pairs for name in pair}, key=_natural)
    counts = np.array([[pairs[label, said] for said in names] for label in names])  # (labels, predictions)
    given, right = counts.sum(1), counts.diagonal()
    chance = f"{_percent(given.max() / given.sum())} % by always answering {names[given.argmax()]}"
    words = [
        f"{right.sum():,} of {given.sum():,} examples of {split} were classified correctly: "
        f"{_percent(right.sum() / given.sum())} %, against {chance}."
    ]
    lines = []
    for i in np.argsort(right / np.maximum(given, 1), kind="stable")[:MOST_IN_TABLE]:
        wrong = counts[i].copy()
        wrong[i] = 0
        taken = f"{names[wrong.argmax()]} ({wrong.max():,})" if wrong.any() else NONE
        share = f"{100 * right[i] / given[i]:.1f}" if given[i] else NONE
        lines.append([names[i], f"{given[i]:,}", share, taken])
    caption = "By class, the hardest first" + (f", {MOST_IN_TABLE} of {len(names)}" * (len(names) > MOST_IN_TABLE))
    table = Table(caption, ["class", "examples", "correct, %", "most often mistaken for"], lines)
    groups = [Group("", [_confusion(counts, names, prefix)])] if len(names) <= MOST_IN_PICTURE else []
    return Column(words=words, groups=groups, tables=[table])


def _confusion(counts: np.ndarray, names: Sequence[str], prefix: str) -> ReportFigure:
    side = min(max(3.2, 0.42 * len(names) + 1.2), 8.5)
    drawn = Figure(figsize=(side + 0.3, side), layout="constrained")
    axes = drawn.add_subplot()
    finish(axes, "Share of each class, in %")
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    short = [name if len(name) <= 16 else f"{name[:15]}…" for name in names]
    numbers = len(names) <= MOST_WITH_NUMBERS
    look: Any = {"cmap": "Blues", "colorbar": False, "im_kw": {"vmin": 0, "vmax": 100}, "values_format": ".0f"}
    matrix = ConfusionMatrixDisplay(shares, display_labels=short)
    matrix.plot(ax=axes, include_values=numbers, text_kw={"fontsize": 8}, xticks_rotation=90, **look)
    axes.set(xlabel="predicted", ylabel="class")
    axes.tick_params(labelsize=8.5 if numbers else 6.5)
    axes.grid(visible=False)
    caption = "A row is a class; its dark cells are the predictions for its examples. The diagonal is correct."
    alt = "Confusion matrix: classes by predicted class."
    return figure(f"{prefix}confusion", drawn, caption, alt, wide=len(names) > 6)


def _labels(rows: Sequence[Row], split: str) -> Column:
    """Several labels per example: how often each occurs, is found, and is predicted wrongly."""
    given, said = ([set(row[key]) for row in rows] for key in ("label", "prediction"))
    binary = MultiLabelBinarizer().fit([*given, *said])
    right, found, _, there = precision_recall_fscore_support(
        binary.transform(given), binary.transform(said), zero_division=np.nan
    )
    lines = [
        [str(binary.classes_[i]), f"{there[i]:,}", _percent(found[i]), _percent(right[i])]
        for i in np.argsort(np.nan_to_num(found), kind="stable")[:MOST_IN_TABLE]
    ]
    table = Table("By label, the hardest first", ["label", "examples", "recall, %", "precision, %"], lines)
    exact = sum(a == b for a, b in zip(given, said, strict=True))
    words = [f"{exact:,} of {len(rows):,} examples of {split} got exactly their labels, at a threshold of one half."]
    return Column(words=words, tables=[table])


def _percent(share: float) -> str:
    return NONE if np.isnan(share) else f"{100 * share:.1f}"


def _utterances(rows: Sequence[Row], prefix: str, split: str) -> Column:
    """Transcripts: how many are free of errors, and how the errors are spread."""
    rates = np.array([100 * row["wer"] for row in rows])
    words = [f"{int((rates == 0).sum()):,} of {len(rows):,} utterances of {split} were transcribed without an error."]
    drawn = Figure(figsize=(4.6, 2.8), layout="constrained")
    axes = drawn.add_subplot()
    axes.hist(np.minimum(rates, 100), bins=np.linspace(0, 100, 11).tolist(), color=COLOURS[0], rwidth=0.92)
    finish(axes, "Utterances by word error rate", "word error rate of the utterance, in % (100: and above)")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    alt = "Histogram of utterances over their word error rate."
    return Column(words=words, groups=[Group("", [figure(f"{prefix}errors", drawn, "A bar is a tenth.", alt)])])


def _values(rows: Sequence[Row], prefix: str, split: str) -> Column:
    """A number per example: predictions over labels."""
    given, said = (np.array([float(row[key]) for row in rows]) for key in ("label", "prediction"))
    drawn = Figure(figsize=(4.2, 4.0), layout="constrained")
    axes = drawn.add_subplot()
    axes.scatter(given, said, s=9, alpha=0.5, color=COLOURS[0], linewidths=0)
    ends = [min(given.min(), said.min()), max(given.max(), said.max())]
    axes.plot(ends, ends, "--", color=INK, linewidth=0.8)
    finish(axes, "Predictions over labels", "label", "prediction")
    words = [f"The mean distance from the label is {np.abs(given - said).mean():.3g}, over {len(rows):,} of {split}."]
    shown = figure(f"{prefix}values", drawn, "On the line, a prediction is right.", "Predictions over labels.")
    return Column(words=words, groups=[Group("", [shown])])


def _natural(name: str) -> tuple[float, str]:
    """Numbers by their size, before words."""
    return (float(name), "") if name.lstrip("-").isdigit() else (float("inf"), name)
