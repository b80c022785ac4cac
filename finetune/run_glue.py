"""Fine-tune a text encoder: `accelerate launch finetune/run_glue.py RECIPE.yaml [--field value ...]`.

    ... glue_base.yaml --task_name rte                 one task of GLUE, one run
    ... glue_base.yaml --sweep.tasks all               the papers' sweep, all tasks: prints the row of GLUE
    ... imdb_small.yaml --train '{path: reviews.csv}'  your own texts, one column or a pair

Started again with the same command, an interrupted run or sweep goes on where it stopped. Exit codes: see runner.py.
"""

import sys

from data2vec.finetune.command_line import check_command, read_command
from data2vec.pretraining.command_line import answer_early


if __name__ == "__main__":
    answer_early(lambda: check_command("run_glue.py"))

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data2vec.finetune.arguments import field_names, resolve
from data2vec.finetune.runner import command, fine_tune
from data2vec.finetune.task import Task
from data2vec.finetune.text.glue_sweep import plan, recipe_of_task, run_sweep
from data2vec.finetune.text.task import TextClassification, TextClassificationArguments
from data2vec.pretraining.recipe import Recipe, override


TASK: type[Task[Any, Any]] = TextClassification


def main(argv: Sequence[str] | None = None) -> int:
    return command(lambda: run_or_sweep(argv))


def run_or_sweep(argv: Sequence[str] | None) -> None:
    """One run, or a sweep where the recipe or the command line asks for one."""
    recipe, overrides = read_command(TASK.script, argv)
    names = field_names(TASK)
    overridden = override(recipe, overrides, names)
    sweep = TextClassificationArguments.from_dict(overridden["task"]).sweep
    if sweep is None or sweep.tasks is None or one_task_asked_for(recipe, overridden):
        make_run(recipe_of_task(recipe, overrides, names))
        return
    runs = plan(recipe, overrides, names, sweep)
    for run in runs:
        resolve(run.recipe, TASK)  # a slip shows now, not after hours
    run_sweep(runs, sweep, Path(overridden["training"]["output_dir"]), make_run)


def one_task_asked_for(recipe: Recipe, overridden: Recipe) -> bool:
    """Whether the command line asks for one run of a recipe that has a sweep.

    Raises:
        ValueError: it asks for both, or for what the sweep would set.
    """
    task, sweep = overridden["data"].get("task_name"), overridden["task"]["sweep"]
    if task is not None and task != recipe["data"].get("task_name") and sweep == recipe["task"].get("sweep"):
        return True
    for field, instead in (
        ("data.task_name", "tasks"),
        ("training.learning_rate", "learning_rates"),
        ("training.seed", "seeds"),
    ):
        section, name = field.split(".")
        value = overridden[section].get(name)
        if value is not None and (name == "task_name" or value != recipe[section].get(name)):
            raise ValueError(
                f"{field} = {value!r} does not work in a sweep: set task.sweep.{instead}, or, for a single run, "
                "task.sweep.tasks = null."
            )
    return False


def make_run(recipe: dict[str, Any]) -> dict[str, Any]:
    return fine_tune(resolve(recipe, TASK), TASK)


if __name__ == "__main__":
    sys.exit(main())
