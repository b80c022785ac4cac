"""Layers of data2vec 2.0 that are not initialised from N(0, 0.02) with a zero bias, as in the original.

Each layer initialises itself, not a module around it: `transformers` skips modules without parameters of their own.
"""

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init


class SelfInitialized(nn.Module):
    """A layer that initialises its own parameters; `initialize` leaves alone what was loaded from a checkpoint."""

    def initialize(self) -> None:
        raise NotImplementedError


def initialize_linear(weight: Tensor, bias: Tensor | None) -> None:
    """torch's own: both uniform between +-1/sqrt(inputs)."""
    bound = 1 / math.sqrt(weight[0].numel())
    init.uniform_(weight, -bound, bound)
    if bias is not None:
        init.uniform_(bias, -bound, bound)


class DefaultLinear(SelfInitialized, nn.Linear):
    def initialize(self) -> None:
        initialize_linear(self.weight, self.bias)


class DefaultConv2d(SelfInitialized, nn.Conv2d):
    def initialize(self) -> None:
        initialize_linear(self.weight, self.bias)


class DefaultConv3d(SelfInitialized, nn.Conv3d):
    def initialize(self) -> None:
        initialize_linear(self.weight, self.bias)


class XavierConv2d(SelfInitialized, nn.Conv2d):
    """Xavier's uniform distribution for the matrix that a convolution of patches is; the bias is torch's default."""

    def initialize(self) -> None:
        initialize_linear(self.weight, self.bias)
        bound = math.sqrt(6 / (self.out_channels + self.weight[0].numel()))
        init.uniform_(self.weight, -bound, bound)


def _he(weight: Tensor) -> None:
    """He's normal distribution, for what ReLU-like units follow."""
    init.normal_(weight, std=math.sqrt(2 / weight[0].numel()))


class HeLinear(SelfInitialized, nn.Linear):
    """Without bias."""

    def initialize(self) -> None:
        _he(self.weight)


class HeConv2d(SelfInitialized, nn.Conv2d):
    """Without bias."""

    def initialize(self) -> None:
        _he(self.weight)


class HeConv3d(SelfInitialized, nn.Conv3d):
    """Without bias."""

    def initialize(self) -> None:
        _he(self.weight)


class MaskToken(SelfInitialized):
    """A learned vector that stands where something is hidden; N(0, 0.02), cut off at two standard deviations."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.initialize()

    def initialize(self) -> None:
        init.trunc_normal_(self.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, dtype: torch.dtype) -> Tensor:
        """`(dim,)` in `dtype`."""
        return self.weight.to(dtype)
