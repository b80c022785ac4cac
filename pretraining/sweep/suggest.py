"""A recipe for one's own data: `data2vec suggest RECIPE.yaml [--field value ...]`.

    recipe -> pilot (the same, of fewer updates) -> sweep by successive halving -> recipe with the best values, and why

The pilot is a sweep of [`command`] in OUTPUT_DIR_pilot, whose first trial has the recipe's own values. The recipe is
printed on standard output, all else on standard error. The same command resumes an interrupted pilot.
"""

import contextlib
import copy
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from scipy.stats import spearmanr

from data2vec.pretraining import recipe as recipe_file
from data2vec.pretraining.arguments import Run, field_names, resolve
from data2vec.pretraining.checkpoints.run_files import write_text
from data2vec.pretraining.command_line import SWEEP, read_suggest, suggest_fields
from data2vec.pretraining.console.redact import mask_secrets
from data2vec.pretraining.evaluation.label_free import DIRECTIONS
from data2vec.pretraining.sweep.arguments import MEASURES, REDUCTION, SweepArguments
from data2vec.pretraining.sweep.command import RESULTS, ending, parse_recipe, search
from data2vec.pretraining.sweep.fields import FASTER, TAU, own_values, without_meaning, worth_trying


SUGGESTED = "suggested.yaml"
SHARE = 1 / 20  # of the run's updates that a pilot has
FASTEST = 0.1  # 1 - tau of the fastest teacher of a pilot: one that moves faster than that is no teacher
CLEAR, FEWEST = 0.3, 5  # rank correlation that is worth a word, and trials that it needs


@dataclass(kw_only=True)
class SuggestArguments(SweepArguments):
    """The section `sweep` as `suggest` reads it."""

    space: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "as a sweep's; K, beta, the hidden share and tau if not given"}
    )
    trials: int = field(default=12, metadata={"help": "number of runs, most of which end at a ninth of the updates"})
    measure: str = field(default="feature_rank_student", metadata={"help": f"one of {', '.join(MEASURES)}"})
    pruner: str | None = field(default="halving", metadata={"help": "as a sweep's"})
    include_recipe: bool = field(
        default=True, metadata={"help": "must be true: what is suggested is compared with it"}
    )
    pilot_steps: int | None = field(
        default=None, metadata={"help": "updates of a trial; a twentieth of training.max_steps if not given, or more"}
    )

    def check_space(self) -> None:
        """There is one to begin with where none is given."""
        if self.space:
            super().check_space()


def main(argv: Sequence[str] | None = None) -> int:
    return ending(lambda: suggest(argv))


def suggest(argv: Sequence[str] | None) -> int:
    recipe = parse_recipe(argv, read_suggest, suggest_fields)  # the section sweep may be missing
    asked = SuggestArguments.from_dict(recipe.pop(SWEEP, None) or {})
    asked.require(asked.include_recipe, "include_recipe", "what is suggested is compared with the recipe")
    pilot = Pilot(recipe, asked)
    with contextlib.redirect_stdout(sys.stderr):
        sweep = search(pilot.recipe)
    text = pilot.suggestion(json.loads((sweep.folder / RESULTS).read_text(encoding="utf-8")))
    write_text(sweep.folder / SUGGESTED, text)
    print(text, end="")
    return 0


