"""Examples -> a batch with its masks, in the loader's workers.

A mask, like every random number of a batch, depends on (seed, epoch, index, view) only: the number of workers and
ranks, and a resumed run, change nothing. Batches hold what the model's `forward` accepts, and nothing else:

    audio  input_values (batch, samples) fp32, attention_mask (batch, samples) long where a row is padded
    image  pixel_values (batch, channels, height, width) fp32
    text   input_ids (batch, tokens) long, attention_mask as above; student_input_ids where ids are replaced at random
    all    masked bool (batch, time), or (batch, views, time) in data2vec 2.0, and mask_counts, three ints that spare
           the model a wait for the device; labels (batch,) long where labelled
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.gather import count_masks
from ...modeling.masking import TokenMasking, mask_seeds


Example = dict[str, Any]
Batch = dict[str, Any]
Count = TypeVar("Count", int, Tensor)


class FrameCounter(Protocol):
    def __call__(self, samples: Count) -> Count: ...


@dataclass(frozen=True)
class ConvFrames:
    """Frames that a stack of unpadded convolutions makes of so many samples, an int or a long tensor."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, samples: Count) -> Count:
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def samples_for(self, frames: int) -> int:
        """The fewest samples that make so many frames."""
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            frames = (frames - 1) * stride + kernel
        return frames


class AudioCollator:
    """Pads to the longest clip with zeros, or crops every clip at random to the shortest (as the original)."""

    def __init__(
        self, objective: ObjectiveConfig | None, num_frames: FrameCounter, seed: int, crop_to_shortest: bool = False
    ):
        self.objective, self.num_frames, self.seed = objective, num_frames, seed
        self.crop_to_shortest = crop_to_shortest

    def __call__(self, examples: Sequence[Example]) -> Batch:
        clips = [example["input_values"] for example in examples]
        if self.crop_to_shortest:
            shortest = min(map(len, clips))
            clips = [_crop(clip, shortest, example, self.seed) for clip, example in zip(clips, examples, strict=True)]
        batch, lengths = pad(clips, "input_values", 0.0)
        if self.objective is not None:
            grid = (int(self.num_frames(int(lengths.max()))),)
            frames = self.num_frames(lengths) if "attention_mask" in batch else None  # (batch,)
            masked = draw_masks(self.objective, grid, _seeds(self.objective, self.seed, examples), frames)
            batch |= _with_counts(self.objective, masked, frames)
        return _with_labels(batch, examples)


class ImageCollator:
    """Stacks images; `grid` is the patch grid (height, width)."""

    def __init__(self, objective: ObjectiveConfig | None, grid: tuple[int, int], seed: int):
        self.objective, self.grid, self.seed = objective, grid, seed

    def __call__(self, examples: Sequence[Example]) -> Batch:
        batch = {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}
        if self.objective is not None:
            masked = draw_masks(self.objective, self.grid, _seeds(self.objective, self.seed, examples))
            batch |= _with_counts(self.objective, masked)
        return _with_labels(batch, examples)


