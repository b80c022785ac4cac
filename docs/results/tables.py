"""The tables of README.md, from the numbers in `data/`: nothing is typed by hand.

A comment `<!-- numbers of CLAIM -->` in the page is followed by that claim's table, `<!-- the claims -->` by the table
that opens it; both end with `<!-- end -->`.
"""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from data2vec.pretraining.monitoring.callbacks import CollapseGuard


BEST = "linear probe of the best layer"
MEASURES = {"linear": "linear probe", "knn": "k-NN", "few": "few labels"}
TOKENS = {f"cls_{name}": f"{words} of CLS" for name, words in MEASURES.items()}  # where a claim reads the extra tokens
BLOCK = re.compile(r"(<!-- (?P<what>the claims|numbers of \w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_tables(page: Path, data: Path) -> None:
    """Replace every table of the page by what the data files give; a claim without a data file has none yet."""
    text = page.read_text(encoding="utf-8")
    page.write_text(BLOCK.sub(lambda found: found[1] + _block(found["what"], data) + found[3], text), encoding="utf-8")


def _block(what: str, data: Path) -> str:
    if what == "the claims":
        rows = [_opening_row(path.stem, json.loads(path.read_text())) for path in _in_order(data)]
        head = ("claim", "paper", "here", "holds?", "command", "minutes")
        return "\n".join(["| " + " | ".join(head) + " |", "| --- " * (len(head) - 1) + "| --: |", *rows, ""])
    path = data / f"{what.removeprefix('numbers of ')}.json"
    if not path.is_file():
        return "Not measured.\n"
    found = json.loads(path.read_text())
    if path.stem in OTHER_TABLES:
        return OTHER_TABLES[path.stem](found)
    curves = any(isinstance(seed["health"]["step"], list) for *_, seed in _runs(found))
    return _numbers(found) + ("\n" + _health(found) if curves else "")


def _in_order(data: Path) -> list[Path]:
    """Data files of claims, as their files say where they stand."""
    order = json.loads((data / "order.json").read_text())
    return [data / f"{name}.json" for name in order if (data / f"{name}.json").is_file()]


# ---- the opening table ----


def _opening_row(name: str, found: dict[str, Any]) -> str:
    took = minutes(found)
    if "headline" in found:
        here, verdicts = zip(*(_compared(found, pair) for pair in found["headline"]), strict=True)
    else:  # a claim that has a file of its own
        here, verdicts = import_module(name).compared(found)
    cells = (found["claim"], found["paper"], "<br>".join(here), "<br>".join(verdicts), f"`{found['command']}`", took)
    return "| " + " | ".join(cells) + " |"


def _compared(found: dict[str, Any], pair: dict[str, str]) -> tuple[str, str]:
    """`system, measure: one side 1.0, other side 0.9`, and the verdict."""
    better = seeds_of(found, pair["system"], pair["better"])
    worse = seeds_of(found, pair.get("than", pair["system"]), pair["worse"])
    return _sides(found, pair, spread(better), spread(worse)), verdict(better, worse)


def _sides(found: dict[str, Any], pair: dict[str, str], better: str, worse: str) -> str:
    """Sides are named by what differs between them."""
    paths = [pair[side].split("/") for side in ("better", "worse")]
    title, measure = found["systems"][pair["system"]]["title"], paths[0][2]
    what = (MEASURES | TOKENS).get(measure, BEST if measure == "best" else measure)
    if "than" in pair:
        titles = [title, found["systems"][pair["than"]]["title"]]
        family, data = zip(*(title.split(", ") for title in titles), strict=True)
        names = [_row_title(name, arm) for name, (arm, *_) in zip(family, paths, strict=True)]
        return f"{data[0]}, {what}: {names[0]} {better}, {names[1]} {worse}"
    if paths[0][1] == "fine_tuned":
        arm = _row_title(title, paths[0][0])
        return f"{arm}, fine-tuned: pretrained {better}, from scratch {worse}"
    one, other = next(sides for sides in zip(*paths, strict=True) if sides[0] != sides[1])
    return f"{title}, {what}: {one} {better}, {other} {worse}"


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


def seeds_of(found: dict[str, Any], system: str, path: str) -> list[float]:
    """Numbers of all seeds at `ARM/ENCODER/MEASURE`."""
    arm, encoder, measure = path.split("/")
    return [seed[encoder][measure] for seed in found["systems"][system]["arms"][arm]["seeds"]]


def verdict(better: list[float], worse: list[float]) -> str:
    """yes: every seed of the one above every seed of the other; no, the reverse: below; else undecided."""
    leans = "leans to yes" if np.mean(better) > np.mean(worse) else "leans to no"
    if len(better) == 1:
        return f"one seed, {leans}"
    if min(better) > max(worse):
        return "yes"
    if max(better) < min(worse):
        return "no, the reverse"
    return f"undecided, {leans}"


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
            lines.append(f"| {_row_title(system['title'], arm)} | " + " | ".join(cells) + " |")
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
            lines.append(f"| {_row_title(system['title'], arm)} | " + " | ".join(cells) + " |")
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
    guard, ranks = CollapseGuard(), log["effective_rank"]
    steps = [step for row, step in enumerate(log["step"]) if guard.lost_rank(ranks[: row + 1])]
    return int(steps[0]) if steps else None


def _row_title(system: str, arm: str) -> str:
    return system if arm == "as it is" else f"{system}, {arm}"


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


def last(value: float | list[float]) -> float:
    """Of the last layer, where every layer was measured."""
    return value[-1] if isinstance(value, list) else value


def spread(values: list[float]) -> str:
    values = [last(value) for value in values]
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else f"{values[0]:.1f}"


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


OTHER_TABLES = {"esc10_mixtures": _mixtures, "emotion": _own("emotion"), "text": _own("text"), "sweep": _own("sweep")}
