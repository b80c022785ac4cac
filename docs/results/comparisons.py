"""What a claim compares, how large the effect is, and whether the claim holds: from its data file alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from scipy.stats import t as students_t


BEST = "linear probe of the best layer"
MEASURES = {"linear": "linear probe", "knn": "k-NN", "few": "few labels"}
TOKENS = {f"cls_{name}": f"{words} of CLS" for name, words in MEASURES.items()}  # where a claim reads the extra tokens
NO_REVERSE = "no, the reverse"


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        said: `system, measure: one side 1.0, other side 0.9`.
        holds: see `verdict`.
        effect: mean and 95 % interval, (mean, low, high); with one seed only the mean.
        unit: what the effect is measured in.
    """

    said: str
    holds: str
    effect: tuple[float, ...]
    unit: str = ""

    @property
    def decided(self) -> bool:
        return self.holds in ("yes", "no", NO_REVERSE)

    @property
    def shown(self) -> str:
        """`+4.8 (0.4 to 9.1)`"""
        digits = 2 if self.unit else 1
        mean, *interval = (f"{value:.{digits}f}" for value in self.effect)
        sign = "" if self.unit or self.effect[0] < 0 else "+"
        return f"{self.unit} {sign}{mean}".strip() + (f" ({interval[0]} to {interval[1]})" if interval else "")


def compare(said: str, better: Sequence[float], worse: Sequence[float]) -> Comparison:
    return Comparison(said, verdict(better, worse), effect(better, worse))


def comparisons(name: str, found: dict[str, Any]) -> list[Comparison]:
    """Those of a claim, the main one first."""
    if "headline" not in found:  # a claim that has a file of its own
        own: list[Comparison] = import_module(name).compared(found)
        return own
    return [_of_pair(found, pair) for pair in found["headline"]]


def verdict(better: Sequence[float], worse: Sequence[float]) -> str:
    """yes: every seed of the one above every seed of the other; no, the reverse: below; else undecided."""
    leans = "leans to yes" if np.mean(better) > np.mean(worse) else "leans to no"
    if len(better) == 1:
        return f"one seed, {leans}"
    if min(better) > max(worse):
        return "yes"
    if max(better) < min(worse):
        return NO_REVERSE
    return f"undecided, {leans}"


def effect(better: Sequence[float], worse: Sequence[float]) -> tuple[float, ...]:
    """The mean difference, and its 95 % interval by Student's t, of the differences of each seed."""
    differences = np.subtract(better, worse)
    mean, number = float(differences.mean()), len(differences)
    if number == 1:
        return (mean,)
    margin = float(students_t.ppf(0.975, number - 1) * differences.std(ddof=1) / number**0.5)
    return mean, mean - margin, mean + margin


def summary(rows: Sequence[Comparison]) -> str:
    """`3 of 4 yes, 1 undecided`"""
    counts = Counter(row.holds if row.decided else "undecided" for row in rows)
    of = f" of {len(rows)}" if len(rows) > 1 else ""
    found = [f"{counts[kind]}{of} {kind}" for kind in ("yes", "no", NO_REVERSE, "undecided") if counts[kind]]
    return ", ".join(found[:1] + [part.replace(of, "") for part in found[1:]]) if of else rows[0].holds


def seeds_of(found: dict[str, Any], system: str, path: str) -> list[float]:
    """Numbers of all seeds at `ARM/ENCODER/MEASURE`."""
    arm, encoder, measure = path.split("/")
    return [seed[encoder][measure] for seed in found["systems"][system]["arms"][arm]["seeds"]]


def row_title(system: str, arm: str) -> str:
    return system if arm == "as it is" else f"{system}, {arm}"


def last(value: float | list[float]) -> float:
    """Of the last layer, where every layer was measured."""
    return value[-1] if isinstance(value, list) else value


def spread(values: Sequence[Any]) -> str:
    values = [last(value) for value in values]
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else f"{values[0]:.1f}"


def _of_pair(found: dict[str, Any], pair: dict[str, str]) -> Comparison:
    better = seeds_of(found, pair["system"], pair["better"])
    worse = seeds_of(found, pair.get("than", pair["system"]), pair["worse"])
    return compare(_sides(found, pair, spread(better), spread(worse)), better, worse)


def _sides(found: dict[str, Any], pair: dict[str, str], better: str, worse: str) -> str:
    """Sides are named by what differs between them."""
    paths = [pair[side].split("/") for side in ("better", "worse")]
    title, measure = found["systems"][pair["system"]]["title"], paths[0][2]
    what = (MEASURES | TOKENS).get(measure, BEST if measure == "best" else measure)
    if "than" in pair:
        titles = [title, found["systems"][pair["than"]]["title"]]
        family, data = zip(*(title.split(", ") for title in titles), strict=True)
        names = [row_title(name, arm) for name, (arm, *_) in zip(family, paths, strict=True)]
        return f"{data[0]}, {what}: {names[0]} {better}, {names[1]} {worse}"
    if paths[0][1] == "fine_tuned":
        arm = row_title(title, paths[0][0])
        return f"{arm}, fine-tuned: pretrained {better}, from scratch {worse}"
    one, other = next(sides for sides in zip(*paths, strict=True) if sides[0] != sides[1])
    return f"{title}, {what}: {one} {better}, {other} {worse}"
