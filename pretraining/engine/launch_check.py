"""Refuses what would train otherwise than it was asked to, without a word: the launchers' traps."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType
from transformers import Trainer


MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # how many processes an MPI launcher started
CONFIGS = "accelerate launch --config_file pretraining/launch/ENGINE.yaml"


def check_launch(args: Any, environment: Mapping[str, str] | None = None, config: Any = None) -> None:
    """Compare what the launcher was asked for, which its environment says, with what these processes will do.

    Args:
        args: `TrainingArguments`.
        environment: `os.environ` by default.
        config: of the model that will be trained.

    Raises:
        ValueError: names the setting, what would happen and the fix.
    """
    said = os.environ if environment is None else environment
    _check_optimizer(args)
    deepspeed = uses_deepspeed(args, said)
    fsdp = _is_true(said, "ACCELERATE_USE_FSDP") or bool(args.fsdp)
    processes = int(said.get("WORLD_SIZE", 1))

    # `accelerate launch --cpu --num_processes 2` sets an address for the processes to meet at, and starts one
    if "ACCELERATE_USE_CPU" in said and "MASTER_ADDR" in said and not {"WORLD_SIZE", *MPI} & {*said}:
        raise ValueError(
            "accelerate launch was asked for several processes on the CPU and started one. Use --multi_gpu instead of "
            f"--cpu, or {CONFIGS}, and training.use_cpu = true."
        )
    if deepspeed and args.use_cpu:
        raise ValueError(
            "training.use_cpu = True with DeepSpeed would train with DDP. Leave use_cpu out; without a GPU, set "
            "training.ddp_backend = gloo."
        )
    if processes != args.world_size:
        fix = "training.ddp_backend = gloo" if deepspeed else "training.use_cpu = true"
        if args.deepspeed:  # for which `TrainingArguments` does not look at ddp_backend
            fix += (
                " and name the file as deepspeed_config_file in accelerate's configuration, not in training.deepspeed"
            )
        raise ValueError(
            f"{processes} processes were started and each would train on its own, as if it were alone: there is no "
            f"GPU. Set {fix}."
        )
    kind = args.distributed_state.distributed_type
    if processes > 1 and kind == DistributedType.NO and not deepspeed:
        raise ValueError(
            f"{processes} processes were started that would not exchange gradients: training.ddp_backend = "
            f"{args.ddp_backend!r} without a GPU needs training.use_cpu = true."
        )
    if fsdp and processes == 1:
        raise ValueError(
            "FSDP with one process has nothing to share: use pretraining/launch/ddp.yaml or one GPU as is."
        )
    unused = leaves_unused(args, config)
    if unused and is_reentrant(args) and processes > 1 and not (deepspeed or fsdp):
        raise ValueError(
            f"training.activation_checkpointing_kwargs = {args.activation_checkpointing_kwargs} does not work with "
            f"{unused} on several processes: set use_reentrant: false."
        )
    _check_rescue(args, "DeepSpeed" if deepspeed else "FSDP" if fsdp else None)
    if deepspeed:
        _check_precision(args.deepspeed or said.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"))
    version = (args.fsdp_plugin_args or {}).get("fsdp_version", said.get("FSDP_VERSION", "1"))
    if fsdp and int(version) != 2:
        raise ValueError(
            f"fsdp_version = {version} is invalid: it flattens parameters of teacher and student into one. "
            "Use 2, as pretraining/launch/fsdp2.yaml does."
        )


def _check_optimizer(args: Any) -> None:
    """Whether the library of `training.optim` is there."""
    try:
        with contextlib.suppress(ValueError):  # of one that asks for the model, which is not here yet
            Trainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        name = getattr(args.optim, "value", args.optim)
        raise ValueError(f"training.optim = {name!r} needs a library that is not installed. {error}") from error


def _check_rescue(args: Any, sharded: str | None) -> None:
    """Whether `training.on_collapse`, which fine-tuning does not have, can do what it says."""
    how = getattr(args, "on_collapse", "stop")
    if how == "stop":
        return
    if not args.guard_patience:
        raise ValueError(f"training.guard_patience = 0: must be 1 or more with on_collapse = {how!r}.")
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if schedule in ("reduce_lr_on_plateau", "greedy") or sharded == "DeepSpeed":
        what = "DeepSpeed" if sharded == "DeepSpeed" else f"lr_scheduler_type = {schedule!r}"
        raise ValueError(f"training.on_collapse = {how!r} must be 'stop' with {what}, which sets its own rate.")
    if how == "restart_from_checkpoint" and sharded:
        raise ValueError(f"training.on_collapse = {how!r} must be 'lower_rate' or 'stop' with {sharded}.")


def uses_deepspeed(args: Any, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the arguments or the launcher ask for DeepSpeed."""
    return _is_true(environment, "ACCELERATE_USE_DEEPSPEED") or bool(args.deepspeed)


def leaves_unused(args: Any, config: Any) -> str | None:
    """The setting that leaves some parameters without a gradient in some updates; None where there is none."""
    if modalities := getattr(config, "modalities", None):
        return f"the modalities {', '.join(modalities)}"
    for section, settings, name in (("model", config, "layerdrop"), ("training", args, "freeze_encoder_steps")):
        if value := getattr(settings, name, None):
            return f"{section}.{name} = {value}"
    return None


def is_reentrant(args: Any) -> bool:
    """Whether activations are recomputed inside the backward pass of another graph, which DDP cannot look into."""
    how = args.activation_checkpointing_kwargs
    return bool(args.activation_checkpointing and how and how.get("use_reentrant", True))


def _check_precision(own: Any) -> None:
    """`own` is DeepSpeed's own configuration: a mapping, the name of its file, or neither where there is none."""
    if isinstance(own, str) and Path(own).is_file():
        own = json.loads(Path(own).read_text(encoding="utf-8"))
    for precision in ("bf16", "fp16"):
        if isinstance(own, Mapping) and (own.get(precision) or {}).get("enabled") is True:
            raise ValueError(
                f"DeepSpeed's own configuration says {precision}.enabled = true, which would round the weights, the "
                "teacher's too, and it would hardly move. Take the section out and set training.bf16 = true: weights "
                "stay fp32 and bf16 is computed in."
            )


def _is_true(said: Mapping[str, str], name: str) -> bool:
    return said.get(name, "false").lower() in ("1", "true", "yes")
