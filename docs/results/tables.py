"""The tables of README.md and of a page for each claim, from the numbers in `data/`: nothing is typed by hand.

In a page the comment `<!-- claim CLAIM -->` is followed by what the claim compares, `<!-- numbers of CLAIM -->` by all
that was measured; in README.md `<!-- decided -->` and `<!-- undecided -->` by a line for each claim. All end with
`<!-- end -->`.
"""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from comparisons import MEASURES, TOKENS, comparisons, last, row_title, spread, summary

from data2vec.pretraining.monitoring.callbacks import SHARES, CollapseGuard


BLOCK = re.compile(r"(<!-- (?P<what>decided|undecided|claim \w+|numbers of \w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_tables(folder: Path) -> None:
    """Replace the tables of all pages of docs/results by what its data files give."""
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = BLOCK.sub(lambda found: found[1] + _block(found["what"], folder / "data") + found[3], text)
        page.write_text(new, encoding="utf-8")


def _block(what: str, data: Path) -> str:
    if what in ("decided", "undecided"):
        return _lines(data, what == "decided")
    path = data / f"{what.split()[-1]}.json"
    if not path.is_file():
        return "Not measured.\n"
    found = json.loads(path.read_text())
    if what.startswith("claim "):
        return _claim(path.stem, found)
    if path.stem in OTHER_TABLES:
        return OTHER_TABLES[path.stem](found)
    curves = any(isinstance(seed["health"]["step"], list) for *_, seed in _runs(found))
    return _numbers(found) + ("\n" + _health(found) if curves else "")


def all_claims(data: Path) -> dict[str, dict[str, Any]]:
    """Data files of claims by name, in the order of data/order.json."""
    files = {name: data / f"{name}.json" for name in json.loads((data / "order.json").read_text())}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.is_file()}


# ---- what a claim compares ----


def _lines(data: Path, decided: bool) -> str:
    """A line for each claim of which a comparison is, or none is, decided: its main comparison, and how many hold."""
    lines = ["| claim | effect, in points (95 %) | holds? |", "| --- | --- | --- |"]
    for name, found in all_claims(data).items():
        rows = comparisons(name, found)
        if any(row.decided for row in rows) == decided:
            lines.append(f"| [{found['claim']}]({name}.md) | {rows[0].shown} | {summary(rows)} |")
    return "\n".join(lines) + "\n"


def _claim(name: str, found: dict[str, Any]) -> str:
    """The claim, what the papers say, the command, and a row for each comparison."""
    rows = [f"| {row.said} | {row.shown} | {row.holds} |" for row in comparisons(name, found)]
    heads = ["| here | effect, in points (95 %) | holds? |", "| --- | --- | --- |"]
    text = f"**{found['claim']}.** The papers: {found['paper']}.\n\n    {found['command']}\n\n"
    return f"{text}{minutes(found)} minutes of one core.\n\n" + "\n".join([*heads, *rows]) + "\n"


def minutes(found: dict[str, Any]) -> str:
    """Of one core, for the command from nothing: every training, and every measurement once."""
    took: dict[Any, float]
    if "wall_seconds" in found:
        return f"{found['wall_seconds'] / 60:.0f}"
    took = {system["data"]: system["raw_seconds"] for system in found["systems"].values()}
    for system, arm, seed in _runs(found):
        took[system, arm, seed["seed"], "training"] = seed["wall_seconds"]
        for encoder, scores in seed.items():
            if isinstance(scores, dict) and "seconds" in scores and encoder != "probe":
                of = "" if encoder == "untrained" else arm  # untrained, all arms are the same network
                took[system, of, seed["seed"], encoder] = scores["seconds"]
    return f"{sum(took.values()) / 60:.0f}"


# ---- the table of a claim ----


def _numbers(found: dict[str, Any]) -> str:
    """Mean (lowest to highest) of the seeds: a row for each system and arm."""
    fine_tuned = any("fine_tuned" in seed for *_, seed in _runs(found))
    best = ["best"] * any("best" in seed["student"] for *_, seed in _runs(found))
    tokens = [name for name in TOKENS if all(name in seed["student"] for *_, seed in _runs(found))]
    measures = [*MEASURES, *tokens, *best]
    columns = [(encoder, m) for encoder in ("student", "teacher") for m in measures]
    head = [f"{encoder}, {(MEASURES | TOKENS).get(m, 'best layer')}" for encoder, m in columns]
    head += ["fine-tuned, from scratch"] * fine_tuned
    lines = [
        "| accuracy in % | " + " | ".join([*head, "s"]) + " |",
        "| --- |" + " --: |" * (len(head) + 1),
    ]
    for system in found["systems"].values():
        for arm, runs in system["arms"].items():
            seeds = runs["seeds"]
            cells = [spread([last(seed[e][m]) for seed in seeds]) for e, m in columns]
            if fine_tuned:
                starts = ([seed["fine_tuned"][start] for seed in seeds] for start in ("student", "untrained"))
                cells.append(" / ".join(map(spread, starts)))
            cells.append(f"{np.mean([seed['seconds'] for seed in seeds]):.0f}")
            lines.append(f"| {row_title(system['title'], arm)} | " + " | ".join(cells) + " |")
        if any("untrained" in seed for runs in system["arms"].values() for seed in runs["seeds"]):
            seeds = next(iter(system["arms"].values()))["seeds"]
            cells = [spread([last(seed["untrained"][m]) for seed in seeds]) for m in measures]
            lines.append(_padded(f"{system['title']}, untrained", cells, len(head)))
    for kind, scores in _raw_rows(found).items():
        lines.append(_padded(kind, [f"{scores[m]:.1f}" for m in MEASURES], len(head)))
    return "\n".join(lines) + "\n"