class TextCollator:
    """Pads to the longest row. Special tokens are never hidden.

    `input_ids` are the clean ids; the model puts its mask token where `masked` is True. A masking with `random_prob`
    also replaces some tokens, drawn uniformly from the ordinary ones, in `student_input_ids`.
    """

    def __init__(self, objective: ObjectiveConfig | None, tokenizer: PreTrainedTokenizerBase, seed: int):
        self.objective, self.seed = objective, seed
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.special_ids = torch.tensor(sorted(tokenizer.all_special_ids))
        ordinary = torch.ones(len(tokenizer), dtype=torch.bool)
        ordinary[self.special_ids] = False
        self.ordinary_ids = ordinary.nonzero().flatten()  # (ids,)
        masking = None if objective is None else objective.masking
        self.replaces = masking if isinstance(masking, TokenMasking) and masking.random_prob > 0 else None
        if self.replaces is not None and objective is not None and objective.views is not None:
            raise ValueError(
                f"objective.masking.random_prob = {self.replaces.random_prob} is not possible with objective.views = "
                f"{objective.views}: hidden tokens are dropped there, use random_prob 0."
            )

    def __call__(self, examples: Sequence[Example]) -> Batch:
        batch, lengths = pad([example["input_ids"] for example in examples], "input_ids", self.pad_token_id)
        if self.objective is not None:
            ids = batch["input_ids"]  # (batch, tokens)
            seeds = _seeds(self.objective, self.seed, examples)
            grid, maskable = (ids.shape[1],), ~torch.isin(ids, self.special_ids)
            real = lengths if "attention_mask" in batch else None
            batch |= _with_counts(self.objective, draw_masks(self.objective, grid, seeds, real, maskable), real)
            if self.replaces is not None:
                replaced = self.replaces.sample_replaced(grid, seeds, real, maskable).squeeze(1)  # (batch, tokens)
                batch["student_input_ids"] = torch.where(replaced, self._random_ids(ids, examples), ids)
        return _with_labels(batch, examples)

    def _random_ids(self, ids: Tensor, examples: Sequence[Example]) -> Tensor:
        drawn = torch.empty_like(ids)  # (batch, tokens)
        for row, example in enumerate(examples):
            rng = generator(self.seed, example["epoch"], example["index"], "replace")
            drawn[row] = self.ordinary_ids[torch.from_numpy(rng.integers(len(self.ordinary_ids), size=ids.shape[1]))]
        return drawn


# Independent random streams of one example.
STREAMS = {"read": 1, "crop": 2, "replace": 3, "mixup": 4}


def generator(seed: int, epoch: int, index: int, stream: str) -> np.random.Generator:
    """The random numbers of one example in one epoch, for one purpose."""
    return np.random.default_rng((seed, epoch, index, STREAMS[stream]))


def draw_masks(
    objective: ObjectiveConfig,
    grid: tuple[int, ...],
    seeds: Tensor,
    lengths: Tensor | None = None,
    maskable: Tensor | None = None,
) -> Tensor:
    """Bool (batch, time) in data2vec 1, (batch, views, time) in 2.0."""
    masked = objective.masking.sample(grid, seeds, lengths, maskable)  # (batch, views, time)
    return masked.squeeze(1) if objective.views is None else masked


def _with_counts(objective: ObjectiveConfig, masked: Tensor, lengths: Tensor | None = None) -> Batch:
    """The masks and their counts; `lengths` (batch,) are those of padded rows."""
    real = None
    if lengths is not None and not objective.original_padding:
        real = torch.arange(masked.shape[-1]) < lengths.unsqueeze(-1)  # (batch, time)
    return {"masked": masked, "mask_counts": tuple(count_masks(masked, real))}


def pad(rows: Sequence[Tensor], name: str, value: float) -> tuple[Batch, Tensor]:
    """Rows as one tensor under `name`, with an attention mask where a row is padded; and their lengths (batch,)."""
    lengths = torch.tensor([len(row) for row in rows])  # (batch,)
    batch = {name: torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)}
    if (lengths < lengths.max()).any():
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch, lengths


def _crop(clip: Tensor, length: int, example: Example, seed: int) -> Tensor:
    rng = generator(seed, example["epoch"], example["index"], "crop")
    start = int(rng.integers(len(clip) - length + 1))
    return clip[start : start + length]


def _seeds(objective: ObjectiveConfig, seed: int, examples: Sequence[Example]) -> Tensor:
    """Seeds of the masks, (batch, views) int64."""
    epochs = torch.tensor([example["epoch"] for example in examples])
    indices = torch.tensor([example["index"] for example in examples])
    seeds = torch.empty(len(examples), objective.views or 1, dtype=torch.int64)
    for epoch in epochs.unique().tolist():  # one, unless a weighted source was passed more often than another
        rows = epochs == epoch
        seeds[rows] = mask_seeds(seed, epoch, indices[rows], objective.views or 1)
    return seeds


def _with_labels(batch: Batch, examples: Sequence[Example]) -> Batch:
    if "labels" in examples[0]:
        batch["labels"] = torch.tensor([example["labels"] for example in examples])
    return batch
