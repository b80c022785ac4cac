"""Mixup of sounds: two clips heard at once, with the labels of both (Zhang et al., arXiv 1710.09412).

Which clip is mixed in, and how loud, follows from (seed, epoch, index) of the first one, so it is the same whatever
batch, worker or resumed run reads it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixup:
    """How often, and how evenly, clips are mixed.

    Attributes:
        prob: share of the clips that another one is mixed into.
        beta: of Beta(beta, beta), which the share of the louder clip is drawn from. With 1 that share is uniform in
            [0.5, 1], as in the released recipe (`source_mixup: 0.5`); towards 0 the second clip is hardly heard.
    """

    prob: float
    beta: float

    def draw(self, rng: np.random.Generator, size: int) -> tuple[int, float] | None:
        """(index of the clip to mix in, share of the first clip in [0.5, 1]) or None, of a set of `size` clips."""
        mixed, other, share = rng.random() < self.prob, int(rng.integers(size)), float(rng.beta(self.beta, self.beta))
        return (other, max(share, 1 - share)) if mixed else None


def mix(first: Tensor, second: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """`share * first + (1 - share) * second`, (samples,) as long as `first`, with zero mean and unit variance.

    A longer `second` is cropped at random, a shorter one starts at random and is silent elsewhere. (The original
    divides by `sqrt(share^2 + (1 - share)^2)`, which is the same for clips that do not correlate.)
    """
    start = int(rng.integers(abs(len(first) - len(second)) + 1))
    if len(second) >= len(first):
        second = second[start : start + len(first)]
    else:
        second = torch.nn.functional.pad(second, (start, len(first) - len(second) - start))
    mixed = share * first + (1 - share) * second
    return (mixed - mixed.mean()) / torch.sqrt(mixed.var(correction=0) + 1e-7)


def mix_labels(first: Tensor, second: Tensor, share: float) -> Tensor:
    """`share * first + (1 - share) * second`, (labels,) fp32."""
    return share * first.float() + (1 - share) * second.float()
