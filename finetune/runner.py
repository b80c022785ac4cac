"""One run: recipe -> data -> model -> trainer -> evaluation -> run folder.

    model.safetensors, config.json, the processor   what the Auto classes and `pipeline` open
    results.json                                    {split: {metric: value}, "main": {...}}
    predictions/                                    see predictions.py
    recipe.yaml, run.json, trainer_state.json       what made it
    checkpoint-N/                                   what an interrupted run continues from

The same command resumes an interrupted run from its newest intact checkpoint, exactly, and a
finished one says so. Exit codes, as in pretraining: 0 done; 2 refused (the message names the field or the row, and the
fix); 4 preempted: SIGTERM or SIGINT ended it after a checkpoint; 5 something could not be written; 6 stopped because
the loss was not finite, or exploded.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import set_seed

from ..pretraining.checkpoints.resume import find_checkpoint
from ..pretraining.checkpoints.run_files import write_text
from ..pretraining.checkpoints.run_folder import (
    check_checkpoints,
    check_same_recipe,
    identity_of,
    write_run_files,
)
from ..pretraining.checkpoints.storage import StorageError, claimed, exit_code
from ..pretraining.console.help import EXIT_PREEMPTED, EXIT_STORAGE, end
from ..pretraining.console.libraries import quiet_libraries
from ..pretraining.engine.launch_check import check_launch
from ..pretraining.monitoring.run_summary import RunSummary
from .arguments import FineTuneRun, parse
from .command_line import SECTIONS
from .predictions import write_rows
from .task import VALIDATION, Task, TaskData
from .trainer import FineTuneTrainer


logger = logging.getLogger(__name__)

RESULTS = "results.json"
# Fields of `training` that say where a run computes and what it logs, not what comes out; and the task's name.
FREE = (
    "name",
    "output_dir", "report_to", "run_name", "disable_tqdm", "logging_steps", "save_total_limit", "use_cpu", "bf16",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_pin_memory",
    "push_to_hub", "hub_model_id", "hub_revision", "hub_private_repo", "per_device_eval_batch_size",
)  # fmt: skip


class Preempted(RuntimeError):
    """A signal ended the run after a checkpoint."""


def run(
    task_class: type[Task[Any, Any]],
    argv: Sequence[str] | None = None,
    perform: Callable[[FineTuneRun, type[Task[Any, Any]]], Any] | None = None,
) -> int:
    """The command of a task; returns its exit code. `perform`, by default `fine_tune`, is what is done."""
    return command(lambda: (perform or fine_tune)(parse(argv, task_class), task_class))


def command(work: Callable[[], Any]) -> int:
    """Do what a command line asked for; returns the exit code, and says why where that is not 0."""
    code = 0
    quiet_libraries()
    try:
        work()
    except Preempted as error:
        print(error, file=sys.stderr)
        code = EXIT_PREEMPTED
    except Exception as error:  # a BadExample is a ValueError
        ended = exit_code(error)
        if ended is None:
            raise
        if ended == EXIT_STORAGE and not isinstance(error, StorageError):  # of predictions or results
            error = StorageError(f"{error}. Make room and give the same command again.")
        return end(ended, error)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return code


def fine_tune(run: FineTuneRun, task_class: type[Task[Any, Any]]) -> dict[str, Any]:
    """Train, evaluate and write the run folder; returns what results.json holds.

    Raises:
        ValueError: the run is refused; the message names the field or the row, and the fix.
        Preempted: a signal ended it after a checkpoint.
        FloatingPointError: the loss was not finite, or exploded.
        StorageError: something could not be written; the last checkpoint is intact.
    """
    finished = run.folder / RESULTS
    identity = identity_of(run.recipe, SECTIONS, FREE)
    check_checkpoints(run.folder, identity)
    if finished.is_file():
        check_same_recipe(run.folder, identity, FREE)
        print(f"{run.folder} is finished: {finished} holds its results. Use another training.output_dir to repeat it.")
        results: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return results
    set_seed(run.training.seed)
    check_launch(run.training, config=run.config)
    task = task_class(run)
    with run.training.main_process_first(desc="opening the data"):  # what one process has read is then cached
        data = task.build_data()
    _choose_best_by(task, data, run)
    model = task.build_model(data)
    trainer = FineTuneTrainer(model, run.training, task, data)
    trainer.add_callback(RunSummary({"data": f"{len(data.train):,} training examples", "weights": task.weights}))
    trainer.identity = identity
    with claimed(run.folder) if trainer.is_world_process_zero() else contextlib.nullcontext():
        return _train_and_evaluate(trainer, task, data, run)


def _train_and_evaluate(
    trainer: FineTuneTrainer, task: Task[Any, Any], data: TaskData, run: FineTuneRun
) -> dict[str, Any]:
    checkpoint = find_checkpoint(run.training)
    if trainer.is_world_process_zero():
        write_run_files(run.folder, run.recipe)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.preempted:
        raise Preempted(f"{run.folder}: stopped by a signal. The same command continues.")
    if trainer.diverged is not None:
        raise FloatingPointError(trainer.diverged)
    if trainer.average is not None:
        trainer.average.copy_to_model()
        trainer.average = None
    task.after_training(trainer, data)
    trainer.save_model()
    trainer.save_state()
    return _evaluate(trainer, task, data, run)


def _choose_best_by(task: Task[Any, Any], data: TaskData, run: FineTuneRun) -> None:
    """`load_best_model_at_end` means the task's main metric, unless the recipe names another one."""
    if run.training.load_best_model_at_end and "metric_for_best_model" not in run.recipe["training"]:
        run.training.metric_for_best_model = task.main_metric
        run.training.greater_is_better = task.greater_is_better


def _evaluate(trainer: FineTuneTrainer, task: Task[Any, Any], data: TaskData, run: FineTuneRun) -> dict[str, Any]:
    """Predict every split, write its rows, and results.json last of all: it says that the run is finished."""
    results: dict[str, Any] = {}
    folder = run.folder / "predictions"
    for split, examples in data.evaluation.items():
        output = trainer.predict(examples, metric_key_prefix=split)
        metrics = output.metrics or {}
        results[split] = {
            name.removeprefix(f"{split}_"): value
            for name, value in metrics.items()
            if not name.endswith(("_runtime", "_per_second", "_preparation_time"))
        }
        results[split]["examples"] = len(examples)
        trainer.log_metrics(split, metrics)
        if trainer.is_world_process_zero():
            rows = task.rows(output.predictions, output.label_ids, examples)
            write_rows(folder, split, rows)
            task.write_extra(folder, split, rows)
    if results:
        # the split that chose nothing, where there is one
        split = next((name for name in results if not name.startswith(VALIDATION)), next(iter(results)))
        results["main"] = {"split": split, "metric": task.main_metric, "value": results[split][task.main_metric]}
    results |= task.results_extra()
    results["run"] = {
        "task": task.name,
        "from_scratch": run.from_scratch,
        "seed": run.training.seed,
        "train_examples": len(data.train),
        "left_out": {examples.name: dict(examples.left_out) for examples in _all(data) if examples.left_out},
    }
    if trainer.is_world_process_zero():
        write_text(run.folder / RESULTS, json.dumps(results, indent=2) + "\n")
        print(f"See it with:      data2vec report {run.folder}")
        print(f"Its card is by:   data2vec card {run.folder}")
    return results


def _all(data: TaskData) -> list[Any]:
    return [data.train, *data.evaluation.values()]
