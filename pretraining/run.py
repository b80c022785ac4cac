"""Pretrain: `accelerate launch pretraining/run.py RECIPE.yaml [--field value ...]`.

    recipe -> arguments -> data -> model -> trainer -> run folder (encoder at the top, pretraining/, checkpoint-N/)

Started again with the same command, an interrupted run continues from its newest checkpoint. Exit codes: 0 done,
2 refused (the message names the field and the fix), 3 stopped because the representation collapsed.
"""

import copy
import json
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
import yaml
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from data2vec.pretraining.arguments import Run, parse_arguments, parse_yaml
from data2vec.pretraining.callbacks_probe import ProbeCallback
from data2vec.pretraining.data import BadExample, PretrainingData, build_data
from data2vec.pretraining.probe import teacher_encoder
from data2vec.pretraining.report import write_report
from data2vec.pretraining.trainer import Data2VecTrainer


LIBRARIES = ("data2vec", "torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors")
EXIT_REFUSED, EXIT_COLLAPSED = 2, 3


def write_run_files(run: Run) -> None:
    """What made this run: the resolved recipe, the command and the versions."""
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(run.recipe, sort_keys=False), encoding="utf-8")
    facts = {
        "command": shlex.join(sys.argv),
        "versions": {name: version(name) for name in LIBRARIES},
        "python": sys.version.split()[0],
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {torch.get_num_threads()} threads",
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def check_same_run(run: Run) -> None:
    """Refuse to continue a run folder with another model, objective or data; other lengths and devices are fine."""
    folder = run.folder
    written = folder / "recipe.yaml"
    if not written.is_file() or not folder.is_dir() or get_last_checkpoint(str(folder)) is None:
        return
    before = parse_yaml(written.read_text(encoding="utf-8"))
    for section in ("model", "objective", "data"):
        old, new = before[section], run.recipe[section]
        if old != new:
            names = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            raise ValueError(
                f"{folder} holds a run with another {section}.{names[0]}: {old.get(names[0])!r} there, "
                f"{new.get(names[0])!r} here. Use another training.output_dir, or remove it."
            )


def open_data(run: Run) -> PretrainingData:
    args = run.training
    with args.main_process_first(desc="opening the data"):  # what one process has read or tokenised is then cached
        return build_data(
            run.data,
            config=run.config,
            objective=run.objective,
            seed=args.seed,
            batch_size=args.per_device_train_batch_size,
            num_processes=args.world_size,
            process_index=args.process_index,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
        )


def pretrain(run: Run, data: PretrainingData) -> int:
    """Train to the end of the run; returns the exit code."""
    args = run.training
    if run.checkpoint is None:
        model = run.model_class(run.config)
    else:
        model = run.model_class.from_pretrained(run.checkpoint, config=run.config)
    untrained: Any = None
    if run.report is not None:  # what the report compares with has the same weights as at the start, or random ones
        untrained = (
            copy.deepcopy(model.base_model) if run.checkpoint is None else run.model_class(run.config).base_model
        )

    trainer = Data2VecTrainer(model, args, data)
    probe: Any = (data.probe_train, data.probe_test, data.probe_collator)
    if args.probe_steps:
        trainer.add_callback(ProbeCallback(trainer, *probe, probe_steps=args.probe_steps))
    if trainer.is_world_process_zero():
        write_run_files(run)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(run.folder)) if run.folder.is_dir() else None)
    if trainer.guard.explanation is not None:
        return EXIT_COLLAPSED

    trainer.save_model()
    trainer.save_state()
    if run.report is not None and trainer.is_world_process_zero():
        write_report(
            run.folder,
            pretrained=model.base_model,
            teacher=teacher_encoder(model),
            untrained=untrained,
            probe_train=probe[0],
            probe_test=probe[1],
            collate=probe[2],
            log_history=trainer.state.log_history,
            class_names=data.label_names,
            settings=run.report,
            seed=args.seed,
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run = parse_arguments(argv)
        check_same_run(run)
        set_seed(run.training.seed)
        data = open_data(run)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    try:
        code = pretrain(run, data)
    except BadExample as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return code


if __name__ == "__main__":
    sys.exit(main())
