"""The arguments of pretraining, and what those of fine-tuning have in common with them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from .console.redact import mask_secrets
from .engine.launch_check import uses_deepspeed
from .engine.schedules import SCHEDULES
from .recipe import typed


# What numbers may be; those that are not listed: 0 or more.
AT_LEAST_1 = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "save_total_limit",
    "dataloader_prefetch_factor", "eval_accumulation_steps", "torch_empty_cache_steps", "ddp_timeout",
    "ddp_bucket_cap_mb", "max_nonfinite_steps",
)  # fmt: skip
ABOVE_0 = ("num_train_epochs", "logging_steps", "save_steps", "eval_steps")
BELOW_1 = ("adam_beta1", "adam_beta2", "label_smoothing_factor")
MINUS_1 = ("max_steps", "local_rank")  # stands for "not given"
SEEDS = ("seed", "data_seed")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MORE = {"fsdp": bool | str | list | None, "parallelism_config": Any, "debug": str | list}  # than is declared is taken
STOP, LOWER_RATE, RESTART = ON_COLLAPSE = ("stop", "lower_rate", "restart_from_checkpoint")
CHOICES = {
    "optim": [member.value for member in OptimizerNames],
    "lr_scheduler_type": list(SCHEDULES),
    "on_collapse": list(ON_COLLAPSE),
}


@dataclass(repr=False)  # that of `TrainingArguments` shows no token
class SharedArguments(TrainingArguments):
    """`TrainingArguments` with what every training of this package needs.

    `lr_scheduler_type` also takes `tri_stage`, with `lr_scheduler_kwargs` `{warmup, hold, decay}`, shares of the run.
    """

    optim: str = field(default="adamw_torch_fused", metadata={"help": "3 to 4 times faster than the loop on CPU"})
    logging_first_step: bool = field(default=True, metadata={"help": "the last one is logged too"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collators decide what the model gets"})
    keep_freed_memory: bool = field(
        default=True,
        metadata={"help": "on CPU: keep the memory that a step frees for the next step; off: return it to the system"},
    )
    guard_patience: int = field(
        default=3, metadata={"help": "stop the run after this many unhealthy logs in a row; 0 is off"}
    )
    max_nonfinite_steps: int = field(
        default=10,
        metadata={"help": "stop the run after this many skipped steps in a row (loss or gradient not finite)"},
    )

    def __post_init__(self) -> None:
        for name in ("eval_strategy", "save_strategy", "logging_strategy"):
            if getattr(self, name) is False:  # how YAML reads `no`
                setattr(self, name, "no")
        self._check_values()
        if (self.bf16 or self.bf16_full_eval) and not (torch.accelerator.is_available() or uses_deepspeed(self)):
            self.use_cpu = True  # or `transformers` takes bf16 for an oversight; DeepSpeed does not run with it
        chosen = self.accelerator_config is not None
        own = self.lr_scheduler_type if self.lr_scheduler_type in SCHEDULES else None
        if own is not None:  # `transformers` knows its own schedules only
            self.lr_scheduler_type = SchedulerType.CONSTANT
        super().__post_init__()
        self.lr_scheduler_type = own or self.lr_scheduler_type
        if not chosen:  # batches in pinned memory go to the device beside its work
            self.accelerator_config.non_blocking = self.dataloader_pin_memory  # type: ignore[union-attr]
        self._check_names()

    def _check_values(self) -> None:
        """ValueError for a value of another type than its field's, or a number that no run could use."""
        hints = get_type_hints(type(self)) | MORE
        for f in fields(self):
            value, where = getattr(self, f.name), f"training.{f.name}"
            if f.init:
                value = typed(where, value, hints[f.name])
            kinds = [kind for kind in get_args(hints[f.name]) if isinstance(kind, type) and issubclass(kind, Enum)]
            choices = [member.value for kind in kinds for member in kind] + CHOICES.get(f.name, [])
            if choices and value not in choices:
                raise ValueError(f"{where} = {value!r} is invalid: use one of {', '.join(map(str, choices))}.")
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            checks = {
                AT_LEAST_1: (value >= 1, "1 or more"),
                ABOVE_0: (value > 0, "above 0"),
                BELOW_1: (0 <= value < 1, "0 to below 1"),
                MINUS_1: (value == -1 or value >= 1, "1 or more, or -1 (not given)"),
                SEEDS: (0 <= value < 2**32, "0 to 4294967295"),
            }
            holds, words = next((checks[names] for names in checks if f.name in names), (value >= 0, "0 or more"))
            if not holds:
                raise ValueError(f"{where} = {value!r} is invalid: it must be {words}.")
        if self.save_only_model:
            raise ValueError(
                "training.save_only_model = True is invalid: a checkpoint without the optimizer cannot be "
                "continued from."
            )

    def _check_names(self) -> None:
        """ValueError for what `Trainer` would notice after data and model are loaded, or at the first step."""
        try:
            for callback in get_reporting_integration_callbacks(self.report_to):
                callback()  # says whether its package is installed
        except (ImportError, RuntimeError, ValueError) as error:
            raise ValueError(f"training.report_to = {self.report_to!r} is invalid: {error}") from error
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        given: Any = self.lr_scheduler_kwargs or {}
        try:
            if self.lr_scheduler_type in SCHEDULES:
                SCHEDULES[self.lr_scheduler_type](optimizer, 100, **given)
            else:
                get_scheduler(self.lr_scheduler_type, optimizer, 0, 100, given)
        except (TypeError, ValueError) as error:
            kind = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
            raise ValueError(
                f"training.lr_scheduler_kwargs = {given!r} does not fit lr_scheduler_type = {kind!r}: {error}"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle of the arguments holds, as `training_args.bin` is one: no token, not in a text either."""
        return {name: None if name.endswith("_token") else _masked(value) for name, value in self.__dict__.items()}

    def to_dict(self) -> dict[str, Any]:
        """What `report_to` tells others."""
        return {name: _masked(value) for name, value in super().to_dict().items()}


def _masked(value: Any) -> Any:
    return mask_secrets(value) if type(value) in (str, list, dict) else value


@dataclass(repr=False)
class PretrainingArguments(SharedArguments):
    """`TrainingArguments` with what pretraining adds; the defaults that differ are those that it needs."""

    adam_beta2: float = field(default=0.98, metadata={"help": "beta2 of the papers' speech and text recipes"})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "epsilon of the papers' recipes"})
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "gradient clipping; 0 is off, but the norm is still logged"}
    )
    decay_everything: bool = field(
        default=False,
        metadata={"help": "apply weight decay to every parameter, biases and norms too, as the original does"},
    )
    probe_steps: int = field(default=0, metadata={"help": "updates between k-NN probes on data.probe; 0 is off"})
    guard_start_step: int = field(default=5000, metadata={"help": "first update at which a collapse can be declared"})
    on_collapse: str = field(
        default=STOP,
        metadata={"help": "stop, or go on at a tenth of the rate: lower_rate, restart_from_checkpoint"},
    )


Arguments = TypeVar("Arguments", bound=SharedArguments)


def checked_folder(folder: Any) -> str:
    """`training.output_dir` of a recipe. Raises ValueError where it is no path, or one that no message could show."""
    if folder is None:
        raise ValueError("training.output_dir is missing: name the run folder.")
    if not isinstance(folder, str) or not folder.strip() or CONTROL.search(folder):
        raise ValueError(
            f"training.output_dir = {folder!r} is invalid: give the path of a folder, without line breaks or "
            "other control characters."
        )
    return folder


def build_training(values: Mapping[str, Any], cls: type[Arguments]) -> Arguments:
    """The section `training` of a recipe as `cls`.

    Raises:
        ValueError: an invalid value; the message names the field and the fix.
    """
    checked_folder(values.get("output_dir"))
    try:
        return cls(**values)
    except Exception as error:  # of `transformers`: ImportError, TypeError and others, for a value that it dislikes
        words = str(error)
        raise ValueError(words if words.startswith("training.") else f"training: {words}") from error
