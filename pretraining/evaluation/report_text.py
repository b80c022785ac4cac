"""The report in words: `report.json` -> markdown that also reads well in a terminal."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..modalities.build import modality_of


# log key -> what a reader calls it
MOST_NAMED = 20  # classes
HEALTH = {
    "loss": "loss",
    "target_std": "spread of targets",
    "prediction_std": "spread of predictions",
    "position_std": "spread of targets across samples",
    "effective_rank": "effective rank of targets",
    "prediction_rank": "effective rank of predictions",
    "embedding_share": "share of the embeddings that varies",
    "embedding_rank": "effective rank of the embeddings",
    "utterance_target_std": "spread of utterance targets",
    "utterance_prediction_std": "spread of utterance predictions",
}
METRIC_NAMES = {
    "linear_probe": "linear probe",
    "knn": "k-NN",
    "few_labels": "few labels",
    "fine_tuning": "fine-tuning",
}


def report_text(report: Mapping[str, Any], part: Literal["learned", "findings"] | None = None) -> str:
    """Markdown of report.json, whose numbers it holds rounded.

    Args:
        part: of it: `findings`, the sentences; `learned`, all but the heading and how to open the encoder.
    """
    template = TEMPLATES.get_template("report.md.jinja")
    labels = report["settings"]["labels_per_class"]
    heads = ["accuracy in %", "linear probe", "k-NN", f"{labels} labels per class", "fine-tuned on them"]
    rows = [[row["name"], *(accuracy(row.get(metric)) for metric in METRIC_NAMES)] for row in report["rows"].values()]
    logged = [
        [HEALTH[name], f"{of['first']:.3g}", str(of["first_step"]), f"{of['last']:.3g}", str(of["last_step"])]
        for name, of in report["health"].items()
    ]
    context = template.new_context({
        **report,
        "names": METRIC_NAMES,
        "named": listed(report.get("class_names", [])),
        "accuracies": markdown_table(heads, rows),
        "logged": markdown_table(["over the run", "first", "at step", "last", "at step"], logged) if logged else "",
        "shape": " -> ".join(modality_of(report["model_type"]).shapes),
    })  # fmt: skip
    rendered = template.root_render_func(context) if part is None else template.blocks[part](context)
    return re.sub(r"\n{3,}", "\n\n", "".join(rendered)).strip() + "\n"


def listed(names: Sequence[str]) -> str:
    """The names of classes, the first of many; nothing where they are only numbers."""
    if all(name.lstrip("-").isdigit() for name in names):
        return ""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def accuracy(value: Mapping[str, Any] | None) -> str:
    """A cell: in %, with the spread over draws where there are several; "-" where nothing was measured."""
    if value is None:
        return "-"
    return percent(value["accuracy"]) + (f" ± {percent(value['std'])}" if "std" in value else "")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, padded: bool = True) -> str:
    """A markdown table, in columns of equal width unless not `padded`: the first one left, numbers right.

    A cell holds no line break and no bar.
    """
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    if not padded:
        cells.insert(1, ["---"] * len(heads))
    else:
        widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(heads))]
        cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        cells = [
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            for row in cells
        ]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 110, break_on_hyphens=False, break_long_words=False) + "\n\n"


def templates(folder: Path, **settings: Any) -> Environment:
    """The jinja templates of a folder; a name that they are not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **settings
    )
    environment.filters |= {"percent": percent}
    return environment


TEMPLATES = templates(Path(__file__).parent)
TEMPLATES.filters |= {"paragraph": _paragraph, "short": "{:g}".format, "tojson": json.dumps}