class Pilot:
    """A sweep over shorter runs of a recipe, and what it says about the recipe.

    Args:
        recipe: the sections, without `sweep`.

    Raises:
        ValueError: the recipe is none that a pilot could speak for.
    """

    def __init__(self, recipe: Mapping[str, Any], asked: SuggestArguments):
        self.full, self.asked = copy.deepcopy(dict(recipe)), asked
        self.run: Run = resolve(self.full)
        if self.run.modalities or recipe_file.STAGES in recipe:
            raise ValueError("suggest compares runs of one modality: take a recipe without modalities and stages.")
        # a field inside is set in it, so that it must be there
        self.full["objective"].setdefault("masking", self.run.objective.masking.to_dict())
        self.steps = self._steps()
        self.shorter = self.run.training.max_steps / self.steps  # how many times shorter a pilot is
        self.recipe = self._shortened()
        self.base: Run = resolve(self.recipe)
        self.space = asked.space or worth_trying(self.base)
        if not self.space:
            raise ValueError("suggest finds no field to try in this recipe: name some in sweep.space.")
        self.recipe[SWEEP] = {
            "space": self.space,
            "trials": asked.trials,
            "measure": asked.measure,
            "sampler": asked.sampler,
            "pruner": asked.pruner,
            "seed": asked.seed,
            "include_recipe": True,
        }

    def _steps(self) -> int:
        """Updates of a trial: enough that the teacher, which has to move faster in a shorter run, remains one."""
        whole, asked = self.run.training.max_steps, self.asked.pilot_steps
        if whole <= 0:
            raise ValueError("suggest needs the length of the run in updates: give training.max_steps.")
        moves = 1 - self.run.objective.ema_decay
        still = TAU in without_meaning(self.run)
        enough = REDUCTION**2 if still else max(REDUCTION**2, math.ceil(round(whole * moves * FASTER / FASTEST, 6)))
        if asked is None:
            return min(whole, max(enough, math.ceil(SHARE * whole)))
        self.asked.require(asked <= whole, "pilot_steps", f"use training.max_steps = {whole} or less")
        fix = f"use {min(enough, whole)} or more, for objective.ema_decay = {1 - moves:g} over {whole} updates"
        self.asked.require(asked >= min(enough, whole), "pilot_steps", fix)
        return asked

    def _shortened(self) -> dict[str, Any]:
        """The recipe with fewer updates; its schedules are shorter in proportion, and its teacher as much faster."""
        recipe, run = copy.deepcopy(self.full), self.run
        recipe.pop("report", None)
        training, objective = recipe["training"], recipe["objective"]
        logs = max(self.steps // REDUCTION**2, 1)
        for name in ("load_best_model_at_end", "metric_for_best_model"):
            training.pop(name, None)
        training |= {
            "output_dir": f"{run.folder}_pilot",
            "max_steps": self.steps,
            "logging_steps": max(min(logs, int(run.training.logging_steps)), 1),
            "save_steps": self.steps,
            "probe_steps": logs if self.asked.measure.startswith("probe/") else 0,
        }
        if self.asked.measure in DIRECTIONS:
            recipe["data"]["probe"] = None
        if self.shorter > 1:
            if run.training.warmup_steps >= 1:
                training["warmup_steps"] = int(run.training.warmup_steps / self.shorter)
            objective["ema_anneal_steps"] = int(run.objective.ema_anneal_steps / self.shorter)
            for name in ("ema_decay", "ema_end_decay"):
                objective[name] = faster(getattr(run.objective, name), self.shorter)
        return recipe

    def suggestion(self, results: Mapping[str, Any]) -> str:
        """The recipe as YAML, with the reasons as comments."""
        trials = results["trials"]
        own = trials[0]
        best = next((trial for trial in trials if trial["run"] == results["best"]), None)
        if best is None:
            raise ValueError(
                f"No trial of the pilot has finished. The first, {own['run']}: {own['message']} "
                f"{self.base.folder / RESULTS} says how each ended."
            )
        before = own_values(self.base, self.space)
        changed = {name: value for name, value in best["values"].items() if value != before[name]}
        reasons = {}
        recipe = dict(self.full)
        for name, value in changed.items():
            if isinstance(value, float):
                value = float(f"{value:.6g}")
            path = recipe_file.locate(name, self.full, field_names)
            was = before[name]
            if ".".join(path) == TAU and self.shorter > 1:
                value, was = faster(best["values"][name], 1 / self.shorter), self.run.objective.ema_decay
            recipe = recipe_file.override(recipe, [f"--{name}", json.dumps(value)], field_names)
            reasons[tuple(path)] = f"was {was}; {self._reason(name, trials)}"
        text = yaml.safe_dump(mask_secrets(recipe), sort_keys=False)
        return "".join(f"# {line}\n" for line in self._heading(trials, best, changed)) + with_comments(text, reasons)

    def _heading(
        self, trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any], changed: Collection[str]
    ) -> list[str]:
        measure, own = self.asked.measure, trials[0]
        to_the_end = sum(trial["state"] == "finished" for trial in trials)
        lines = [
            f"Suggested by a pilot of {self.steps} updates (the run has {self.run.training.max_steps}): {len(trials)} "
            f"trials, {to_the_end} to the end,",
            f"compared by {measure}, {'more' if MEASURES[measure] == 'maximize' else 'less'} is better.",
        ]
        of_own = f"{own['value']:.4g}" if own["value"] is not None else f"{own['state']} ({own['message']})"
        if best is own:
            lines.append(f"Nothing is changed: the recipe's own values were best, {own['value']:.4g}.")
        else:
            lines.append(f"Best was {best['run']}, {best['value']:.4g}; the recipe's own values: {of_own}.")
        if kept := [name for name in self.space if name not in changed and best is not own]:
            lines.append(f"Tried and kept: {', '.join(kept)}.")
        if not self.asked.space:
            lines += [f"Not tried: {name}, as {why}." for name, why in without_meaning(self.run).items()]
        if measure in DIRECTIONS:
            lines.append(
                "No measure without labels is reliable alone: compare both before a long run (docs/sweeping.md)."
            )
        return [*lines, f"All trials: {self.base.folder / RESULTS}"]

    def _reason(self, name: str, trials: Sequence[Mapping[str, Any]]) -> str:
        """What the trials say of a field: of all that were measured as early as the earliest comparison."""
        measure = self.asked.measure
        sign = 1 if MEASURES[measure] == "maximize" else -1
        first = min((step for trial in trials for step in trial["reported"]), key=int, default=None)
        pairs = [(trial["values"][name], trial["reported"].get(first) or trial["value"]) for trial in trials]
        when = f"at update {first}" if first else "at the end"
        found = [(x, y) for x, y in pairs if isinstance(x, int | float) and y is not None]
        if len(found) < FEWEST or len({x for x, _ in found}) < 2 or len({y for _, y in found}) < 2:
            return f"the best trial has it, {len(found)} are too few to say more"
        rank = float(spearmanr(*zip(*found, strict=True)).statistic) * sign
        said = f"of {len(found)} trials {when} (rank correlation {rank:.2f})"
        if abs(rank) < CLEAR:
            return f"the best trial has it, though {measure} hardly depends on it {said}"
        return f"{'more' if rank > 0 else 'less'} of it went with a better {measure} {said}"


def faster(decay: float, times: float) -> float:
    """The decay of a teacher that moves so many times faster."""
    return round(1 - (1 - decay) * times, 10)


def with_comments(text: str, comments: Mapping[tuple[str, ...], str]) -> str:
    """YAML with a comment above some of its fields, each named by the keys that lead to it."""
    lines = text.splitlines(keepends=True)
    found = {}
    for path, comment in comments.items():
        node: Any = yaml.compose(text)
        for key in path:
            where, node = next((k, v) for k, v in node.value if k.value == key)
        found[where.start_mark.line] = f"{' ' * where.start_mark.column}# {comment}\n"
    for line in sorted(found, reverse=True):
        lines.insert(line, found[line])
    return "".join(lines)
