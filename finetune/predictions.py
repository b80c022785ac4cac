"""What a run leaves in `predictions/`: a line per example, and pictures of what goes wrong.

    SPLIT.jsonl                 {"id", "input", "label", "prediction", "scores", "error", ...}, one line per example
    SPLIT_confusion.csv, .png   how often each class is taken for each other one
    SPLIT_errors.md             the examples with the largest `error`

`id` is the row's number in its source, `input` its file name or text, `scores` the probability of the likeliest
classes, and `error` what the example adds to the loss or to the error rate: 0 or small is good.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from ..pretraining.evaluation.report_text import markdown_table
from .examples import Examples
from .task import softmax


Row = Mapping[str, Any]
MOST_ERRORS = 50
MOST_CHARACTERS = 200  # of a cell
MOST_CLASSES_IN_PICTURE = 100
SCORES_KEPT = 5


def classification_rows(
    logits: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    examples: Examples,
    describe: Callable[[Row], str],
) -> list[dict[str, Any]]:
    """The rows of a task with one class per example.

    Args:
        logits, labels: `(examples, classes)` and `(examples,)`, as `Trainer.predict` returns them.
        names: of the classes.
        describe: a source's row -> what its `input` is called.
    """
    chances = softmax(logits)  # (examples, classes)
    rows = []
    for i, (chance, label) in enumerate(zip(chances, labels.astype(int), strict=True)):
        order = np.argsort(-chance, kind="stable")
        rows.append(
            {
                "id": int(examples.kept[i]),
                "input": describe(examples.row(i)),
                "label": names[label],
                "prediction": names[order[0]],
                "scores": {names[j]: round(float(chance[j]), 6) for j in order[:SCORES_KEPT]},
                "error": round(float(-np.log(max(chance[label], 1e-12))), 6),
            }
        )
    return rows


def write_rows(folder: Path, split: str, rows: Sequence[Row]) -> None:
    """`SPLIT.jsonl` and `SPLIT_errors.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (folder / f"{split}_errors.md").write_text(_errors(split, rows), encoding="utf-8")


def write_confusion(folder: Path, split: str, rows: Sequence[Row], names: Sequence[str]) -> None:
    """`SPLIT_confusion.csv` and, for a readable number of classes, `.png`: rows are labels, columns predictions."""
    from matplotlib.figure import Figure

    from ..pretraining.evaluation.plots import png_of

    labels, predicted = ([row[key] for row in rows] for key in ("label", "prediction"))
    counts = confusion_matrix(labels, predicted, labels=list(names))  # (labels, predictions)
    with (folder / f"{split}_confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label \\ prediction", *names])
        writer.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
    if len(names) > MOST_CLASSES_IN_PICTURE:
        return
    side = max(4.0, 0.35 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="label", title=f"{split}: share of each label")
    figure.colorbar(picture)
    (folder / f"{split}_confusion.png").write_bytes(png_of(figure, dpi=100))


def _errors(split: str, rows: Sequence[Row]) -> str:
    """A table of the worst examples."""
    worst = sorted(rows, key=lambda row: -row["error"])[:MOST_ERRORS]
    columns = ("id", "input", "label", "prediction")
    cells = [[*(_short(row[column]) for column in columns), f"{row['error']:.3f}"] for row in worst]
    title = f"# {split}: the {len(worst)} examples with the largest error, of {len(rows)}"
    return f"{title}\n\n{markdown_table([*columns, 'error'], cells, padded=False)}\n"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
