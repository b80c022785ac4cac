"""Masks that are chosen by what teacher or student make of a sample (AttMask, arXiv 2203.12719; HPM, 2304.05919).

The loader draws several masks for each view, the candidates, from the same seeds as any mask. The model takes the one
whose hidden tokens score highest. Nothing else is random, so that a mask is a function of seed, epoch, example, view
and weights, all of which a checkpoint holds. Of a row all candidates hide equally many tokens, never padding, so that
counts are known in the loader and nothing waits for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from .masking_base import Masking
from .masking_functions import GAMMA, mix64


class Evidence(NamedTuple):
    """What masks may be chosen by."""

    targets: Tensor  # (batch, time, numbers) fp32
    mean: Tensor  # (batch, numbers), of a sample's targets
    attention: Tensor | None  # (batch, time), what the teacher's last block attends to, where `reads_attention`
    error: Callable[[], Tensor]  # runs the student on the first candidate of the first view: fp32 (batch, time)


@strict
@dataclass(kw_only=True)
class AdaptiveMasking(Masking):
    """Of `candidates` masks that `of` draws for a view, the one that hides the highest scores.

    Args:
        of: a masking that hides an exact number of a row's tokens: `block`, `random` or `neighbours`.
        candidates: masks to choose from, 2 or more.
    """

    reads_attention: ClassVar[bool] = False
    of: Masking
    candidates: int = 8

    def __post_init__(self) -> None:
        self._require(self.of.exact, "of", "must hide an exact number of tokens: use block, random or neighbours")
        self._require(self.candidates >= 2, "candidates", "must be 2 or more")

    def score(self, evidence: Evidence) -> Tensor:
        """`(batch, time)`: what hiding a token is worth."""
        raise NotImplementedError

    def choose(self, candidates: Tensor, evidence: Evidence) -> Tensor:
        """Bool `(batch, views, candidates, time)` -> `(batch, views, time)`."""
        worth = (candidates * self.score(evidence)[:, None, None]).sum(-1)  # (batch, views, candidates)
        return candidates.take_along_dim(worth.argmax(-1)[..., None, None], dim=2).squeeze(2)

    def draw_candidates(self, draw: Callable[[Tensor], Tensor], seeds: Tensor) -> Tensor:
        others = mix64(seeds.unsqueeze(-1) + torch.arange(1, self.candidates) * GAMMA) & (2**63 - 1)
        every = torch.cat((seeds.unsqueeze(-1), others), dim=-1)  # (batch, views, candidates)
        return draw(every.flatten(1)).unflatten(1, every.shape[1:])

    @property
    def uses_coordinates(self) -> bool:
        return self.of.uses_coordinates

    def sample(self, *rows: Any, **more: Any) -> Tensor:
        """The first candidate of each view."""
        return self.of.sample(*rows, **more)

    def hide(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.of.hide(seeds, sizes, grid)

    def check(self, grid: tuple[int, ...]) -> None:
        self.of.check(grid)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"of": self.of.to_dict()}


@strict
@dataclass(kw_only=True)
class AttentionMasking(AdaptiveMasking):
    """Hides what the teacher's last block attends to, from the extra tokens or, without any, from all (AttMask)."""

    method: ClassVar[str] = "attention"
    reads_attention: ClassVar[bool] = True

    def score(self, evidence: Evidence) -> Tensor:
        assert evidence.attention is not None
        return evidence.attention


@strict
@dataclass(kw_only=True)
class VarianceMasking(AdaptiveMasking):
    """Hides what differs from the rest of the sample: positions whose targets are far from its mean target."""

    method: ClassVar[str] = "variance"

    def score(self, evidence: Evidence) -> Tensor:
        return (evidence.targets - evidence.mean.unsqueeze(1)).square().mean(-1)


@strict
@dataclass(kw_only=True)
class ErrorMasking(AdaptiveMasking):
    """Hides what the student predicts badly behind its first candidate; costs its pass over one view.

    What that candidate leaves visible, whose error is not known, counts as the mean of what it hides.
    """

    method: ClassVar[str] = "error"

    def score(self, evidence: Evidence) -> Tensor:
        return evidence.error()
