"""Picks what the student sees out of the sequence and puts it back later (arXiv 2212.07525, sections 3.1 and 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Kept(NamedTuple):
    """Which tokens are kept. Rows that keep fewer than others are filled up with tokens that are not `real`."""

    where: Tensor  # (rows, kept) long, places in the full sequence, in order
    real: Tensor | None  # bool (rows, kept), False on filler; None where all rows keep as many


def keep(visible: Tensor) -> Kept:
    """Bool `(rows, time)`, True = seen by the student -> its tokens.

    Raises:
        ValueError: a row without a visible token.
    """
    counts = visible.sum(-1)  # (rows,)
    fewest, most = torch.stack((counts.min(), counts.max())).tolist()  # the only wait for the device
    if fewest == 0:
        raise ValueError("masked hides every real token of a sample: leave at least one for the student.")
    index = (~visible).to(torch.uint8).argsort(dim=-1, stable=True)[:, :most]  # (rows, kept)
    if fewest == most:
        return Kept(index, None)
    return Kept(index, torch.arange(most, device=visible.device) < counts.unsqueeze(-1))


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens `(samples, time, dim)` at `index` `(rows, kept)` -> `(rows, kept, dim)`.

    Each sample serves as many rows in a row as there are views of it, without being repeated first.
    """
    samples, time = tokens.shape[:2]
    views = len(index) // samples
    first = torch.arange(samples, device=index.device).repeat_interleave(views) * time  # (rows,)
    return F.embedding(first.unsqueeze(-1) + index, tokens.flatten(0, 1))


def restore(encoded: Tensor, visible: Tensor, elsewhere: Tensor) -> Tensor:
    """Kept tokens `(rows, kept, dim)` in their places, `elsewhere` `(rows, time, dim)` in the others."""
    place = (visible.cumsum(-1) - 1).clamp(min=0)  # (rows, time), which of the kept tokens
    return torch.where(visible.unsqueeze(-1), take(encoded, place), elsewhere)
