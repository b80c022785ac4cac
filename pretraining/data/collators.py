"""Examples -> a batch with its masks, in the loader's workers.

A mask, like every random number of a batch, depends on (seed, epoch, index, view) only: the number of workers and
ranks, and a resumed run, change nothing. How rows become a batch is in the modality's own file: audio, image, text.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.gather import count_masks
from ...modeling.masking import mask_seeds
from .mixup import blended


Example = dict[str, Any]
Batch = dict[str, Any]


@dataclass(frozen=True)
class TokenLayout:
    """The tokens that a batch makes: what masks are drawn on."""

    grid: tuple[int, ...]  # (time,) or (height, width), of the longest row
    lengths: Tensor | None = None  # (batch,) real tokens, where a row is padded
    maskable: Tensor | None = None  # bool (batch, time), where some tokens are never hidden
    coordinates: Tensor | None = None  # (batch, time, axes), where masks need to know where tokens are in space


class Collator(ABC):
    """Examples -> what the model's `forward` accepts, and nothing else: the inputs of a modality, and for every one

    masked       bool (batch, time), or (batch, views, time) in data2vec 2.0; not where `objective` is None (probes)
    scored       bool like `masked`, where the loss is taken elsewhere than at `masked`
    mask_candidates  bool (batch, views, candidates, time), where the model chooses its masks: `masked` are the first
    mask_counts  three ints that spare the model a wait for the device; with `masked`
    labels       (batch,) long, where the examples are labelled

    Attributes:
        mixup: examples are blended with others of their batch first, see `mixup.blended`.
    """

    mixup = False

    def __init__(self, objective: ObjectiveConfig | None, seed: int):
        self.objective, self.seed = objective, seed

    @abstractmethod
    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """The inputs as a batch, and the tokens that the encoder makes of them."""

    def masks(
        self, objective: ObjectiveConfig, batch: Batch, layout: TokenLayout, examples: Sequence[Example]
    ) -> Batch:
        seeds = self.mask_seeds(objective, examples)
        return self.counted(objective, layout, self.draw(objective.draw_masks, seeds, batch, layout))

    def draw(self, sample: Callable[..., Tensor], seeds: Tensor, batch: Batch, layout: TokenLayout) -> Tensor:
        """Masks of a batch, `sample` being that of a `Masking` or of an objective."""
        return sample(layout.grid, seeds, layout.lengths, layout.maskable, layout.coordinates)

    @staticmethod
    def counted(
        objective: ObjectiveConfig, layout: TokenLayout, masked: Tensor, scored: Tensor | None = None
    ) -> Batch:
        """Masks as the model wants them; `scored` as the objective says, if not given."""
        real = None
        if layout.lengths is not None and not objective.original_padding:
            real = torch.arange(masked.shape[-1]) < layout.lengths.unsqueeze(-1)  # (batch, time)
        scored = objective.scored_positions(masked, real) if scored is None else scored
        found = {"masked": masked, "mask_counts": tuple(count_masks(masked, real, scored))}
        return found if scored is masked else found | {"scored": scored}

    def mask_seeds(self, objective: ObjectiveConfig, examples: Sequence[Example]) -> Tensor:
        """(batch, views) int64"""
        epochs = torch.tensor([example["epoch"] for example in examples])
        indices = torch.tensor([example["index"] for example in examples])
        seeds = torch.empty(len(examples), objective.views or 1, dtype=torch.int64)
        for epoch in epochs.unique().tolist():  # one, unless a weighted source was passed more often than another
            rows = epochs == epoch
            seeds[rows] = mask_seeds(self.seed, epoch, indices[rows], objective.views or 1)
        return seeds

    def __call__(self, examples: Sequence[Example]) -> Batch:
        if self.mixup:
            first = examples[0]
            examples = blended(examples, generator(self.seed, first["epoch"], first["index"], "mixup"))
        batch, layout = self.inputs(examples)
        if self.objective is not None:
            batch |= self.masks(self.objective, batch, layout, examples)
            draw = partial(self.draw, self.objective.masking.sample, batch=batch, layout=layout)
            seeds = self.mask_seeds(self.objective, examples)
            candidates = self.objective.masking.draw_candidates(lambda every: draw(seeds=every), seeds)
            if candidates is not None:
                batch["mask_candidates"] = candidates
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch


# Independent random streams of one example.
STREAMS = {"read": 1, "crop": 2, "replace": 3, "mixup": 4, "spec_augment": 5, "draw": 6}


def generator(seed: int, epoch: int, index: int, stream: str) -> np.random.Generator:
    """The random numbers of one example in one epoch, for one purpose."""
    return np.random.default_rng((seed, epoch, index, STREAMS[stream]))


def pad(rows: Sequence[Tensor], name: str, value: float, multiple_of: int = 1) -> tuple[Batch, Tensor | None]:
    """Rows as one tensor under `name`; their lengths (batch,) and an attention mask where one is padded, else None."""
    lengths = torch.tensor([len(row) for row in rows])  # (batch,)
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
    if missing := -padded.shape[1] % multiple_of:
        padded = torch.cat((padded, padded.new_full((len(rows), missing, *padded.shape[2:]), value)), dim=1)
    batch = {name: padded}
    if (lengths == padded.shape[1]).all():
        return batch, None
    batch["attention_mask"] = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    return batch, lengths
