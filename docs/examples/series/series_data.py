"""Rows of numbers -> batches with masks: what the data layer asks of a modality."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from series_encoder import SeriesConfig
from torch import Tensor
from transformers import AutoFeatureExtractor, BatchFeature, FeatureExtractionMixin

from data2vec.modeling import ObjectiveConfig
from data2vec.pretraining.data.arguments import DataArguments
from data2vec.pretraining.data.collators import Batch, Collator, Example, TokenLayout, pad
from data2vec.pretraining.data.modality import BadExample, Modality, Row, describe
from data2vec.pretraining.data.sources import MediaKind


SERIES = MediaKind(column="series", feature=None, extensions=(), known_columns=("series", "joints"))


class SeriesFeatureExtractor(FeatureExtractionMixin):
    """Prepares inputs as pretraining did; it is saved beside the weights."""

    model_input_names = ["series_values"]

    def __init__(self, num_channels: int = 1, **kwargs: Any):
        self.num_channels = num_channels
        super().__init__(**kwargs)

    def __call__(self, series: Any) -> BatchFeature:
        """One series, (steps, channels) or flat -> `series_values` (1, steps, channels), centred, of spread 1."""
        values = np.asarray(series, dtype=np.float32).reshape(-1, self.num_channels)
        values = values - values.mean(0)
        values = values / max(float(values.std()), 1e-6)
        return BatchFeature({"series_values": torch.from_numpy(values).unsqueeze(0)})


@dataclass(kw_only=True)
class SeriesDataArguments(DataArguments):
    """The fields of a recipe's `data`, besides those of every modality."""

    crop_steps: int = field(default=64, metadata={"help": "longer series are cropped, at random in training"})
    min_steps: int = field(default=8, metadata={"help": "steps; shorter series are unusable"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1 <= self.min_steps <= self.crop_steps, "min_steps", f"use 1 to crop_steps = {self.crop_steps}")


class SeriesData(Modality[SeriesDataArguments]):
    """An example is {"series_values": (steps, channels) fp32}."""

    name = "series"
    arguments_class = SeriesDataArguments
    kind = SERIES
    config_fields = ("num_channels", "patch_steps")
    processor_class = AutoFeatureExtractor
    shapes = ("(batch, steps, channels)", "(batch, time, dim)")

    def __init__(self, args: SeriesDataArguments, config: SeriesConfig, processor: Any = None):
        self.args, self.patch_steps = args, config.patch_steps
        self.processor = processor or SeriesFeatureExtractor(num_channels=config.num_channels)

    @classmethod
    def smallest_grid(cls, args: SeriesDataArguments, config: SeriesConfig) -> tuple[tuple[int, ...], str]:
        return (args.min_steps // config.patch_steps,), f"data.min_steps = {args.min_steps}"

    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        name, channels = describe(row, SERIES.column), self.processor.num_channels
        numbers = np.asarray(row[SERIES.column], dtype=np.float32)
        if numbers.size % channels:
            raise BadExample(f"{name}: {numbers.size} numbers are no steps of {channels}.", problem="damaged")
        if not np.isfinite(numbers).all():
            raise BadExample(f"{name} holds NaN or infinity: repair or remove it.", problem="not finite")
        steps = numbers.reshape(-1, channels)
        if len(steps) < self.args.min_steps:
            raise BadExample(f"{name} has {len(steps)} steps: data.min_steps asks for more.", problem="too short")
        first = 0 if rng is None else int(rng.integers(max(len(steps) - self.args.crop_steps, 0) + 1))
        return {"series_values": self.processor(steps[first : first + self.args.crop_steps])["series_values"][0]}

    def collator(self, objective: ObjectiveConfig | None, seed: int) -> Collator:
        return SeriesCollator(objective, self.patch_steps, seed)


class SeriesCollator(Collator):
    """Pads to the longest series with zeros."""

    def __init__(self, objective: ObjectiveConfig | None, patch_steps: int, seed: int):
        super().__init__(objective, seed)
        self.patch_steps = patch_steps

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        batch, lengths = pad([example["series_values"] for example in examples], "series_values", 0.0)
        grid = (batch["series_values"].shape[1] // self.patch_steps,)
        return batch, TokenLayout(grid, None if lengths is None else lengths // self.patch_steps)
