"""The record that goes from embeddings to positions, teacher and decoder."""

from typing import NamedTuple

from torch import Tensor


class Tokens(NamedTuple):
    """What an embedding makes of a batch.

    Attributes:
        values: `(batch, time, dim)` float, without positions.
        grid: shape of the tokens, `(time,)`, `(height, width)` or with more axes, row-major; time = prod(grid).
        real: bool `(batch, time)`, False on padding; `None` where nothing is padded.
        coordinates: `(batch, time, axes)` float, where a token is in space, for tokens that lie on no grid (points).
        streams: `(batch, time, dim)` of each stream that `values` were fused of; `None` for one that is not there.
    """

    values: Tensor
    grid: tuple[int, ...]
    real: Tensor | None = None
    coordinates: Tensor | None = None
    streams: tuple[Tensor | None, ...] | None = None
