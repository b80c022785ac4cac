"""What the folders say in words and numbers: health, facts, results, recipes. Nothing is loaded but small files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...pretraining.evaluation.panels import PANELS
from ...pretraining.evaluation.plots import draw_panels
from ...pretraining.evaluation.report_text import METRIC_NAMES, accuracy, percent, report_text
from ..folder import Folder, duration
from .figures import Group, figure
from .page import Column, Section, Table
from .verdict import judge


DASH = "–"
LOSS_OF_LABELS = "Falls. Where that of held-out examples rises again, the model memorises its training examples."


def health(folders: Mapping[str, Folder]) -> Section:
    """The verdicts, and one table of facts."""
    columns = [Column(_named(name, folders), verdict=judge(folder)) for name, folder in folders.items()]
    return Section("health", "Health", "", columns)


def facts(folders: Mapping[str, Folder]) -> Section:
    table = _side_by_side("As the run recorded it", {name: _facts(folder) for name, folder in folders.items()})
    return Section("run", "The run" if len(folders) == 1 else "The runs", "", [Column(tables=[table])])


def curves(folders: Mapping[str, Folder]) -> Section:
    logs = {name: folder.log for name, folder in folders.items() if folder.log}
    figures = []
    for key, drawn in draw_panels(logs).items():
        panel = PANELS[key.split(".")[0]]
        means = panel.means
        if panel is PANELS["loss"] and not any(folder.pretrains for folder in folders.values()):
            means = LOSS_OF_LABELS
        alt = f"Curve{' of both runs' if len(folders) > 1 else ''}: {panel.title}."
        figures.append(figure(f"curve_{key.replace('/', '_')}", drawn, means, alt))
    absent = [
        f"{name}: there is no log. {folders[name].missing.get('trainer_state.json', 'nothing was logged yet')}."
        for name in folders
        if name not in logs
    ]
    intro = "Over optimizer steps, as logged. Each curve is explained below it."
    if len(folders) > 1:
        intro += f" {' is the solid line, '.join(folders)} the dashed one."
    column = Column(groups=[Group("", figures)] if figures else [], absent=" ".join(absent))
    return Section("curves", "Curves", intro, [column])


def results(folders: Mapping[str, Folder]) -> Section:
    """What report.json holds, in its own words and as a table."""
    columns = []
    for name, folder in folders.items():
        report = folder.report
        if not folder.pretrains:
            columns.append(_fine_tuned(folder, _named(name, folders)))
            continue
        if report is None:
            absent = f"There is no report.json: {folder.missing['report.json']}."
            columns.append(Column(_named(name, folders), absent=absent))
            continue
        words = [" ".join(paragraph.split()) for paragraph in report_text(report, "findings").split("\n\n")]
        columns.append(Column(_named(name, folders), words=words, tables=[_accuracies(report)]))
    intro = "Measured on labelled examples when the run ended."
    if any(folder.report for folder in folders.values()):
        intro = f"{intro[:-1]}, beside the same network untrained and raw features."
    return Section("results", "What it learned", intro, columns)


def _fine_tuned(folder: Folder, name: str) -> Column:
    """The scores of each split, as results.json holds them."""
    if folder.results is None:
        return Column(name, absent="There is no results.json: a finished run of fine-tuning writes it.")
    rows = [
        [split, metric, f"{value:.4g}"]
        for split, scores in folder.results.items()
        if isinstance(scores, Mapping) and split not in ("main", "run")
        for metric, value in scores.items()
        if isinstance(value, int | float)
    ]
    return Column(name, tables=[Table("Scores, as the run measured them", ["split", "score", "value"], rows)])


def _accuracies(report: Mapping[str, Any]) -> Table:
    heads = ["", *METRIC_NAMES.values()]
    rows = [[row["name"], *(accuracy(row.get(metric)) for metric in METRIC_NAMES)] for row in report["rows"].values()]
    chance = f"chance, always the most frequent class: {percent(report['commonest_class'])} %"
    caption = f"Accuracy in % on {report['test_examples']} test examples of {report['classes']} classes ({chance})"
    return Table(caption, heads, rows)


def recipes(folders: Mapping[str, Folder]) -> Section:
    """Every field of a recipe; of two, first those that differ."""
    every = _side_by_side("Every field", {name: dict(_fields(folder.recipe)) for name, folder in folders.items()})
    if not every.rows:
        how = next(folder.missing["recipe.yaml"] for folder in folders.values())
        return Section("recipe", "Recipe", "", [Column(absent=f"There is no recipe.yaml: {how}.")])
    tables = [replace(every, folded=True)]
    if len(folders) > 1:
        different = [every.rows[number] for number in sorted(every.changed)]
        caption = f"Where the recipes differ: {len(different)} of {len(every.rows)} fields"
        tables.insert(0, Table(caption, every.heads, different))
    return Section("recipe", "Recipe", "Recipe fields as resolved, overrides included.", [Column(tables=tables)])


def _side_by_side(caption: str, runs: Mapping[str, Mapping[str, str]]) -> Table:
    """A row a field, a column a run; rows that differ are marked."""
    names = dict.fromkeys(name for fields in runs.values() for name in fields)
    rows = [[name, *(fields.get(name, DASH) for fields in runs.values())] for name in names]
    changed = frozenset(number for number, row in enumerate(rows) if len(set(row[1:])) > 1)
    return Table(caption, ["field", *runs], rows, changed)


def absences(folders: Mapping[str, Folder]) -> Section | None:
    rows = [[name, file, how] for name, folder in folders.items() for file, how in folder.missing.items()]
    if not rows:
        return None
    table = Table("Files that are not there", ["run", "file", "how it comes to be there"], rows)
    return Section("missing", "What is missing", "", [Column(tables=[table])])


def _named(name: str, folders: Mapping[str, Folder]) -> str:
    return name if len(folders) > 1 else ""


def _facts(folder: Folder) -> dict[str, str]:
    """What the recipe does not say."""
    run, state, training = folder.run or {}, folder.health or {}, folder.recipe.get("training", {})
    steps = max((int(entry["step"]) for entry in folder.log if "step" in entry), default=None)
    seconds = max((entry["training_seconds"] for entry in folder.log if "training_seconds" in entry), default=None)
    found = {
        "state": state.get("state"),
        "started": state.get("started"),
        "steps": None if steps is None else f"{steps} of {training.get('max_steps', 'an unknown number')}",
        "time spent on updates": None if seconds is None else duration(seconds),
        "device": run.get("device"),
        "processes": run.get("processes"),
        "versions": ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()) or None,
        "command": run.get("command"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(section.field, value) of everything in a recipe."""
    for name, inner in value.items():
        where = f"{path}.{name}" if path else str(name)
        if isinstance(inner, Mapping) and inner:
            yield from _fields(inner, where)
        else:
            yield where, _compact(inner)


def _compact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_compact(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return json.dumps(value, default=str)
    return "none" if value is None else str(value)
