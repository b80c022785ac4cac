"""What the arguments of pretraining and of fine-tuning have in common."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from .engine.schedules import TRI_STAGE


@dataclass(repr=False)  # that of `TrainingArguments` shows no token
class SharedArguments(TrainingArguments):
    """`TrainingArguments` with what every training of this package needs.

    `lr_scheduler_type` also takes `tri_stage`, with `lr_scheduler_kwargs` `{warmup, hold, decay}`, shares of the run.
    """

    optim: str = field(default="adamw_torch_fused", metadata={"help": "3 to 4 times faster than the loop on CPU"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "off: a NaN shall be seen"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collators decide what the model gets"})
    keep_freed_memory: bool = field(
        default=True,
        metadata={"help": "on CPU: what a step frees stays with the process for the next; off: it goes to the system"},
    )

    def __post_init__(self) -> None:
        for name in ("eval_strategy", "save_strategy", "logging_strategy"):
            if getattr(self, name) is False:  # how YAML reads `no`
                setattr(self, name, "no")
        tri_stage = self.lr_scheduler_type == TRI_STAGE
        if tri_stage:  # `transformers` knows its own schedules only
            self.lr_scheduler_type = SchedulerType.CONSTANT
        super().__post_init__()
        if tri_stage:
            self.lr_scheduler_type = TRI_STAGE

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle of the arguments holds, as `training_args.bin` is one: no token."""
        return {name: None if name.endswith("_token") else value for name, value in self.__dict__.items()}


def own_fields(cls: type[SharedArguments]) -> list[str]:
    """The fields that `cls` has beside those of `TrainingArguments`, or with another default, by name."""
    return sorted(name for kind in cls.__mro__ if issubclass(kind, SharedArguments) for name in kind.__annotations__)
