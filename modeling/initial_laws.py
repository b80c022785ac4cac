"""Layers that do not start at N(0, 0.02) with a bias of 0: the others of data2vec 2.0, as in the original.

A layer starts itself, and not a module around it: `transformers` skips modules without parameters of their own.
"""

import math

from torch import Tensor, nn
from transformers import initialization as init


class OwnLaw(nn.Module):
    """A layer that knows how it starts. `start` leaves alone what was loaded from a checkpoint."""

    def start(self) -> None:
        raise NotImplementedError


def _default(weight: Tensor, bias: Tensor | None) -> None:
    """torch's own: both uniform between +-1/sqrt(inputs)."""
    bound = 1 / math.sqrt(weight[0].numel())
    init.uniform_(weight, -bound, bound)
    if bias is not None:
        init.uniform_(bias, -bound, bound)


class DefaultLinear(OwnLaw, nn.Linear):
    def start(self) -> None:
        _default(self.weight, self.bias)


class DefaultConv2d(OwnLaw, nn.Conv2d):
    def start(self) -> None:
        _default(self.weight, self.bias)


class XavierConv2d(OwnLaw, nn.Conv2d):
    """Xavier's uniform law of the matrix that a convolution of patches is; the bias is torch's default."""

    def start(self) -> None:
        _default(self.weight, self.bias)
        bound = math.sqrt(6 / (self.out_channels + self.weight[0].numel()))
        init.uniform_(self.weight, -bound, bound)


def _he(weight: Tensor) -> None:
    """He's normal law, for what ReLU-like units follow."""
    init.normal_(weight, std=math.sqrt(2 / weight[0].numel()))


class HeLinear(OwnLaw, nn.Linear):
    """Without bias."""

    def start(self) -> None:
        _he(self.weight)


class HeConv2d(OwnLaw, nn.Conv2d):
    """Without bias."""

    def start(self) -> None:
        _he(self.weight)
