"""Targets: normalise each of the top K layers, average them, normalise the average (data2vec, section 3.3)."""

from collections.abc import Sequence
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
    weight = real.unsqueeze(-1).to(features.dtype)  # (batch, time, 1)
    count = weight.sum(dims, keepdim=True).clamp(min=1)
    centered = (features - (features * weight).sum(dims, keepdim=True) / count) * weight
    variance = centered.square().sum(dims, keepdim=True) / count
    return centered * torch.rsqrt(variance + EPS)


def normalize(features: Tensor, kind: str | None, real: Tensor | None = None) -> Tensor:
    """Normalise features without affine parameters.

    Args:
        features: `(batch, time, dim)`, fp32.
        kind: `"instance"` over time, `"batch"` over batch and time, `"layer"` over dim, `None` for no change.
        real: bool `(batch, time)`, True on real steps. Statistics over time use these alone, and the other steps
            of an instance or batch norm come out as zeros; `None` takes every step.

    Returns:
        `(batch, time, dim)` fp32.
    """
    if kind is None:
        return features
    if kind == "layer":
        return torch.nn.functional.layer_norm(features, features.shape[-1:], eps=EPS)
    dims = {"instance": (1,), "batch": (0, 1)}[kind]
    return _standardize(features, dims, real)


@torch.no_grad()
def average_top_k(layers: Sequence[Tensor], objective: ObjectiveConfig, real: Tensor | None = None) -> Tensor:
    """Targets from the taps of all blocks; of these the last `objective.top_k_layers` are used.

    Normalising before averaging matters: the other order is a different target. The sum is accumulated, so that no
    stack of K layers is held.

    Args:
        layers: one `(batch, time, dim)` tensor a block, in order, any float dtype.
        objective: gives K and the two normalisations.
        real: bool `(batch, time)`, True on real steps, `None` if nothing is padded.

    Returns:
        `(batch, time, dim)` fp32, without gradient; padded steps are meaningless.

    Raises:
        ValueError: fewer layers than K.
    """
    k = objective.top_k_layers
    if len(layers) < k:
        raise ValueError(f"objective.top_k_layers = {k}, but the teacher gave {len(layers)} layers.")
    statistics_over = None if objective.original_padding else real
    average = torch.zeros_like(layers[-1], dtype=torch.float32)  # (batch, time, dim)
    for layer in layers[-k:]:
        average += normalize(layer.float(), objective.target_layer_norm, statistics_over)
    return normalize(average.div_(k), objective.target_norm, statistics_over)


def mean_over_time(targets: Tensor, real: Tensor | None) -> Tensor:
    """Mean over the steps where bool `real` `(batch, time)` is True: `(batch, time, dim)` -> `(batch, dim)`."""
    if real is None:
        return targets.mean(1)
    weight = real.unsqueeze(-1).to(targets.dtype)  # (batch, time, 1)
    return (targets * weight).sum(1) / weight.sum(1).clamp(min=1)
