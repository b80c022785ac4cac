"""Pretrain: `accelerate launch pretraining/run.py RECIPE.yaml [--field value ...]`.

    recipe -> arguments -> data -> model -> trainer -> run folder (encoder at the top, pretraining/, checkpoint-N/)

The same command resumes an interrupted run from its newest intact checkpoint, exactly. Exit
codes: 0 done; 2 refused (the message names the field and the fix); 3 stopped because the representation collapsed;
4 preempted: SIGTERM or SIGINT ended it after a checkpoint; 5 something could not be written, a full disk for example;
6 stopped because the loss was not finite, or exploded. `health.json` in the run folder says the same in words, also
where a launcher makes 1 of every code.
"""

import sys

from data2vec.pretraining.command_line import DRY_RUN, answer_early, check_command


if __name__ == "__main__":
    answer_early(check_command)

import contextlib
import copy
import shutil
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, TrainerCallback, set_seed

from data2vec.pretraining.arguments import Part, Run, read_arguments, resolve
from data2vec.pretraining.checkpoints.resume import find_checkpoint
from data2vec.pretraining.checkpoints.run_folder import (
    check_checkpoints,
    identity_of,
    write_run_files,
)
from data2vec.pretraining.checkpoints.storage import WRITING, StorageError, claimed, exit_code, storage_error
from data2vec.pretraining.console.help import EXIT_COLLAPSED, EXIT_DIVERGED, EXIT_PREEMPTED, EXIT_REFUSED, end
from data2vec.pretraining.console.libraries import new_weights, quiet_libraries
from data2vec.pretraining.engine.launch_check import check_launch
from data2vec.pretraining.evaluation.online_probe import ProbeCallback, fitted_and_measured
from data2vec.pretraining.evaluation.probe import teacher_encoder
from data2vec.pretraining.evaluation.report import write_report
from data2vec.pretraining.modalities.build import BadExample, PretrainingData, build_data
from data2vec.pretraining.modalities.joint import join
from data2vec.pretraining.monitoring.health import Health, logged_to
from data2vec.pretraining.monitoring.logs import logs_of
from data2vec.pretraining.monitoring.run_summary import RunSummary
from data2vec.pretraining.recipe import MODALITIES, STAGES
from data2vec.pretraining.stages import run_stages
from data2vec.pretraining.trainer import Data2VecTrainer


STATES = {0: "finished", EXIT_COLLAPSED: "collapsed", EXIT_PREEMPTED: "preempted", EXIT_DIVERGED: "diverged"}


def identity(run: Run) -> dict[str, Any]:
    """What must stay the same for the run to continue; its length, devices and batch size may change."""
    seeded = {**run.recipe, "training": {"seed": run.training.seed}}
    sections = [name for name in ("model", "objective", "data", MODALITIES, "training") if name in seeded]
    return identity_of(seeded, sections, free=("num_proc",))


def open_data(run: Run) -> PretrainingData:
    args = run.training
    with args.main_process_first(desc="opening the data"):  # what one process has read or tokenised is then cached
        parts = {
            name: build_data(
                part.data,
                config=part.config,
                objective=part.objective,
                seed=args.seed,
                batch_size=part.batch_size or args.per_device_train_batch_size,
                num_processes=args.world_size,
                process_index=args.process_index,
                gradient_accumulation_steps=args.gradient_accumulation_steps,
                name=name,
            )
            for name, part in run.parts.items()
        }
    if not run.modalities:
        return parts[""]
    weights = {name: part.weight for name, part in run.modalities.items()}
    together = args.world_size * args.gradient_accumulation_steps
    return join(parts, weights, seed=args.seed, batches_per_update=together)


def prepare(run: Run, stack: contextlib.ExitStack) -> tuple[PretrainingData, str | None]:
    """Claim and write the run folder until `stack` is closed; returns the data and the checkpoint to continue from.

    Raises:
        ValueError, FileNotFoundError: the folder, the data or the launch is refused.
        StorageError: the folder cannot be written.
    """
    args = run.training
    check_launch(args, config=run.config)
    check_checkpoints(run.folder, identity(run))
    set_seed(args.seed)
    data = open_data(run)
    if args.process_index == 0:
        stack.enter_context(claimed(run.folder))
    stack.enter_context(logged_to(run.folder, args.process_index))
    checkpoint = find_checkpoint(args)
    try:
        if args.process_index == 0:
            write_run_files(run.folder, run.recipe)
        data.record_skipped(run.folder, args.process_index)
    except OSError as error:
        raise storage_error(run.folder, error) from error
    return data, checkpoint


class Refused(ValueError):
    """Something that the recipe asks for does not fit the model or this machine; nothing was trained yet."""


def build_model(run: Run) -> tuple[Any, dict[str, str]]:
    """The model of a recipe, and for the summary where its weights are from.

    Raises:
        Refused: a checkpoint's weights do not fit it.
    """
    facts: dict[str, str] = {}
    if run.checkpoint is None:
        model = run.model_class(run.config)
    else:
        model, facts["weights"] = _from_checkpoint(run)
    started = {name: part for name, part in run.modalities.items() if part.checkpoint is not None}
    for name, part in reversed(started.items()):  # the first one's blocks are the trunk
        own, facts[f"weights of {name}"] = _from_checkpoint(part)
        model.parts[name].load_state_dict(own.state_dict())
    for name, part in run.parts.items():
        if part.objective.teacher is not None:
            facts[f"teacher of {name}".removesuffix(" of ")] = _load_teacher(model.parts[name], part.objective.teacher)
    return model, facts


