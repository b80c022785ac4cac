"""What every masking strategy shares: rows that depend on nothing but their seed and size, and the seeds.

- A mask is bool (batch, views, time), True = hidden; the teacher never sees it.
- A row (one view of one example) is a pure function of its seed, its number of maskable tokens and the strategy's
  numbers: neither the other rows, nor padding, nor the number of loader workers can change it.
- Padding and everything else that is not `maskable` is never hidden. In 1-D a strategy runs over the row's sequence of
  maskable tokens, as if the others were not there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from .masking_functions import GAMMA, maskable_tokens, mix64, real_tokens


Strategy = Callable[[Tensor, Tensor, tuple[int, ...]], Tensor]  # seeds, sizes (rows,), grid -> bool (rows, time)


class Masking(ABC):
    """What every strategy offers. A wrong number raises `ValueError` when the strategy is built."""

    method: ClassVar[str]
    grid_axes: ClassVar[tuple[int, ...]]  # the numbers of axes of the token grids that the strategy is defined on
    uses_coordinates: ClassVar[bool] = False  # True: the strategy needs to know where tokens are in space
    uses_neighbours: ClassVar[bool] = True  # False: the strategy does not care where in the grid a token is
    exact: ClassVar[bool] = False  # True: how many are hidden depends on a row's size alone
    reads_attention: ClassVar[bool] = False  # True: masks are chosen by the teacher's attention
    fits_shorter: ClassVar[bool] = False  # of more than one axis: rows that are padded by whole rows of the grid

    def sample(
        self,
        grid: tuple[int, ...],
        seeds: Tensor,
        lengths: Tensor | None = None,
        maskable: Tensor | None = None,
        coordinates: Tensor | None = None,
    ) -> Tensor:
        """Bool (batch, views, time) on the device of `seeds`, True = hidden from the student.

        `grid` is the token grid: (time,) for audio and text, (height, width) for images and spectrograms; time =
        prod(grid).
        `seeds` (batch, views) int64 are from `mask_seeds`, `lengths` (batch,) int64 count the real tokens of
        right-padded rows, `maskable` (batch, time) bool is False where nothing may be hidden, `coordinates` (batch,
        time, axes) say where tokens are that lie on no grid. `ValueError` where these do not fit each other or the
        strategy.
        """
        return self._in_rows(self.hide, grid, seeds, lengths, maskable)

    @abstractmethod
    def hide(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Bool (rows, time), True among each row's first `sizes` tokens; seeds, sizes (rows,) int64."""

    def check(self, grid: tuple[int, ...]) -> None:
        """Raise `ValueError`, naming the field, where this mask cannot fit the grid (of the shortest clip)."""
        if len(grid) not in self.grid_axes or min(grid) < 1:
            axes = " or ".join(f"{axes}-D" for axes in self.grid_axes)
            raise ValueError(f"masking {self.method!r} covers {axes} token grids, not {grid}: use another method")

    def draw_candidates(self, draw: Callable[[Tensor], Tensor], seeds: Tensor) -> Tensor | None:
        """Of a masking that chooses, see `masking_adaptive`: bool (batch, views, candidates, time), of which the first
        is what `sample` gives.

        `draw` makes masks (batch, n, time) of seeds (batch, n); `seeds` (batch, views) are those of `sample`.
        """
        return None

    def to_dict(self) -> dict[str, Any]:
        """What `masking_from_dict` reads back, as plain JSON types."""
        return {"method": self.method, **asdict(self)}  # type: ignore[call-overload]

    def _require(self, holds: bool, field: str, fix: str) -> None:
        if not holds:
            raise ValueError(f"masking {self.method!r}: {field}={getattr(self, field)!r} {fix}")

    def _in_rows(
        self, strategy: Strategy, grid: tuple[int, ...], seeds: Tensor, lengths: Tensor | None, maskable: Tensor | None
    ) -> Tensor:
        """Runs `strategy` on rows squeezed to their maskable tokens and puts the result back in place."""
        Masking.check(self, grid)  # the axes only: a clip too short for `check` still gets a mask
        if seeds.dim() != 2 or seeds.dtype != torch.int64:
            raise ValueError(f"seeds is {seeds.dtype} {tuple(seeds.shape)}: pass int64 (batch, views) from mask_seeds")
        (batch, views), time = seeds.shape, prod(grid)
        allowed = maskable_tokens(batch, time, lengths, maskable).to(seeds.device)  # (batch, time)
        if len(grid) > 1 and self.uses_neighbours and not allowed.all():
            needs = "the first rows of the grid, whole" if self.fits_shorter else "all of them"
            sizes = allowed.sum(-1)  # (batch,)
            whole = not (sizes % prod(grid[1:])).any() and torch.equal(allowed, real_tokens(sizes, time))
            if not (self.fits_shorter and whole):
                raise ValueError(
                    f"lengths / maskable leave out tokens of a {grid} grid: {self.method!r} needs {needs}"
                )
        allowed = allowed.repeat_interleave(views, dim=0)  # (batch * views, time)
        squeezed = strategy(seeds.flatten(), allowed.sum(-1), grid)  # (batch * views, time)
        place = (allowed.cumsum(-1) - 1).clamp(min=0)  # (batch * views, time) index into the squeezed row
        return (squeezed.gather(-1, place) & allowed).view(batch, views, time)


def mask_seeds(seed: int, epoch: int, examples: Sequence[int] | Tensor, views: int) -> Tensor:
    """Seeds of the masks of some examples: (batch, views) int64, not negative.

    A 64-bit mix of the run's seed, the epoch, the example's index (`examples`, (batch,)) and the view's number:
    resuming, or another number of workers or ranks, repeats exactly the same masks.
    """
    if views < 1:
        raise ValueError(f"views={views} must be at least 1: use 1 where each sample is masked once")
    state = torch.zeros((), dtype=torch.int64)
    for word in (torch.tensor(seed), torch.tensor(epoch), torch.as_tensor(examples)[:, None], torch.arange(views)):
        state = mix64(state ^ mix64(word.long() + GAMMA))
    return state & (2**63 - 1)  # (batch, views)
