"""What the `task` section of every fine-tuning recipe holds; a task adds its own fields."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..pretraining.data.arguments import CheckedArguments


@dataclass(kw_only=True)
class TaskArguments(CheckedArguments):
    """The fields of every task."""

    where: ClassVar[str] = "task"

    name: str | None = field(
        default=None, metadata={"help": "name of the task, such as image-classification; `data2vec finetune` reads it"}
    )
