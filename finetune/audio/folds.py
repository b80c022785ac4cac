"""Cross-validation: every fold is the test set once, the others are trained on.

folds: [fold1, fold2, ...]                               splits of train.path
folds: [theo, lucas, ...], fold_column: speaker_id       values of a column, of the one split train.split
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..arguments import FineTuneRun, resolve
from ..data_arguments import LabelledSource
from ..runner import fine_tune
from ..task import Task


FOLDS = "folds.json"


def holding_out(
    source: LabelledSource, folds: Sequence[str | int], fold: int, column: str | None
) -> tuple[LabelledSource, LabelledSource]:
    """The sources of training and test with fold `fold`, from 1, held out.

    Raises:
        ValueError: `source` chooses splits or rows that the folds choose.
    """
    held_out = folds[fold - 1]
    if column is None:
        if source.split is not None:
            raise ValueError(
                f"data.train.split = {source.split!r} is invalid: data.folds are the splits, leave it out."
            )
        rest = "+".join(str(name) for name in folds if name != held_out)
        return replace(source, split=rest), replace(source, split=str(held_out))
    if column in (source.keep or {}) or column in (source.drop or {}):
        raise ValueError(f"data.train.keep and drop cannot name {column}: data.fold_column does, leave it out there.")
    rest_rows = {column: [value for value in folds if value != held_out]}
    return (
        replace(source, keep={**(source.keep or {}), **rest_rows}),
        replace(source, keep={**(source.keep or {}), column: [held_out]}),
    )


def every_fold(run: FineTuneRun, task_class: type[Task[Any, Any]]) -> dict[str, Any]:
    """Fine-tune as the recipe says: once, or for every fold where it has folds and names none of them."""
    return run_folds(run, task_class) if run.data.folds and run.data.fold is None else fine_tune(run, task_class)


def run_folds(run: FineTuneRun, task_class: type[Task[Any, Any]]) -> dict[str, Any]:
    """Fine-tune and test once a fold, each in a folder of its own; finished folds are not run again.

    Returns:
        What is written to folds.json: mean and standard deviation (n - 1) of the test metrics, and those of each fold.
    """
    results = []
    folds = run.data.folds
    for number, fold in enumerate(folds, start=1):
        recipe = copy.deepcopy(run.recipe)
        recipe["data"]["fold"] = number
        recipe["training"]["output_dir"] = str(run.folder / f"fold{number}")
        print(f"fold {number} of {len(folds)}: {fold!r} is the test set")
        results.append(fine_tune(resolve(recipe, task_class), task_class))
    summary = summarise([result["test"] for result in results], folds)
    summary = {"metric": results[0]["main"]["metric"], **summary}
    if run.training.process_index == 0:
        (run.folder / FOLDS).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        for name, mean in summary["mean"].items():
            print(f"{name}: {mean:.4f} +- {summary['std'][name]:.4f} (mean and spread of {len(folds)} folds)")
    return summary


def summarise(tests: Sequence[dict[str, Any]], folds: Sequence[str | int]) -> dict[str, Any]:
    names = [name for name in tests[0] if name != "examples"]
    values = {name: [float(test[name]) for test in tests] for name in names}
    return {
        "mean": {name: float(np.mean(of_folds)) for name, of_folds in values.items()},
        "std": {name: float(np.std(of_folds, ddof=1)) for name, of_folds in values.items()},
        "folds": [{"fold": fold, **test} for fold, test in zip(folds, tests, strict=True)],
    }
