"""The section `stages` of a recipe with `modalities`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from .data.arguments import CheckedArguments
from .recipe import MODALITIES, SHARED_FRONT_ENDS, STAGES


@dataclass(kw_only=True)
class StagesArguments(CheckedArguments):
    """In which order modalities are trained on, and how those that are no longer new are kept."""

    where: ClassVar[str] = STAGES

    order: list[str] = field(metadata={"help": "every modality once: the first is trained on first"})
    rehearsal: Literal["none", "pretext", "distillation"] = field(
        default="distillation",
        metadata={
            "help": "of a modality that is not new: none; pretext, its own objective on its buffer; distillation, on "
            "its buffer, from the model that the stage began with"
        },
    )
    buffer: float = field(default=0.05, metadata={"help": "share of a modality's examples that is kept"})
    clusters: float = field(
        default=0.01, metadata={"help": "clusters of its features, as a share of its examples: those nearest are kept"}
    )
    mixup: bool = field(default=False, metadata={"help": "blend the kept examples with each other"})
    training: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "fields of training that differ in a modality's stage"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.clusters <= self.buffer < 1, "buffer", "use a share below 1, no less than clusters")
        alone = self.rehearsal == "none" and self.mixup
        self.require(not alone, "mixup", "with rehearsal: none there is nothing to blend, leave it out")

    def check(self, recipe: Mapping[str, Any]) -> None:
        """Raise a ValueError where the recipe's modalities are others."""
        known = list(recipe.get(MODALITIES, {}))
        self.require(sorted(self.order) == sorted(known), "order", f"use each of {', '.join(known) or 'none'} once")
        alone = self.rehearsal == "none" and bool(recipe["model"].get(SHARED_FRONT_ENDS))
        self.require(not alone, "rehearsal", f"use another with model.{SHARED_FRONT_ENDS}, or leave that out")
        for name, fields in self.training.items():
            self.require(name in known and isinstance(fields, dict), "training", f"use fields of {', '.join(known)}")
