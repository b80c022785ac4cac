"""Picks what the student sees out of the sequence and puts it back later (arXiv 2212.07525, sections 3.1 and 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class MaskCounts(NamedTuple):
    """What the host has to know of a batch's masks: as counted in the loader, or else read back from the device."""

    scored: int  # positions where the loss is taken, those that are masked by default, all rows and views together
    fewest: int  # visible tokens of the row that keeps fewest
    most: int  # visible tokens of the row that keeps most


def count_masks(masked: Tensor, real: Tensor | None = None, scored: Tensor | None = None) -> MaskCounts:
    """Count bool `masked` `(batch, time)` or `(batch, views, time)`, among `real` `(batch, time)` tokens if given.

    `scored` is bool like `masked`, where the loss is taken; `masked` itself if `None`.
    """
    visible = ~masked
    if real is not None:
        visible = visible & (real if masked.dim() == 2 else real.unsqueeze(1))
    kept = visible.sum(-1)
    counts = torch.stack(((masked if scored is None else scored).sum(), kept.min(), kept.max()))
    return MaskCounts(*counts.tolist())  # one wait for the device


def scored_indices(scored: Tensor, counts: MaskCounts | tuple[int, int, int] | None) -> Tensor:
    """Where bool `scored`, flattened, is True: `(scored positions,)` long, in order.

    With `counts` nothing waits for the device, which checks them: `RuntimeError` if they are wrong.
    """
    if counts is None:
        return scored.flatten().nonzero().squeeze(1)
    torch._assert_async(scored.sum() == counts[0], f"mask_counts: not {counts[0]} positions are masked or scored.")
    return torch.nonzero_static(scored.flatten(), size=counts[0]).squeeze(1)


class Kept(NamedTuple):
    """Which tokens are kept. Rows that keep fewer than others are filled up with tokens that are not `real`."""

    where: Tensor  # (rows, kept) long, places in the full sequence, in order
    real: Tensor | None  # bool (rows, kept), False on filler; None where all rows keep as many


def select_visible(visible: Tensor, counts: MaskCounts | tuple[int, int, int] | None = None) -> Kept:
    """Bool `(rows, time)`, True = seen by the student -> its tokens. `counts` as in [`scored_indices`].

    Raises:
        ValueError: a row without a visible token.
    """
    seen = visible.sum(-1, keepdim=True)  # (rows, 1)
    if counts is None:
        counts = count_masks(~visible)
    else:
        agree = (seen.min() == counts[1]) & (seen.max() == counts[2])
        torch._assert_async(agree, f"mask_counts: rows do not keep {counts[1]} to {counts[2]} tokens.")
    _, fewest, most = counts
    if fewest == 0:
        raise ValueError("masked hides every real token of a sample: leave at least one for the student.")
    index = (~visible).to(torch.uint8).argsort(dim=-1, stable=True)[:, :most]  # (rows, kept)
    if fewest == most:
        return Kept(index, None)
    return Kept(index, torch.arange(most, device=visible.device) < seen)


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens `(samples, time, dim)` at `index` `(rows, kept)` -> `(rows, kept, dim)`.

    Each sample serves as many rows in a row as there are views of it, without being repeated first.
    """
    samples, time = tokens.shape[:2]
    views = len(index) // samples
    first = torch.arange(samples, device=index.device).repeat_interleave(views) * time  # (rows,)
    return F.embedding(first.unsqueeze(-1) + index, tokens.flatten(0, 1))


def per_view(shared: Tensor, rows: int) -> Tensor:
    """What all views of a sample share, `(batch, ...)`, once for each: `(rows, ...)`, those of a sample in a row.

    One row serves all samples.
    """
    if len(shared) == 1:
        return shared.expand(rows, *shared.shape[1:])
    return shared if len(shared) == rows else shared.repeat_interleave(rows // len(shared), dim=0)


def at_scored(states: Tensor, indices: Tensor, rows: int) -> Tensor:
    """What all views of a sample share, `(batch, time, dim)`, at scored positions `(scored,)` -> `(scored, dim)`.

    `indices` count through `rows` of `time` positions, a row per view, those of a sample in a row.
    """
    batch, time = states.shape[:2]
    views = rows // batch
    return states.flatten(0, 1).index_select(0, indices // (views * time) * time + indices % time)


def scatter(encoded: Tensor, visible: Tensor, elsewhere: Tensor) -> Tensor:
    """Kept tokens `(rows, kept, dim)` in their places, `elsewhere` `(rows, time, dim)` in the others."""
    place = (visible.cumsum(-1) - 1).clamp(min=0)  # (rows, time), which of the kept tokens
    return torch.where(visible.unsqueeze(-1), gather(encoded, place), elsewhere)
