"""Render the card of a run folder: `data2vec card RUN_FOLDER --license apache-2.0 [...]`.

Writes README.md, the model card with the Hub's metadata, and curves.png into the folder. It takes its numbers from the
folder's own files only; what a person says is kept in card.yaml there, so that the next call needs no words.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from data2vec.model_cards.card import tables, usage
from data2vec.model_cards.card.card_yaml import CardFields
from data2vec.model_cards.card.facts import Facts, read_facts
from data2vec.model_cards.card.hub_terms import METRICS, PIPELINE_NAMES
from data2vec.model_cards.card.metadata import card_data, check
from data2vec.model_cards.command_line import render_parser
from data2vec.model_cards.report.verdict import verdict
from data2vec.pretraining.checkpoints.run_files import CARD, write_text
from data2vec.pretraining.console.help import EXIT_REFUSED, end
from data2vec.pretraining.evaluation.plots import draw_curves, png_of
from data2vec.pretraining.evaluation.report_text import listed, markdown_table, percent, report_text, templates


CURVES, REPORT_PICTURE = "curves.png", "report.png"
TEMPLATE = Path(__file__).parent / "card" / "template.md"
# What report.py draws, where it was asked to: file of the run folder -> what a reader sees there.
PICTURES = {
    "report_pictures/masks.png": "What the student does not see: inputs whole, and with what their masks hide",
    "report_pictures/features.png": "Map of the frozen features, coloured by label",
    "report_pictures/attention.png": "How much each part of the input is looked at",
    "report_pictures/layers.png": "Probes of each layer",
    "report_pictures/confusion.png": "What each class is taken for",
    "report_pictures/errors.png": "Utterances by their word error rate",
    "report_pictures/values.png": "Predictions over labels",
}


def render(folder: str | Path, **given: Any) -> ModelCard:
    """Write the card and the curves of a run folder.

    Args:
        given: fields of [`CardFields`]; they are kept in `card.yaml`.

    Raises:
        ValueError: no finished run folder, an invalid field, or a number in it that no file holds.
    """
    facts = read_facts(folder, given)
    facts.words.write(facts.run.path)
    curves = draw_curves(facts.run.log, columns=3)
    if curves is not None:
        (facts.run.path / CURVES).write_bytes(png_of(curves))
    card = compose(facts, curves=curves is not None)
    write_text(facts.run.path / CARD, f"{card}\n")
    return card


def compose(facts: Facts, curves: bool) -> ModelCard:
    """The card: metadata by huggingface_hub's classes, the rest from `template.md`."""
    values = _values(facts, curves)
    environment = templates(TEMPLATE.parent)
    environment.filters["table"] = lambda rows, *heads: markdown_table(heads, rows, padded=False) if rows else ""
    text = environment.get_template(TEMPLATE.name).render(**values)
    text = without_tags(re.sub(r"\n{3,}", "\n\n", text).strip())
    data = card_data(facts)
    card = ModelCard.from_template(data, template_str="---\n{{ card_data }}\n---\n\n{{ text }}", text=text)
    check(card, data)
    return card


def without_tags(text: str) -> str:
    """Markdown in which a tag of HTML, which only a value of the run can have brought, is read and not followed."""
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.DOTALL)  # code shows it already
    return "".join(part if n % 2 else re.sub(r"<(?=[A-Za-z/!?])", "&lt;", part) for n, part in enumerate(parts))


def _values(facts: Facts, curves: bool) -> dict[str, Any]:
    main = (facts.results or {}).get("main") or {}
    report = facts.run.report
    classes = _classes(facts)
    return {
        "facts": facts,
        "words": facts.words,
        "tables": tables,
        "usage": usage,
        "what": facts.modality.name,
        "task_words": PIPELINE_NAMES.get(facts.pipeline or "", "a task").lower(),
        "limits_of_data": facts.of_modality.limits,
        "curves": curves,
        "pictures": [(name, words) for name, words in PICTURES.items() if (facts.run.path / name).is_file()],
        "report_picture": (facts.run.path / REPORT_PICTURE).is_file(),
        "health": verdict(facts.run.log, facts.run.health) if facts.run.pretrains else None,
        "learned": report_text(report, "learned") if report and report.get("settings") else "",
        "last_probe": "".join(percent(value) for value in facts.logged("probe/knn_student")[-1:]),
        "classes": listed(classes),
        "guessing": f"{percent(1 / len(classes))} %" if classes else "",
        "main_words": f"{METRICS.get(main['metric'], ('', main['metric']))[1]} on {main['split']}" if main else "",
    }


def _classes(facts: Facts) -> list[str]:
    """Of a model that gives each example one class; none for any other."""
    one = facts.config.get("problem_type") in (None, "single_label_classification")
    names = list((facts.config.get("id2label") or {}).values())
    return names if one and (facts.pipeline or "").endswith("-classification") and len(names) > 1 else []


def main(argv: Sequence[str] | None = None) -> int:
    words = vars(render_parser(CardFields).parse_args(argv))
    given = {name: value for name, value in words.items() if value is not None}
    folder = Path(given.pop("run_folder"))
    try:
        render(folder, **given)
    except (ValueError, OSError) as error:
        return end(EXIT_REFUSED, error)
    print(f"{folder / CARD} is the card. Look at it, then: data2vec push {folder} OWNER/NAME")
    return 0
