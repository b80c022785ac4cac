"""Few-shot classification as it is published: the mean accuracy of several episodes, and how far they lie apart."""

import json
from typing import Any

import numpy as np

from ...pretraining.checkpoints.run_files import write_text
from ..arguments import FineTuneRun, resolve
from ..runner import RESULTS, fine_tune
from ..task import Task


def perform(run: FineTuneRun, task_class: type[Task[Any, Any]]) -> dict[str, Any]:
    """A run as it is or, with `data.episodes`, one for each of them, in `episode-N` of the run folder.

    Each episode draws classes, examples and weights with a seed of its own, from the run's seed on. results.json has
    the mean, and the standard deviation of a sample of episodes. The same command continues.
    """
    episodes = run.data.episodes
    if episodes is None:
        return fine_tune(run, task_class)
    seed, mains = run.training.seed, []
    for number in range(episodes):
        changed = {"seed": seed + number, "output_dir": str(run.folder / f"episode-{number}")}
        recipe = run.recipe | {
            "data": run.recipe["data"] | {"episodes": None},
            "training": run.recipe["training"] | changed,
        }
        mains.append(fine_tune(resolve(recipe, task_class), task_class)["main"])
    values = [main["value"] for main in mains]
    spread = {"value": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "values": values}
    results = {"main": mains[0] | spread}
    if run.training.process_index == 0:
        write_text(run.folder / RESULTS, json.dumps(results, indent=2) + "\n")
        metric = mains[0]["metric"]
        print(f"{episodes} episodes: {metric} {spread['value']:.3f}, standard deviation {spread['std']:.3f}")
    return results
