"""Point clouds and meshes of any format -> one augmented, normalised (points, 3) tensor.

As in Point2Vec's recipe: points are sampled as far from each other as possible, each axis is scaled, the cloud is
centred and scaled into the unit sphere, then turned about the vertical axis. The original draws scale and angle once a
batch; here every cloud has its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from transformers import AutoFeatureExtractor, PreTrainedConfig

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.feature_extraction_point2vec import Point2VecFeatureExtractor
from ...modeling.point_groups import farthest_points, pick
from ...modeling.targets import mean_over_time
from ..data.arguments import DataArguments
from ..data.bad_examples import BadExample
from ..data.collators import Batch, Collator, Example, TokenLayout, pad
from ..data.modality import Modality, Row, describe
from .point_files import POINTS, read_points


MESH_SAMPLES = 4  # times num_points, drawn on a mesh's surface, among which num_points are then chosen


@dataclass(kw_only=True)
class PointsDataArguments(DataArguments):
    """The `data` fields of a recipe on point clouds."""

    num_points: int = field(default=1024, metadata={"help": "points per cloud; larger clouds are reduced to this"})
    min_points: int = field(default=64, metadata={"help": "skip clouds with fewer different points"})
    sampling: Literal["farthest", "random"] = field(
        default="farthest",
        metadata={"help": "how to reduce clouds: farthest-point sampling, or at random"},
    )
    point_columns: int = field(
        default=3, metadata={"help": "numbers per point if a row is a flat list; the first three are coordinates"}
    )
    scale: list[float] = field(
        default_factory=lambda: [0.8, 1.2], metadata={"help": "smallest and largest scale, drawn for each axis"}
    )
    rotate: Literal["none", "vertical", "any"] = field(
        default="vertical",
        metadata={"help": "rotate by a random angle about the vertical axis, about any axis, or not at all"},
    )
    vertical: Literal["x", "y", "z"] = field(default="y", metadata={"help": "which axis points up"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.num_points >= 1, "num_points", "use 1 or more")
        self.require(1 <= self.min_points <= self.num_points, "min_points", f"use 1 to {self.num_points} (num_points)")
        self.require(self.point_columns >= 3, "point_columns", "use 3 or more: coordinates come first")
        low_to_high = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        self.require(low_to_high, "scale", "use two positive factors, [smallest, largest]; [1, 1] is off")


class Augmentation(Protocol):
    """How clouds are augmented, of pretraining and of fine-tuning."""

    scale: list[float]
    rotate: Literal["none", "vertical", "any"]
    vertical: Literal["x", "y", "z"]


def pad_clouds(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """point_values (batch, points, 3) fp32, attention_mask (batch, points) where clouds differ, start (batch,)."""
    batch, _ = pad([example["point_values"] for example in examples], "point_values", 0.0)
    if "start" in examples[0]:
        batch["start"] = torch.stack([example["start"] for example in examples])
    return batch


class PointsCollator(Collator):
    """Pads smaller clouds with zeros; a token is a group of points, and all groups are real."""

    def __init__(self, objective: ObjectiveConfig | None, groups: int, seed: int):
        super().__init__(objective, seed)
        self.groups = groups

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """point_values (batch, points, 3) fp32, attention_mask (batch, points) where clouds differ, start (batch,)."""
        batch = pad_clouds(examples)
        layout = TokenLayout((self.groups,))
        if self.objective is not None and self.objective.masking.uses_coordinates:
            # the centres that the encoder will choose: its grouping follows from points and start
            points, real = batch["point_values"], batch.get("attention_mask")
            chosen = farthest_points(points, self.groups, batch.get("start"), None if real is None else real.bool())
            layout = replace(layout, coordinates=pick(points, chosen))
        return batch, layout


class PointsData(Modality[PointsDataArguments]):
    """See `Modality`. An example is {"point_values": (points, 3) fp32} and, in training, "start" () long.

    `start` is the point that grouping begins with, so that a cloud is grouped in another way each time it is seen.
    """

    name = "point clouds"
    arguments_class = PointsDataArguments
    kind = POINTS
    config_fields = ("num_groups", "group_size")
    processor_class = AutoFeatureExtractor
    shapes = ("(batch, points, 3)", "(batch, groups, dim)")
    pooled_parts = 2

    def __init__(self, args: PointsDataArguments, config: PreTrainedConfig, processor: Any = None):
        self.args, self.groups = args, int(config.num_groups)
        if args.min_points < max(self.groups, config.group_size):
            raise ValueError(
                f"data.min_points = {args.min_points} is invalid: use at least the encoder's num_groups = "
                f"{self.groups} and group_size = {config.group_size}."
            )
        self.processor = processor or Point2VecFeatureExtractor(num_points=args.num_points, sampling=args.sampling)

    @classmethod
    def smallest_grid(cls, args: PointsDataArguments, config: PreTrainedConfig) -> tuple[tuple[int, ...], str]:
        return (int(config.num_groups),), f"model.num_groups = {config.num_groups}"

    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        name = describe(row, POINTS.column)
        points = self.read_cloud(row, name, rng)
        seed = None if rng is None else int(rng.integers(2**31))
        points = points[self.processor.sample(points, seed)]
        if rng is None:
            return {"point_values": self.processor.normalize(points)}
        start = torch.tensor(int(rng.integers(len(points))))
        return {"point_values": augmented(points, self.processor, self.args, rng), "start": start}

    def read_cloud(self, row: Row, name: str, rng: np.random.Generator | None) -> Tensor:
        """(points, 3), all different and in their order, of a row; raises `BadExample` where there are too few."""
        rng = np.random.default_rng(0) if rng is None else rng
        samples = MESH_SAMPLES * self.args.num_points
        table = read_points(row[POINTS.column], name, self.args.point_columns, samples, rng)
        _, first = np.unique(table[:, :3], axis=0, return_index=True)
        if len(first) < self.args.min_points:
            again = "" if len(first) == len(table) else f" ({len(table) - len(first)} are there twice)"
            raise BadExample(
                f"{name} has {len(first)} points{again}: data.min_points = {self.args.min_points} asks for more.",
                problem="too few points",
            )
        return torch.from_numpy(np.ascontiguousarray(table[np.sort(first), :3]))

    @staticmethod
    def real_tokens(encoder: Any, inputs: Any, time: int) -> Tensor:
        points, extra = inputs["point_values"], getattr(encoder.config, "num_extra_tokens", 0)
        return (torch.arange(time, device=points.device) >= extra).expand(len(points), time)

    @staticmethod
    def pool(states: Tensor, real: Tensor) -> Tensor:
        """Largest values and means over groups, (batch, 2 * dim), as Point2Vec's own probe."""
        largest = states.masked_fill(~real.unsqueeze(-1), -torch.inf).amax(1)
        return torch.cat((largest, mean_over_time(states, real)), dim=-1)

    def collator(self, objective: ObjectiveConfig | None, seed: int) -> PointsCollator:
        return PointsCollator(objective, self.groups, seed)


def augmented(
    points: Tensor, processor: Point2VecFeatureExtractor, how: Augmentation, rng: np.random.Generator
) -> Tensor:
    """A cloud (points, 3) scaled along each axis, normalised and turned, each by its own draw."""
    low, high = how.scale
    scale = torch.from_numpy(rng.uniform(low, high, 3).astype(np.float32))
    turn = torch.from_numpy(rotation(how.rotate, how.vertical, rng).astype(np.float32))
    return processor.normalize(points * scale) @ turn.T


def rotation(kind: str, vertical: str, rng: np.random.Generator) -> np.ndarray:
    """A random rotation, (3, 3): none, about the `vertical` axis, or about any."""
    if kind == "none":
        return np.eye(3)
    if kind == "any":
        return Rotation.random(None, rng).as_matrix()
    return Rotation.from_euler(vertical, rng.uniform(-math.pi, math.pi)).as_matrix()
