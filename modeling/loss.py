"""The terms of the loss, the regression at scored positions, and the spread of what is compared."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class LossTerm(NamedTuple):
    """A term of the loss: `weight` times a mean over positions.

    Attributes:
        name: what logs call it, `loss_<name>`.
        predictions: `(positions, dim)`.
        targets: `(positions, dim)`, or what `summed` reads, one row a position; without gradient.
        weight: relative to the mean over the term's own positions, whatever their number.
        summed: predictions and targets -> the loss summed over positions, scalar fp32; the regression of the objective
            if `None`.
    """

    name: str
    predictions: Tensor
    targets: Tensor
    weight: float = 1.0
    summed: Callable[[Tensor, Tensor], Tensor] | None = None


def regression_loss(
    predictions: Tensor, targets: Tensor, beta: float, scale: float, weights: Tensor | None = None
) -> Tensor:
    """Sum over positions and channels of the squared error or the Smooth-L1 loss, times `scale` (data2vec, eq. 4).

    Args:
        predictions, targets: `(positions, dim)`; compared in fp32.
        beta: 0 is the squared error (without 1/2); above 0 it is 0.5 * d^2 / beta below beta, |d| - 0.5 * beta above.
        scale: factor of the sum over channels, 1/sqrt(dim) in most recipes.
        weights: `(positions,)` fp32, what each counts; all 1 if `None`.

    Returns:
        scalar fp32. Divide by the number of positions of the whole effective batch, not of one micro-batch.
    """
    predictions, targets = predictions.float(), targets.float()
    how = "sum" if weights is None else "none"
    if beta == 0:
        losses = F.mse_loss(predictions, targets, reduction=how)
    else:
        losses = F.smooth_l1_loss(predictions, targets, reduction=how, beta=beta)
    return (losses if weights is None else losses.sum(-1) @ weights) * scale


def token_loss(scores: Tensor, ids: Tensor) -> Tensor:
    """Sum over positions of the cross-entropy: `(positions, vocabulary)` and `(positions, 1)` long -> scalar fp32."""
    return F.cross_entropy(scores.float(), ids.squeeze(-1), reduction="sum")


@torch.no_grad()
def spread(states: Tensor) -> Tensor:
    """Mean over channels of sqrt(unbiased variance over positions + 1e-6): `(..., dim)` -> scalar fp32.

    Near zero the states say the same everywhere, which is a collapse (data2vec, section 3.3). Fewer than two
    positions have no spread: NaN.
    """
    rows = states.detach().float().flatten(0, -2)  # (positions, dim)
    if len(rows) < 2:
        return rows.new_full((), float("nan"))
    variance = (rows - rows.mean(0)).square().sum(0) / (len(rows) - 1)  # on CPU rows.var(0) takes 3 to 6 times as long
    return (variance + 1e-6).sqrt().mean()
