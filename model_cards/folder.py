"""What a run left in its folder, read without loading weights or data.

Nothing that is absent is an error: it is a `None`, and `missing` says how to get it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..pretraining.checkpoints.run_files import CARD, WHOLE


Log = Sequence[Mapping[str, Any]]
STATE, PLAIN_LOG = "trainer_state.json", "log.json"  # the Trainer's, and a copy of its log alone
CONFIG = "config.json"
RESULTS = "results.json"  # of finetune/, run_probe.py included
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")

LOG_FILE = "logs/rank-0.log"  # of pretraining/monitoring/health.py, as are the words below
HEALTH = r"data2vec\.pretraining\.(?:monitoring\.)?health: "
LOGGED = re.compile(HEALTH + r"step (\d+) of \d+: (.+)$")
CONTINUED = re.compile(HEALTH + r"(?:continues from checkpoint-(\d+),|starts, for )")
NUMBER = re.compile(r"([\w/]+) (-?[\d.]+(?:e[+-]?\d+)?|nan|-?inf)$")

# file -> how it comes to be there
HOW_TO_GET = {
    "recipe.yaml": "a run writes it when it starts; copy it beside the weights",
    STATE: "a run writes it with every checkpoint and at its end",
    "health.json": "runs keep it up to date from their first step; older runs have none",
    "report.json": "a finished run with data.probe and a section `report` in its recipe writes it",
    "run.json": "a run writes it when it starts",
    "weights": "a run writes them with every checkpoint (save_steps) and at its end",
}


@dataclass(frozen=True)
class Folder:
    """A run folder.

    Attributes:
        recipe: its sections; empty without recipe.yaml.
        log: the `Trainer`'s log_history, of the end of the run; or of its newest checkpoint, and what its log file
            says of later steps.
        health, run, report: health.json, run.json and report.json.
        results: results.json, of a run of fine-tuning.
        probe: what finetune/run_probe.py found on this run, and where that was read.
        weights: the folder whose weights are the newest: the run folder, pretraining/ in it, or a checkpoint.
        missing: file -> how to get it.
    """

    path: Path
    name: str
    recipe: dict[str, Any]
    log: list[dict[str, Any]]
    health: dict[str, Any] | None
    run: dict[str, Any] | None
    report: dict[str, Any] | None
    results: dict[str, Any] | None
    probe: tuple[Path, dict[str, Any]] | None
    weights: Path | None
    missing: dict[str, str]

    @property
    def pretrains(self) -> bool:
        """Whether it is a run of pretraining; fine-tuning sees its inputs whole."""
        return "task" not in self.recipe


def open_folder(path: str | Path) -> Folder:
    """Read a run folder.

    Raises:
        ValueError: it is not there, or nothing in it is a run's; or one of its files is damaged.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{str(path)!r} is not a folder: name the output_dir of a run.")
    recipe_file = folder / "recipe.yaml"
    log = _log(folder)
    found = {
        "recipe.yaml": _yaml(recipe_file) if recipe_file.is_file() else None,
        STATE: log,
        "health.json": _json(folder / "health.json"),
        "report.json": _json(folder / "report.json"),
        "run.json": _json(folder / "run.json"),
        "weights": _weights(folder),
    }
    if not any(found[name] for name in ("recipe.yaml", STATE, "health.json", "report.json")):
        raise ValueError(
            f"{str(path)!r} holds nothing of a run (no recipe.yaml, {STATE}, health.json or report.json): name the "
            "output_dir of a run, not a folder in it or above it."
        )
    recipe = found["recipe.yaml"] or {}
    return Folder(
        folder,
        folder.resolve().name,
        {name: section for name, section in recipe.items() if isinstance(section, dict)},
        log or [],
        found["health.json"],
        found["run.json"],
        found["report.json"],
        _json(folder / RESULTS) if "task" in recipe else None,
        _probe(folder),
        found["weights"],
        {name: how for name, how in HOW_TO_GET.items() if found[name] is None and not _never_there(name, recipe)},
    )


