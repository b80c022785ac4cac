"""Volumes, such as CT and MR: a NIfTI file or a DICOM series -> one (1, depth, height, width) tensor in -1 .. 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoFeatureExtractor, PreTrainedConfig

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.feature_extraction_medcoss import MedCossVolumeFeatureExtractor
from ..data.arguments import DataArguments
from ..data.bad_examples import BadExample
from ..data.collators import Batch, Collator, Example, TokenLayout
from ..data.modality import Modality, Row, Rows, describe
from .volume_files import VOLUME, read_volume, series_of


@dataclass(kw_only=True)
class VolumeDataArguments(DataArguments):
    """The `data` fields of a recipe on volumes. Their size is the encoder's `config.image_size`."""

    window: list[float] | None = field(
        default=None,
        metadata={
            "help": "darkest and brightest intensity, e.g. [-1000, 1000] Hounsfield units of CT (default: quantiles "
            "of each volume, for MR)"
        },
    )
    box: Literal["random", "none"] = field(
        default="random",
        metadata={"help": "random: a box of the encoder's size at a random place; none: the whole volume, resized"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        window = self.window is None or (len(self.window) == 2 and self.window[0] < self.window[1])
        self.require(window, "window", "use two intensities, [lower, higher], or null")


class VolumeCollator(Collator):
    """Stacks volumes; `grid` is that of the patches (depth, height, width)."""

    def __init__(self, objective: ObjectiveConfig | None, grid: tuple[int, ...], seed: int):
        super().__init__(objective, seed)
        self.layout = TokenLayout(grid)

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """voxel_values (batch, 1, depth, height, width) fp32"""
        return {"voxel_values": torch.stack([example["voxel_values"] for example in examples])}, self.layout


class SeriesRows:
    """Rows of files, of which the DICOM files of a folder are one volume."""

    def __init__(self, rows: datasets.Dataset):
        self.rows = rows
        folders: dict[str | int, list[int]] = {}
        for number, value in enumerate(rows[VOLUME.column]):
            folders.setdefault(series_of(value) or number, []).append(number)
        self.members: list[list[int]] = list(folders.values())

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Row:
        parts = [self.rows[number] for number in self.members[int(index)]]
        if len(parts) == 1:
            return parts[0]
        folder = series_of(parts[0][VOLUME.column])
        return {**parts[0], VOLUME.column: {"path": folder, "slices": [part[VOLUME.column] for part in parts]}}


class VolumeData(Modality[VolumeDataArguments]):
    """See `Modality`. An example is {"voxel_values": (1, depth, height, width) fp32}."""

    name = "volumes"
    arguments_class = VolumeDataArguments
    kind = VOLUME
    config_fields = ("num_temporal_positions",)
    processor_class = AutoFeatureExtractor
    shapes = ("(batch, 1, depth, height, width)", "(batch, CLS and patches, dim)")

    def __init__(self, args: VolumeDataArguments, config: PreTrainedConfig, processor: Any = None):
        self.args = args
        self.grid, _ = self.smallest_grid(args, config)
        if config.num_channels != 1:
            raise ValueError(f"num_channels = {config.num_channels} is invalid: a volume has 1.")
        self.processor = processor or MedCossVolumeFeatureExtractor(config.sizes("image_size"), args.window)

    @classmethod
    def smallest_grid(cls, args: VolumeDataArguments, config: PreTrainedConfig) -> tuple[tuple[int, ...], str]:
        return tuple(config.grid), f"model.image_size = {config.image_size} and model.patch_size = {config.patch_size}"

    def prepare(self, dataset: datasets.Dataset, packed: bool = True) -> Rows:
        return SeriesRows(dataset)

    def kept(self, rows: Rows, numbers: Sequence[int]) -> datasets.Dataset:
        assert isinstance(rows, SeriesRows)
        return rows.rows.select([member for number in numbers for member in rows.members[number]])

    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        value, name = row[VOLUME.column], describe(row, VOLUME.column)
        slices = value.get("slices", value) if isinstance(value, Mapping) else value
        volume = torch.from_numpy(np.ascontiguousarray(read_volume(slices, name)))
        if min(volume.shape) < 2:
            shape = " x ".join(map(str, volume.shape))
            raise BadExample(f"{name} is {shape}: a volume has 2 voxels or more along each axis.", "too small")
        volume = self.processor.normalize(volume)
        if self.args.box == "none":
            return {"voxel_values": self.processor.resize(volume)}
        return {"voxel_values": cut(volume, self.processor.size, rng).unsqueeze(0)}

    @staticmethod
    def real_tokens(encoder: Any, inputs: Mapping[str, Tensor], time: int) -> Tensor:
        volumes, extra = inputs["voxel_values"], encoder.config.num_extra_tokens
        return (torch.arange(time, device=volumes.device) >= extra).expand(len(volumes), time)

    def collator(self, objective: ObjectiveConfig | None, seed: int) -> VolumeCollator:
        return VolumeCollator(objective, self.grid, seed)


def cut(volume: Tensor, size: Sequence[int], rng: np.random.Generator | None) -> Tensor:
    """A box of (depth, height, width) at a random place, or in the middle; smaller volumes get dark borders."""
    missing = [max(wanted - there, 0) for wanted, there in zip(size, volume.shape, strict=True)]
    borders = [side for lack in reversed(missing) for side in (lack // 2, lack - lack // 2)]
    padded = F.pad(volume, borders, value=-1.0)
    spare = [there - wanted for wanted, there in zip(size, padded.shape, strict=True)]
    starts = [most // 2 if rng is None else int(rng.integers(most + 1)) for most in spare]
    return padded[tuple(slice(at, at + wanted) for at, wanted in zip(starts, size, strict=True))].contiguous()
