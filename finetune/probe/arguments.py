"""What a recipe of run_probe.py says: `model`, `data`, `task` and, for the folder and the device, `training`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...pretraining.data.arguments import CheckedArguments
from ..data_arguments import FineTuneDataArguments
from ..task_arguments import TaskArguments


@dataclass(kw_only=True)
class ProbeData(FineTuneDataArguments):
    """The `data` section: `train` and `test`. Penalties and layers are chosen on a fifth of `train`."""

    group_column: str | None = field(
        default=None,
        metadata={
            "help": "leave one group out: each value of this column of train, such as speaker or session, is the "
            "test set once; scores are means over the groups"
        },
    )
    max_examples: int | None = field(
        default=None, metadata={"help": "maximum of examples per split, drawn with the seed (default: all)"}
    )
    max_seconds: float = field(default=20.0, metadata={"help": "crop longer clips to their start"})
    max_tokens: int | None = field(
        default=None,
        metadata={"help": "truncate longer texts, special tokens included (default: 512 or the encoder's limit)"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, unset in (("validation", None), ("validation_share", 0.0), ("labels_per_class", None)):
            fix = "leave it out, a probe holds out a part of train itself and task.labels_per_class says how few"
            self.require(getattr(self, name) == unset, name, fix)
        self.require(self.max_examples is None or self.max_examples >= 2, "max_examples", "use 2 or more, or null")
        both = self.group_column is not None and self.test is not None
        self.require(not both, "test", "leave it out: with data.group_column every group is the test set once")
        self.require(self.max_seconds > 0, "max_seconds", "use a positive number")
        self.require(self.max_tokens is None or self.max_tokens >= 3, "max_tokens", "use 3 or more, or null")


Kind = Literal["knn", "linear", "mlp", "few_labels"]


@dataclass(kw_only=True)
class ProbeTask(TaskArguments):
    """The `task` section: which features, and what is asked of them."""

    weights: Literal["student", "teacher"] = field(
        default="student",
        metadata={"help": "student or teacher of a pretraining run; the teacher is in its sub-folder pretraining"},
    )
    layer: int | Literal["last", "average", "all"] = field(
        default="all",
        metadata={
            "help": "number of a hidden state (0: the input of the first block), last, average (of all), or all"
        },
    )
    per_step: bool = field(
        default=False,
        metadata={"help": "write one vector per time step instead of their mean; all probes but mlp use the mean"},
    )
    format: Literal["parquet", "safetensors"] = field(
        default="parquet", metadata={"help": "format of the feature files"}
    )
    probes: list[Kind] = field(
        default_factory=lambda: ["knn", "linear", "few_labels"],
        metadata={
            "help": "what is fitted to the features; none writes features only, and needs no labels. few_labels and "
            "mlp are for classes: the default leaves few_labels out for numbers. mlp is the small network on frames "
            "of emotion2vec's evaluation, see mlp.py; the others read the mean over time"
        },
    )
    neighbours: int = field(default=10, metadata={"help": "k of the k-NN"})
    labels_per_class: list[int] = field(
        default_factory=lambda: [1, 5, 10, 50], metadata={"help": "labels per class for the few-label curve"}
    )
    draws: int = field(default=5, metadata={"help": "number of draws of the few labelled examples"})
    untrained: int = field(
        default=1, metadata={"help": "number of networks with random weights to compare with; 0 is none"}
    )
    raw_features: bool = field(
        default=True, metadata={"help": "compare with features that need no network, such as mel energies or pixels"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.neighbours >= 1, "neighbours", "use 1 or more")
        few = self.labels_per_class
        self.require(bool(few) and min(few) >= 1, "labels_per_class", "name numbers of 1 or more")
        self.require(self.draws >= 2, "draws", "use 2 or more: a spread needs them")
        self.require(self.untrained >= 0, "untrained", "use 0 (no comparison) or more")
        self.labels_per_class = sorted(set(few))


class Probe:
    """What the recipe of a probe holds; see [`arguments.parse`]."""

    script: ClassVar[str] = "run_probe.py"
    data_class: ClassVar[type[FineTuneDataArguments]] = ProbeData
    arguments_class: ClassVar[type[CheckedArguments]] = ProbeTask