def require_finished(folder: Path, pretraining: bool) -> None:
    """Refuse to publish a folder without weights and card; with `pretraining`, also one without the whole model."""
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder: name the output_dir of a finished run.")
    places = [folder, *([folder / WHOLE] if pretraining else [])]
    for place in places:
        if not (place / CONFIG).is_file() or not any(place.glob("model*.safetensors")):
            where = "without --pretraining it is not needed" if place != folder else "let the run end first"
            raise ValueError(f"{str(place)!r} has no {CONFIG} and model.safetensors: {where}.")
    if not (folder / CARD).is_file():
        raise ValueError(
            f"{str(folder)!r} has no {CARD}: a model is published with its card. "
            f"First: data2vec card {folder} --license apache-2.0"
        )


def _never_there(name: str, recipe: Mapping[str, Any]) -> bool:
    """A run of fine-tuning has no health to keep and no report of pretraining."""
    return "task" in recipe and name in ("health.json", "report.json")


def _log(folder: Path) -> list[dict[str, Any]] | None:
    for place in (folder, *reversed(_checkpoints(folder))):
        state = _json(place / STATE)
        if state is not None:
            log = list(state.get("log_history", []))
            return log if place == folder else with_log_file(log, folder)
    if written := read_log_file(folder):
        return written
    plain = _json(folder / PLAIN_LOG)
    if isinstance(plain, dict):
        plain = plain.get("log_history")
    return plain if isinstance(plain, list) else None


def with_log_file(log: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """`log`, the `Trainer`'s up to a checkpoint, and what the log file says of later steps.

    A run that the guard stopped, or that was killed, saves nothing after its last healthy checkpoint: how it ended is
    in the log file alone, with six digits.
    """
    last = max((entry["step"] for entry in log if "step" in entry), default=-1)
    return [*log, *(entry for entry in read_log_file(folder) if entry["step"] > last)]


def read_log_file(folder: Path) -> list[dict[str, Any]]:
    """Entries like those of the `Trainer`'s log_history; what a continued run repeated is there once."""
    entries: list[dict[str, Any]] = []
    for line in _lines(folder):
        if again := CONTINUED.search(line):
            kept = int(again[1] or 0)
            entries = [entry for entry in entries if entry["step"] <= kept]
            if not again[1]:  # what was measured before the first step of this start stands just above
                entries = entries[-1:]
        elif found := LOGGED.search(line):
            numbers = [NUMBER.fullmatch(part) for part in found[2].split(", ")]
            values = {number[1]: float(number[2]) for number in numbers if number}
            entries.append({**values, "step": int(found[1])})
    return entries


def _lines(folder: Path) -> Iterator[str]:
    """Of the rotated files too, oldest first."""
    newest = folder / LOG_FILE
    rotated = sorted(newest.parent.glob(f"{newest.name}.*"), key=lambda path: path.suffix, reverse=True)
    for path in (*rotated, newest):
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                yield from (line.rstrip("\n") for line in file)


def _weights(folder: Path) -> Path | None:
    for place in (folder, folder / "pretraining", *reversed(_checkpoints(folder))):
        if (place / "config.json").is_file() and any((place / name).is_file() for name in WEIGHTS):
            return place
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """checkpoint-N, the newest last."""
    numbered = [(path.name.removeprefix("checkpoint-"), path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted((int(number), path) for number, path in numbered if number.isdigit())]


def _probe(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Layers probed by run_probe: in the folder, one level below, or beside it, where it names this folder."""
    inside = [folder / RESULTS, *sorted(folder.glob(f"*/{RESULTS}"))]
    for path in [*inside, *sorted(folder.resolve().parent.glob(f"*/{RESULTS}"))]:
        results = _json(path)
        if not isinstance(results, dict) or "probed" not in results:
            continue
        if path in inside or Path(str(results.get("model"))).resolve() == folder.resolve():
            return path, results
    return None


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore or remove it.") from error


def _yaml(path: Path) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is damaged ({error}): restore or remove it.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is no recipe: it holds no sections. Restore or remove it.")
    return recipe


def duration(seconds: float) -> str:
    """In the unit that a reader would use; hours and minutes are the same number, rounded."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
