"""What recipes on point clouds say: their sections `task` and `data`."""

from dataclasses import dataclass, field
from typing import Literal

from ..data_arguments import FineTuneDataArguments
from ..task_arguments import TaskArguments


@dataclass(kw_only=True)
class PointsTaskArguments(TaskArguments):
    """The `task` section: augmentation in training, and evaluation."""

    scale: list[float] = field(
        default_factory=lambda: [1.0, 1.0], metadata={"help": "smallest and largest scale, drawn for each axis"}
    )
    rotate: Literal["none", "vertical", "any"] = field(
        default="none", metadata={"help": "as data.rotate of a pretraining recipe"}
    )
    vertical: Literal["x", "y", "z"] = field(default="y", metadata={"help": "which axis points up"})
    votes: int = field(
        default=1,
        metadata={"help": "average the probabilities of this many groupings of a cloud in evaluation"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        low_to_high = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        self.require(low_to_high, "scale", "use two positive factors, [smallest, largest]; [1, 1] is off")
        self.require(self.votes >= 1, "votes", "use 1 (no vote) or more")


@dataclass(kw_only=True)
class PointsFineTuneData(FineTuneDataArguments):
    """The fields of every task on point clouds."""

    num_points: int | None = field(default=None, metadata={"help": "points per cloud (default: as in pretraining)"})
    point_columns: int = field(
        default=3, metadata={"help": "numbers per point if a row is a flat list; the first three are coordinates"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.num_points is None or self.num_points >= 1, "num_points", "use 1 or more")
        self.require(self.point_columns >= 3, "point_columns", "use 3 or more: coordinates come first")


@dataclass(kw_only=True)
class PointCloudClassificationData(PointsFineTuneData):
    """The `data` section; with `ways` it is an episode of few-shot classification, drawn with the run's seed."""

    ways: int | None = field(
        default=None, metadata={"help": "few-shot: number of classes of an episode, with labels_per_class shots"}
    )
    test_per_class: int | None = field(
        default=None, metadata={"help": "evaluate on this many examples per class, drawn with the run's seed"}
    )
    episodes: int | None = field(
        default=None,
        metadata={"help": "number of episodes, each in episode-N with the next seed; reports mean and deviation"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("ways", 2), ("test_per_class", 1), ("episodes", 2)):
            value = getattr(self, name)
            self.require(value is None or value >= least, name, f"use {least} or more, or null")
        self.require(self.episodes is None or self.ways is not None, "episodes", "set data.ways too, or leave it out")
