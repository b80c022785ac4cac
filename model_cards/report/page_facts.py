"""What the folders say in words and numbers: health, facts, results, recipes. Nothing is loaded but small files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...pretraining.evaluation.plots import PANELS, draw_panels
from ...pretraining.evaluation.report_text import METRIC_NAMES, accuracy, report_text
from ..folder import Folder
from .figures import Group, figure
from .health_text import judge
from .page import Column, Section, Table


DASH = "–"
LOSS_OF_LABELS = "Falls. Where that of held-out examples rises again, the others are learnt by heart."


def health(folders: Mapping[str, Folder]) -> Section:
    """The verdicts, and one table of facts."""
    columns = [Column(_named(name, folders), verdict=judge(folder)) for name, folder in folders.items()]
    return Section("health", "Health", "", columns)


def facts(folders: Mapping[str, Folder]) -> Section:
    every = [_facts(folder) for folder in folders.values()]
    names = list(dict.fromkeys(name for found in every for name in found))
    rows = [[name, *(found.get(name, DASH) for found in every)] for name in names]
    table = Table("What these folders say" if len(folders) > 1 else "What the folder says", ["", *folders], rows)
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
    intro = "Over optimizer steps, as logged. What each means is under it."
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
    return Section("results", "What it learnt", intro, columns)


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
    caption = f"Accuracy in % on {report['test_examples']} test examples of {report['classes']} classes"
    return Table(caption, heads, rows)


def recipes(folders: Mapping[str, Folder]) -> Section:
    """Every field of a recipe; of two, first those that differ."""
    flat = {name: dict(_fields(folder.recipe)) for name, folder in folders.items()}
    names = list(dict.fromkeys(field for fields in flat.values() for field in fields))
    rows = [[field, *(fields.get(field, DASH) for fields in flat.values())] for field in names]
    tables = []
    if len(folders) > 1:
        different = [row for row in rows if len(set(row[1:])) > 1]
        caption = f"Where the recipes differ: {len(different)} of {len(rows)} fields"
        tables.append(Table(caption, ["field", *folders], different))
    changed = frozenset(number for number, row in enumerate(rows) if len(set(row[1:])) > 1)
    tables.append(Table("Every field", ["field", *folders], rows, changed, folded=True))
    if not names:
        return Section(
            "recipe", "Recipe", "", [Column(absent=f"There is no recipe.yaml: {_how(folders, 'recipe.yaml')}.")]
        )
    return Section("recipe", "Recipe", "Recipe fields as resolved, overrides included.", [Column(tables=tables)])


def absences(folders: Mapping[str, Folder]) -> Section | None:
    rows = [[name, file, how] for name, folder in folders.items() for file, how in folder.missing.items()]
    if not rows:
        return None
    table = Table("Files that are not there", ["run", "file", "how it comes to be there"], rows)
    return Section("missing", "What is missing", "", [Column(tables=[table])])


def _how(folders: Mapping[str, Folder], file: str) -> str:
    return next(folder.missing[file] for folder in folders.values() if file in folder.missing)


def _named(name: str, folders: Mapping[str, Folder]) -> str:
    return name if len(folders) > 1 else ""


def _facts(folder: Folder) -> dict[str, str]:
    """The few facts that a reader asks for first."""
    recipe, run, state = folder.recipe, folder.run or {}, folder.health or {}
    training, data, objective = (recipe.get(name, {}) for name in ("training", "data", "objective"))
    steps = max((int(entry["step"]) for entry in folder.log if "step" in entry), default=None)
    seconds = max((entry["training_seconds"] for entry in folder.log if "training_seconds" in entry), default=None)
    report = folder.report or {}
    found = {
        "folder": folder.name,
        "model": recipe.get("model", {}).get("model_type") or recipe.get("model", {}).get("model_name_or_path"),
        "parameters of the encoder": f"{report['parameters']:,}" if "parameters" in report else None,
        "family": None if not objective else _family(objective),
        "masks": _compact(objective["masking"]) if "masking" in objective else None,
        "data": ", ".join(str(source.get("path")) for source in data.get("sources", [])) or None,
        "labelled set of the probe": (data.get("probe") or {}).get("path"),
        "batch size of a device": training.get("per_device_train_batch_size"),
        "steps": None if steps is None else f"{steps} of {training.get('max_steps', 'an unknown number')}",
        "state": state.get("state"),
        "started": state.get("started"),
        "time spent on updates": None if seconds is None else _duration(seconds),
        "device": run.get("device"),
        "processes": run.get("processes"),
        "versions": ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()) or None,
        "command": run.get("command"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _family(objective: Mapping[str, Any]) -> str:
    views = objective.get("views")
    return "data2vec 1" if views is None else f"data2vec 2.0, {views} views of each example"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


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
