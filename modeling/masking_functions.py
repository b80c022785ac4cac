"""What the masking strategies are made of: numbers that depend on a row's seed only, and choices among a row's tokens.

Random numbers are SplitMix64 (Steele, Lea and Flood, 2014) read at explicit positions, not a `torch.Generator`: all
rows are drawn at once, a longer row starts with the same numbers, all 64 bits of a seed count (torch's CPU generator
keeps 32 of them), and every device draws the same numbers. Of the streams of a row, 0 is for numbers per row or per
block, 1 to 3 are for numbers per token.
"""

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor


GAMMA = 0x9E3779B97F4A7C15 - 2**64  # SplitMix64's increment; these constants as signed int64, where products wrap


def mix64(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 under which neighbouring inputs become unrelated."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor  # the "and" makes the shift a logical one
    return z


def uniforms(seeds: Tensor, count: int, stream: int = 0, first: int = 0) -> Tensor:
    """Uniforms in [0, 1): (rows, count) fp64; a row's element i depends on its seed, the stream and first + i only."""
    position = (stream << 32) + first + 1 + torch.arange(count, device=seeds.device)
    return ((mix64(seeds[:, None] + position * GAMMA) >> 11) & (2**53 - 1)).double() * 2.0**-53


def maskable_tokens(batch: int, time: int, lengths: Tensor | None, maskable: Tensor | None) -> Tensor:
    """Bool (batch, time): real and maskable. `ValueError` where `lengths` (batch,) or `maskable` do not fit."""
    allowed = torch.ones(batch, time, dtype=torch.bool)
    if lengths is not None:
        if lengths.shape != (batch,) or ((lengths < 0) | (lengths > time)).any():
            raise ValueError(f"lengths={lengths.tolist()} must be {batch} numbers of tokens from 0 to {time}")
        allowed = real_tokens(lengths, time)
    if maskable is not None:
        if maskable.shape != (batch, time) or maskable.dtype != torch.bool:
            raise ValueError(f"maskable is {maskable.dtype} {tuple(maskable.shape)}: pass bool {(batch, time)}")
        allowed = allowed.to(maskable.device) & maskable
    return allowed


def real_tokens(sizes: Tensor, time: int) -> Tensor:
    """Bool (rows, time): True at each row's first `sizes` tokens."""
    return torch.arange(time, device=sizes.device) < sizes[:, None]


def cell_noise(seeds: Tensor, sizes: Tensor, time: int, stream: int) -> Tensor:
    """Uniforms per token, (rows, time) fp64, infinite beyond each row's `sizes`."""
    return uniforms(seeds, time, stream).masked_fill(~real_tokens(sizes, time), torch.inf)


def smallest(keys: Tensor, count: Tensor) -> Tensor:
    """Bool (rows, time): the `count` (rows,) smallest finite keys of each row; with noise as keys, a random choice."""
    ordered = F.pad(keys.sort(-1).values, (0, 1), value=torch.inf)  # (rows, time + 1)
    return keys < ordered.gather(-1, count[:, None])


def stochastic_count(seeds: Tensor, sizes: Tensor, rate: float) -> Tensor:
    """int(sizes * rate + u) with one uniform u per row: (rows,) int64, right on average."""
    return (sizes.double() * rate + uniforms(seeds, 1)[:, 0]).long()


def draw_spans(seeds: Tensor, sizes: Tensor, spans: Tensor, starts: Tensor, time: int, length: int) -> Tensor:
    """Bool (rows, time): `spans` spans at distinct ones of each row's first `starts` tokens, cut at its `sizes`."""
    marks = smallest(cell_noise(seeds, starts, time, stream=1), spans)
    return dilate(marks, length, before=0) & real_tokens(sizes, time)


def dilate(marks: Tensor, length: int, before: int) -> Tensor:
    """Bool (rows, *grid): every mark grown, along each axis, to `length` cells of which `before` precede it."""
    for axis in range(1, marks.dim()):
        moved = F.pad(marks.movedim(axis, -1), (length - 1 - before, before))
        marks = moved.unfold(-1, length, 1).any(-1).movedim(-1, axis)
    return marks


def draw_rectangles(
    seeds: Tensor, grid: tuple[int, ...], target: int, smallest_area: int, largest_area: int, min_aspect: float
) -> Tensor:
    """Bool (rows, height, width): up to `target` cells under rectangles; as in `masking.BeitBlockMasking`.

    A rectangle is smaller than the grid on both sides and covers at least 1 and at most what is left of new cells.
    Each has ten attempts to fit, but the first is tried for until it does; `ValueError` where it never does.
    """
    height, width = grid
    ys, xs = torch.arange(height, device=seeds.device), torch.arange(width, device=seeds.device)
    covered = torch.zeros(len(seeds), height, width, dtype=torch.bool, device=seeds.device)
    count = torch.zeros_like(seeds)  # (rows,) covered so far
    failed = torch.zeros_like(seeds)  # (rows,) failed attempts at the current rectangle
    for attempt in range(1000):
        running = (count < target) & ((failed < 10) | (count == 0))
        if not running.any():
            return covered
        # All rows try one rectangle at a time, in step; the numbers of a finished row are drawn and not used.
        u = uniforms(seeds, 4, first=4 * attempt)  # (rows, 4)
        room = (target - count).clamp(max=largest_area)
        area = smallest_area + (room - smallest_area) * u[:, 0]
        aspect = torch.exp(log(min_aspect) * (1 - 2 * u[:, 1]))
        high, wide = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        top, left = (u[:, 2] * (height - high + 1)).long(), (u[:, 3] * (width - wide + 1)).long()
        in_rows = (ys >= top[:, None]) & (ys < (top + high)[:, None])  # (rows, height)
        in_columns = (xs >= left[:, None]) & (xs < (left + wide)[:, None])  # (rows, width)
        fresh = in_rows[:, :, None] & in_columns[:, None, :] & ~covered  # (rows, height, width)
        gain = fresh.sum((1, 2))
        taken = running & (high < height) & (wide < width) & (gain > 0) & (gain <= room)
        covered |= fresh & taken[:, None, None]
        count = count + gain * taken
        failed = torch.where(taken, 0, failed + 1)
    raise ValueError(
        f"no block of min_patches={smallest_area} fits a grid of {grid}, of which {target} are to be hidden, in 1000 "
        f"attempts: lower min_patches, raise ratio or lower min_aspect={min_aspect}"
    )
