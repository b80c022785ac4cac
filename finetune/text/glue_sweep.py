"""The sweep behind a row of GLUE: tasks x learning rates x seeds, each a run of its own, resumed where it stopped.

    OUTPUT_DIR/TASK/lr_2e-05_seed_0/   a run folder, see runner.py
    OUTPUT_DIR/glue_row.json, .md      the row so far, written after every run

A finished run is not repeated and an interrupted one continues from its checkpoint, so the same command again goes on
with the sweep; more seeds or learning rates later are added to it.
"""

import gc
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate import PartialState

from ...pretraining import recipe as recipe_file
from ...pretraining.data.arguments import CheckedArguments
from ...pretraining.shared_arguments import checked_folder
from .glue_row import GlueRow, Splits, Statistic, as_markdown, make_row, run_score, write_row
from .glue_tasks import AVERAGED, GLUE


logger = logging.getLogger(__name__)

ALL = "all"
RESULTS = "results.json"


@dataclass(kw_only=True)
class GlueSweep(CheckedArguments):
    """What is swept. The defaults are RoBERTa's way of reporting: each task's best learning rate, median of seeds."""

    where: ClassVar[str] = "task.sweep"

    tasks: str | list[str] | None = field(
        default=None,
        metadata={
            "help": f"{ALL} (the eight that papers average), one or a list of {', '.join(GLUE)}; null: no sweep"
        },
    )
    learning_rates: list[float] = field(
        default_factory=list, metadata={"help": "learning rates; each is tried with every seed"}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "seeds for head, dropout and order"}
    )
    over_seeds: Statistic = field(default="median", metadata={"help": "mean or median of the seeds in the row"})
    shared_learning_rate: bool = field(
        default=False,
        metadata={"help": "one learning rate for all tasks, with the best average; otherwise the best of each task"},
    )
    keep_weights: Literal["best", "all"] = field(
        default="best", metadata={"help": "which runs of a task keep their weights; best saves disk space"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is None:
            return
        for name in self.names:
            self.require(name in GLUE, "tasks", f"use {ALL} or some of {', '.join(GLUE)}")
        self.require(bool(self.names), "tasks", f"use {ALL} or some of {', '.join(GLUE)}")
        self.require(bool(self.learning_rates), "learning_rates", "name one or more")
        self.require(bool(self.seeds), "seeds", "name one or more")

    @property
    def names(self) -> tuple[str, ...]:
        if self.tasks is None or self.tasks == ALL:
            return AVERAGED
        return (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks)


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep."""

    task: str
    learning_rate: float
    seed: int
    recipe: dict[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.recipe["training"]["output_dir"])


def recipe_of_task(
    recipe: recipe_file.Recipe, overrides: Sequence[str], field_names: recipe_file.FieldNames, task: str | None = None
) -> dict[str, Any]:
    """The recipe of one task: the file, what `task.per_task` changes for it, and above both the command line.

    `task` is by default what `data.task_name` says; without one the recipe is as it stands. The sweep's own fields are
    left out, so that a run does not depend on which others are made beside it.
    """
    overridden = recipe_file.override(recipe, overrides, field_names)
    task = task or overridden["data"].get("task_name")
    changes = (overridden["task"].get("per_task") or {}).get(task, {})
    changed = {section: dict(fields) for section, fields in recipe.items()}
    for section, fields in changes.items():
        if section not in changed or not isinstance(fields, Mapping):
            raise ValueError(
                f"task.per_task.{task}.{section} = {fields!r} is invalid: use fields of "
                f"{', '.join(changed)}, e.g. {{training: {{learning_rate: 1e-5}}}}."
            )
        changed[section] |= fields
    changed = recipe_file.override(changed, overrides, field_names)
    if task is not None:
        changed["data"]["task_name"] = task
    changed["task"] = {name: value for name, value in changed["task"].items() if name not in ("sweep", "per_task")}
    return changed


def plan(
    recipe: recipe_file.Recipe, overrides: Sequence[str], field_names: recipe_file.FieldNames, sweep: GlueSweep
) -> list[SweptRun]:
    """Every run of the sweep, in order. With `all`, tasks that a local folder lacks are left out, and said."""
    runs = []
    for task in sweep.names:
        own = recipe_of_task(recipe, overrides, field_names, task)
        root = Path(own["data"].get("glue", "")).expanduser()
        if sweep.tasks == ALL and "glue" in own["data"] and root.is_dir():
            if not (root / task).is_dir() and "train" not in own["data"]:
                logger.warning("%s is left out: %s has no folder %r", GLUE[task].title, root, task)
                continue
        folder = checked_folder(own["training"].get("output_dir"))
        for rate in sweep.learning_rates:
            for seed in sweep.seeds:
                output = str(Path(folder) / task / f"lr_{rate:g}_seed_{seed}")
                training = {**own["training"], "learning_rate": rate, "seed": seed, "output_dir": output}
                runs.append(SweptRun(task, rate, seed, {**own, "training": training}))
    if not runs:
        raise ValueError(f"task.sweep.tasks = {sweep.tasks!r}: data.glue has none of them.")
    return runs


def run_sweep(runs: Sequence[SweptRun], sweep: GlueSweep, folder: Path, make_run: Any) -> GlueRow:
    """Make every run that is not finished with `make_run(recipe) -> results`; returns the row."""
    state = PartialState()
    for number, run in enumerate(runs, start=1):
        results = make_run(run.recipe)
        score = run_score(development_splits(results, run.task))
        logger.info("%s is done", run.folder)
        if state.is_main_process:
            say = f"{GLUE[run.task].title}, learning rate {run.learning_rate:g}, seed {run.seed}"
            print(f"[{number}/{len(runs)}] {say}: {100 * score:.1f}", flush=True)
            _remove_weights(runs, run.task, sweep)
            write_row(row_of(runs, sweep), folder)
        gc.collect()  # a model and its optimizer, before the next ones are made
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        state.wait_for_everyone()
    row = row_of(runs, sweep)
    if state.is_main_process:
        print(as_markdown(row), end="")
        print(f"\nThe row is in {folder / 'glue_row.md'} and .json.")
    return row


def row_of(runs: Sequence[SweptRun], sweep: GlueSweep) -> GlueRow:
    """The row of all runs that are finished."""
    found: dict[str, dict[float, dict[int, Splits]]] = {}
    for run in runs:
        if (results := read_results(run.folder)) is not None:
            rates = found.setdefault(run.task, {})
            rates.setdefault(run.learning_rate, {})[run.seed] = development_splits(results, run.task)
    return make_row(found, sweep.over_seeds, sweep.shared_learning_rate)


def read_results(folder: Path) -> dict[str, Any] | None:
    """What a finished run measured."""
    file = folder / RESULTS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def development_splits(results: Mapping[str, Any], task: str) -> Splits:
    """The metrics of the task's development splits, under GLUE's names."""
    first, *others = GLUE[task].validation_splits
    names = {"validation": first, **{name: name for name in others}}
    return {
        names[split]: {name: value for name, value in metrics.items() if name not in ("loss", "examples")}
        for split, metrics in results.items()
        if split in names
    }


def _remove_weights(runs: Sequence[SweptRun], task: str, sweep: GlueSweep) -> None:
    """Checkpoints of finished runs, and the weights of all but the task's best one."""
    scores = {
        run.folder: run_score(development_splits(results, task))
        for run in runs
        if run.task == task and (results := read_results(run.folder)) is not None
    }
    best = max(scores, key=lambda folder: scores[folder])
    for folder in scores:
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        if sweep.keep_weights == "best" and folder != best:
            for weights in folder.glob("model*.safetensors*"):
                weights.unlink()