def _health(found: dict[str, Any]) -> str:
    """What each run logged last, and where the guard, which was off, would have stopped it."""
    names = ["target_std", "position_std", "prediction_std", "effective_rank"]
    lines = [
        "| last logged; mean of the seeds | "
        + " | ".join(f"`{name}`" for name in names)
        + " | guard stops at | guard warns of rank at |",
        "| --- |" + " --: |" * (len(names) + 2),
    ]
    for system in found["systems"].values():
        for arm, runs in system["arms"].items():
            logs = [seed["health"] for seed in runs["seeds"]]
            cells = [f"{np.mean([log[name][-1] for log in logs]):.2g}" for name in names]
            cells += [", ".join(str(judge(log) or "-") for log in logs) for judge in (guard_stop, guard_warning)]
            lines.append(f"| {row_title(system['title'], arm)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def guard_stop(log: dict[str, list[float]], **settings: Any) -> int | None:
    """The update at which the trainer's guard, as it is by default but from a tenth of the run on, stops a run."""
    guard = CollapseGuard(start_step=log["step"][-1] // 10, **settings)
    strikes = 0
    for row in range(len(log["step"])):
        if log["step"][row] < guard.start_step:
            continue
        strikes = strikes + 1 if guard.findings({name: column[row] for name, column in log.items()}) else 0
        if strikes == guard.patience:
            return log["step"][row]
    return None


def guard_warning(log: dict[str, list[float]]) -> int | None:
    """The update at which the trainer's guard warns that the targets have lost their rank."""
    guard, rows = CollapseGuard(), [{"effective_rank": rank} for rank in log["effective_rank"]]
    steps = [step for row, step in enumerate(log["step"]) if guard.lost(rows[: row + 1], guard.patience, SHARES)]
    return int(steps[0]) if steps else None


def _padded(title: str, cells: list[str], columns: int) -> str:
    return f"| {title} | " + " | ".join(cells + ["-"] * (columns + 1 - len(cells))) + " |"


def _raw_rows(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    rows = {}
    for system in found["systems"].values():
        for kind, scores in system["raw"].items():
            rows[f"{system['title'].split(', ')[-1]}: {kind}"] = scores
    return rows


def _runs(found: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (system, arm, seed)
        for system, of_system in found["systems"].items()
        for arm, runs in of_system["arms"].items()
        for seed in runs["seeds"]
    ]


# ---- tables of another kind ----


def _mixtures(found: dict[str, Any]) -> str:
    """Mean average precision, of docs/results/esc10_mixtures.py."""
    (system,) = found["systems"].values()
    (runs,) = system["arms"].values()
    seeds = runs["seeds"]
    lines = ["| mAP in % | pretrained | teacher | from the same weights, untrained |", "| --- | --: | --: | --: |"]
    frozen = (spread([seed[which]["mAP"] for seed in seeds]) for which in ("student", "teacher", "untrained"))
    lines.append("| frozen, best layer on validation | " + " | ".join(frozen) + " |")
    for head in seeds[0]["fine_tuned"]:
        student, scratch = (
            spread([seed["fine_tuned"][head][start]["mAP"] for seed in seeds]) for start in ("student", "untrained")
        )
        lines.append(f"| fine-tuned, {head} | {student} | - | {scratch} |")
    for kind in (name for name, value in seeds[0].items() if name.startswith("log-mel") and "mAP" in value):
        lines.append(f"| {kind} | {spread([seed[kind]['mAP'] for seed in seeds])} | - | - |")
    return "\n".join(lines) + "\n"


def _own(name: str) -> Callable[[dict[str, Any]], str]:
    """The table of a claim that has a file of its own, which reads other parts of this one."""
    return lambda found: f"{import_module(name).table(found)}\n"


OWN = ("emotion", "forgetting", "guard", "joint", "knows", "label_free", "phones", "sweep", "text", "universal")
OTHER_TABLES = {"esc10_mixtures": _mixtures, **{name: _own(name) for name in OWN}}
