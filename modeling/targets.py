"""Targets: normalise each of the top K layers, average them, normalise the average (data2vec, section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from .configuration_objective import ObjectiveConfig


EPS = 1e-5  # of every normalisation of targets, as in the original


class BlockFeatures(NamedTuple):
    """The four features of one block that can become a target, each `(batch, time, dim)` (data2vec, table 5)."""

    self_attention: Tensor  # before the residual
    ffn: Tensor  # before the residual
    ffn_residual: Tensor  # after the residual, before the block's final norm
    end_of_block: Tensor


def _standardize(features: Tensor, dims: tuple[int, ...], real: Tensor | None) -> Tensor:
    """Zero mean and unit (biased) variance over `dims`, with statistics over the steps where `real` is True."""
    if real is None:
        centered = features - features.mean(dims, keepdim=True)
        return centered * torch.rsqrt(centered.square().mean(dims, keepdim=True) + EPS)
    weight = real.unsqueeze(-1).to(features.dtype).expand_as(features)  # (batch, time, dim)
    count = weight.sum(dims, keepdim=True).clamp(min=1)
    centered = (features - (features * weight).sum(dims, keepdim=True) / count) * weight
    variance = centered.square().sum(dims, keepdim=True) / count
    return centered * torch.rsqrt(variance + EPS)


def normalize(features: Tensor, kind: str | None, real: Tensor | None = None) -> Tensor:
    """Normalise features without affine parameters.

    Args:
        features: `(batch, time, dim)`, fp32.
        kind: `"instance"` over time, `"batch"` over batch and time, `"layer"` over dim, `"group"` over time and dim,
            `None` for no change.
        real: bool `(batch, time)`, True on real steps. Statistics over time use these alone, and the other steps
            then come out as zeros; `None` takes every step.

    Returns:
        `(batch, time, dim)` fp32.
    """
    if kind is None:
        return features
    if kind == "layer":
        return torch.nn.functional.layer_norm(features, features.shape[-1:], eps=EPS)
    dims = {"instance": (1,), "batch": (0, 1), "group": (1, 2)}[kind]
    return _standardize(features, dims, real)


class TopKAverage:
    """Targets, summed up while the teacher runs: no layer is held for longer than it takes to add it.

    Normalising before averaging matters: the other order is a different target.

    Args:
        objective: gives the blocks, the tap and the two normalisations.
        blocks: how many blocks will be added; the last K count, or those that the objective names.
        real: bool `(batch, time)`, True on real steps, `None` if nothing is padded.
        in_front: tokens in front (CLS, extra tokens) that have no target.
        keep_layers: also keep the taps of all blocks, in `layers`.

    Raises:
        ValueError: fewer blocks than K.
    """

    def __init__(
        self,
        objective: ObjectiveConfig,
        blocks: int,
        real: Tensor | None = None,
        in_front: int = 0,
        keep_layers: bool = False,
    ):
        self.objective, self.in_front = objective, in_front
        self.statistics_over = None if objective.original_padding else real
        self.layers: list[Tensor] | None = [] if keep_layers else None
        self.attended: Tensor | None = None  # (batch, time), see [`AttentionMasking`]
        self._averaged = objective.averaged_layers(blocks)
        self._added = 0
        self._sum: Tensor | None = None  # (batch, time, dim) fp32

    def add(self, block: BlockFeatures) -> None:
        """The features of the next block, each `(batch, in_front + time, dim)` of any float dtype."""
        layer = getattr(block, self.objective.target_tap).detach()[:, self.in_front :]  # (batch, time, dim)
        if self.layers is not None:
            self.layers.append(layer)
        self._added += 1
        if self._added - 1 not in self._averaged:
            return
        normal = normalize(layer.float(), self.objective.target_layer_norm, self.statistics_over)
        self._sum = normal.clone() if self._sum is None else self._sum.add_(normal)

    @property
    def complete(self) -> bool:
        """Whether no further block is needed."""
        return self.layers is None and self._added > max(self._averaged)

    def result(self) -> Tensor:
        """`(batch, time, dim)` fp32, without gradient; padded steps are meaningless."""
        assert self._sum is not None
        return normalize(self._sum / len(self._averaged), self.objective.target_norm, self.statistics_over)


def mean_over_time(targets: Tensor, real: Tensor | None) -> Tensor:
    """Mean over the steps where bool `real` `(batch, time)` is True: `(batch, time, dim)` -> `(batch, dim)`."""
    if real is None:
        return targets.mean(1)
    weight = real.unsqueeze(-1).to(targets.dtype)  # (batch, time, 1)
    return (targets * weight).sum(1) / weight.sum(1).clamp(min=1)