def _load_teacher(model: Any, folder: str) -> str:
    """Another model's weights into the teacher; says what they lack."""
    try:
        teacher, loading = AutoModel.from_pretrained(folder, trust_remote_code=False, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(f"objective.teacher = {folder!r}: its weights cannot be opened. {error}") from error
    model.teacher.model.load_state_dict(teacher.state_dict())
    return new_weights(loading, folder) or f"all from {folder}"


def _from_checkpoint(part: Part) -> tuple[Any, str]:
    try:
        model, loading = part.model_class.from_pretrained(
            part.checkpoint, config=part.config, output_loading_info=True
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise Refused(
            f"model.model_name_or_path = {part.checkpoint!r}: its weights do not fit this recipe's model. Leave out "
            f"the fields of objective that change its head or decoder, or start from the encoder. {error}"
        ) from error
    return model, new_weights(loading, str(part.checkpoint)) or f"all from {part.checkpoint}"


def pretrain(
    run: Run, data: PretrainingData, checkpoint: str | None, callbacks: Sequence[TrainerCallback] = ()
) -> int:
    """Train to the end of the run, from a checkpoint or from the start; returns the exit code."""
    args, facts = run.training, {"data": data.describe()}
    model, loaded = build_model(run)
    facts |= loaded
    untrained: dict[str, Any] = {}
    if run.report is not None:  # what the report compares with has the same weights as at the start, or random ones
        started = any(part.checkpoint is not None for part in (run, *run.modalities.values()))
        fresh = run.model_class(run.config) if started else model
        untrained = copy.deepcopy({name: part.base_model for name, part in fresh.parts.items()})

    trainer = Data2VecTrainer(model, args, data)
    trainer.identity = identity(run)
    probes: dict[str, Any] = {name: part for name, part in data.parts.items() if part.probe_train is not None}
    for name, part in probes.items() if args.probe_steps else ():
        probe: Any = (*fitted_and_measured(part.probe_train, part.probe_validation, args.seed), part.probe_collator)
        how: dict[str, Any] = {"probe_steps": args.probe_steps, "svm": run.parts[name].data.probe.svm}
        trainer.add_callback(ProbeCallback(trainer, *probe, **how, clock=trainer.clock, modality=name))
    health = Health(run.folder, data.skipped)
    for callback in (health, RunSummary(facts), *callbacks):
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        code, message = how_it_ended(trainer)
        if code == 0:
            trainer.save_model()
            trainer.save_state()
            finished: Any = trainer.whole_model() if run.report is not None else None
            if run.report is not None and trainer.is_world_process_zero():
                for name, split in probes.items():
                    measured = finished.parts[name]
                    write_report(
                        run.folder,
                        modality=name,
                        pretrained=measured.base_model,
                        teacher=teacher_encoder(measured),
                        untrained=untrained[name],
                        probe_train=split.probe_train,
                        probe_test=split.probe_test,
                        collate=split.probe_collator,
                        log_history=[logs_of(row, name) for row in trainer.state.log_history],
                        class_names=split.label_names,
                        settings=run.report,
                        seed=args.seed,
                    )
    except BaseException as error:
        if trainer.is_world_process_zero():  # room for health.json on a disk that is full
            shutil.rmtree(run.folder / WRITING, ignore_errors=True)
        with contextlib.suppress(StorageError):
            health.finish("failed", f"{type(error).__name__}: {error}")
        raise
    line = health.finish(STATES[code], message)
    if trainer.is_world_process_zero():
        print(line)
        if code == 0:
            for line in what_next(run):
                print(line)
    return code


def what_next(run: Run) -> list[str]:
    """Commands for the folder of a finished run."""
    if run.modalities:
        return [f"A folder of each modality:  data2vec split {run.folder} OUT"]
    return [
        f"See it with:        data2vec report {run.folder}",
        f"Fine-tune it with:  data2vec finetune RECIPE --model_name_or_path {run.folder}",
    ]


def how_it_ended(trainer: Data2VecTrainer) -> tuple[int, str | None]:
    """The exit code of a training, and why it stopped early."""
    if trainer.collapsed is not None:
        return EXIT_COLLAPSED, trainer.collapsed
    if trainer.diverged is not None:
        return EXIT_DIVERGED, trainer.diverged
    if trainer.preempted:
        return EXIT_PREEMPTED, "Stopped by a signal. The same command continues."
    return 0, None


def main(argv: Sequence[str] | None = None) -> int:
    quiet_libraries()
    running = False

    def train(run: Run) -> int:
        nonlocal running
        running = False
        with contextlib.ExitStack() as stack:
            data, checkpoint = prepare(run, stack)
            running = True
            return pretrain(run, data, checkpoint)

    try:
        recipe = read_arguments(argv)
        if DRY_RUN in (sys.argv if argv is None else argv):
            from data2vec.pretraining.dry_run import dry_run

            dry_run(resolve(recipe))
            return 0
        code = run_stages(recipe, train, open_data) if STAGES in recipe else train(resolve(recipe))
    except Exception as error:
        ended = exit_code(error)
        faulty = running and ended == EXIT_REFUSED and not isinstance(error, BadExample | Refused)
        if ended is None or faulty:
            raise
        return end(ended, error)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return code


if __name__ == "__main__":
    sys.exit(main())
