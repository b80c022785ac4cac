"""The section `sweep` of a recipe: which fields are tried, and by which number the trials are compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..arguments import Run
from ..data.arguments import CheckedArguments
from ..evaluation.label_free import DIRECTIONS


# What a trial can be judged by -> which way is better. All are recorded of every trial, where the run has them.
MEASURES = {
    "probe/knn_student": "maximize",
    "probe/knn_teacher": "maximize",
    **DIRECTIONS,
    "effective_rank": "maximize",
    "position_std": "maximize",
    "target_std": "maximize",
    "prediction_std": "maximize",
    "loss": "minimize",
    "eval_loss": "minimize",
}
SAMPLERS = ("tpe", "random")
PRUNERS = {"median": "worse than the median", "halving": "not of the best third"}  # which trials each ends
REDUCTION = 3  # a third of the trials passes a rung, and trains three times as long until the next


@dataclass(kw_only=True)
class SweepArguments(CheckedArguments):
    """What a sweep varies and compares."""

    where: ClassVar[str] = "sweep"

    space: dict[str, Any] = field(
        metadata={
            "help": "field -> {low, high} (whole numbers if both are; log: true draws on a logarithmic scale) or "
            "{choices: [...]}"
        }
    )
    trials: int = field(default=20, metadata={"help": "number of runs; a larger number extends a finished sweep"})
    measure: str = field(default="probe/knn_student", metadata={"help": f"one of {', '.join(MEASURES)}"})
    sampler: str = field(default="tpe", metadata={"help": "tpe learns from the trials so far; random does not"})
    pruner: str | None = field(
        default=None,
        metadata={
            "help": "median stops a trial that is worse than the median of the others at the same step; halving, "
            "after a ninth and a third of its steps, one that is not of the best third"
        },
    )
    include_recipe: bool = field(
        default=False, metadata={"help": "the first run has the recipe's own values, for comparison"}
    )
    seed: int = field(default=0, metadata={"help": "seed for drawing values; all runs use training.seed"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.trials >= 1, "trials", "use 1 or more")
        self.require(self.seed >= 0, "seed", "use 0 or more")
        self.require(self.measure in MEASURES, "measure", f"use one of {', '.join(MEASURES)}")
        self.require(self.sampler in SAMPLERS, "sampler", f"use one of {', '.join(SAMPLERS)}")
        self.require(self.pruner is None or self.pruner in PRUNERS, "pruner", f"use {', '.join(PRUNERS)}, or null")
        during = self.pruner != "median" or self.measure not in DIRECTIONS
        fix = f"{self.measure} is measured at the end of a trial and for halving, use that or leave pruner out"
        self.require(during, "pruner", fix)
        self.check_space()

    def check_space(self) -> None:
        self.require(bool(self.space), "space", "name a field: {objective.top_k_layers: {low: 1, high: 4}}")
        for name, values in self.space.items():
            _check_values(name, values)

    @property
    def direction(self) -> str:
        return MEASURES[self.measure]

    def rungs(self, steps: int) -> list[int]:
        """After how many of its steps a trial is compared by `halving`."""
        first = steps // REDUCTION**2
        return [first, REDUCTION * first] if self.pruner == "halving" else []

    def check_measured(self, run: Run) -> None:
        """ValueError where the runs would not have the measure."""
        if run.modalities:
            raise ValueError("A sweep compares runs of one modality: take a recipe without modalities.")
        enough = self.pruner != "halving" or run.training.max_steps >= REDUCTION**2
        self.require(enough, "pruner", f"it needs training.max_steps of {REDUCTION**2} or more")
        if self.measure.startswith("probe/"):
            there = run.data.probe is not None and run.training.probe_steps > 0
            fix = "give labelled data, data.probe, and training.probe_steps; or use a measure without labels"
        elif self.measure in DIRECTIONS:
            there = not run.data.streaming or bool(run.data.eval_sources)
            fix = "a stream is not read again for it, give data.eval_sources or use another measure"
        elif self.measure == "eval_loss":
            there = bool(run.data.eval_sources) and run.training.eval_strategy != "no"
            fix = "give data.eval_sources and training.eval_strategy"
        else:
            return
        self.require(there, "measure", fix)


def _check_values(name: str, values: Any) -> None:
    def refuse(fix: str) -> None:
        raise ValueError(f"sweep.space.{name} = {values!r} is invalid: {fix}.")

    if not isinstance(values, Mapping) or not ({"choices"} == set(values) or {"low", "high"} <= set(values)):
        return refuse("give {low: 1, high: 4}, or {choices: [1, 4]}")
    if "choices" in values:
        choices = values["choices"]
        if not isinstance(choices, list) or not choices:
            return refuse("choices is a list of values")
        if not all(choice is None or isinstance(choice, bool | int | float | str) for choice in choices):
            return refuse("choices are numbers, words, true, false or null")
        return None
    surplus = set(values) - {"low", "high", "log"}
    if surplus:
        return refuse(f"{min(surplus)!r} is none of low, high, log")
    low, high, log = values["low"], values["high"], values.get("log", False)
    if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in (low, high)):
        return refuse("low and high are numbers")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return refuse("low is less than high")
    if not isinstance(log, bool):
        return refuse("log is true or false")
    if log and low <= 0:
        return refuse("with log: true, low is above 0")
    return None
