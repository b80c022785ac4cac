"""Intra-modal mixup: an example is blended with another one of its batch (MedCoSS, arXiv 2311.17597).

A rehearsed modality has few examples, which are so never the same twice.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def mix_values(values: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """`shares`, which broadcast, of `values` and the rest of `others`."""
    return shares * values + (1 - shares) * others


def mix_tokens(ids: Tensor, others: Tensor, draws: Tensor, ratio: Tensor | float) -> Tensor:
    """`ids` where `draws`, uniform in [0, 1), are below `ratio`, else `others`."""
    return torch.where(draws < ratio, ids, others)


def blended(examples: Sequence[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Each example blended with the one that a random order has in its place; it keeps its length and its masks.

    Numbers are added up, in a share that is drawn for each example; of ids each is taken from one of the two, in a
    ratio that is drawn for the batch. Where the other is shorter, an example stays as it is.
    """
    order, ratio = rng.permutation(len(examples)), float(rng.random())
    result = []
    for example, other in zip(examples, order, strict=True):
        mixed, share = dict(example), torch.tensor(rng.random(), dtype=torch.float32)
        for name, values in example.items():
            if not isinstance(values, Tensor) or values.dim() == 0:
                continue
            partner = values.clone()
            there = examples[int(other)][name]
            common = tuple(slice(min(pair)) for pair in zip(values.shape, there.shape, strict=True))
            partner[common] = there[common]
            if values.is_floating_point():
                mixed[name] = mix_values(values, partner, share)
            else:
                draws = torch.from_numpy(rng.random(tuple(values.shape)))
                mixed[name] = mix_tokens(values, partner, draws, ratio)
        result.append(mixed)
    return result
