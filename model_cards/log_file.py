"""The log of a run that left no newer state: `logs/rank-0.log`, read back.

A run that the guard stopped, or that was killed, saves nothing after its last healthy checkpoint; how it ended is in
this file alone, with six digits.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


FILE = "logs/rank-0.log"  # of pretraining/monitoring/health.py, as are the words below
HEALTH = r"data2vec\.pretraining\.(?:monitoring\.)?health: "
LOGGED = re.compile(HEALTH + r"step (\d+) of \d+: (.+)$")
CONTINUED = re.compile(HEALTH + r"(?:continues from checkpoint-(\d+),|starts, for )")
NUMBER = re.compile(r"([\w/]+) (-?[\d.]+(?:e[+-]?\d+)?|nan|-?inf)$")


def with_log_file(log: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """`log`, the `Trainer`'s up to a checkpoint, and what the log file says of later steps."""
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
    newest = folder / FILE
    rotated = sorted(newest.parent.glob(f"{newest.name}.*"), key=lambda path: path.suffix, reverse=True)
    for path in (*rotated, newest):
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                yield from (line.rstrip("\n") for line in file)
