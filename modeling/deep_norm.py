"""DeepNorm (arXiv 2203.00555) inside blocks of `transformers` that know none: folded into the weights.

DeepNorm adds a branch to `alpha` times its input, norm(alpha * x + f(x)), and starts the branch's values, outputs and
feed-forward layers at a gain of `beta`. Of L encoder blocks, alpha = (2 L)^(1/4) and beta = (8 L)^(-1/4).

A layer norm does not see a factor: norm(alpha * x + f(x)) = norm(x + f(x) / alpha), but for its epsilon, which counts
alpha^2 times as much. So the last layer of each branch holds 1 / alpha of DeepNorm's weights and biases, and an
ordinary post-norm block computes the same. For Adam's steps to be DeepNorm's too, these parameters learn at 1 / alpha
of the learning rate and with alpha times the weight decay. What remains different: Adam's epsilon is compared with
gradients that are alpha times as large, and so is the threshold of gradient clipping. Targets that are taken from a
branch are 1 / alpha of DeepNorm's, which a norm over them takes away.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import initialization as init


FOLDED = ("attention.out_proj.", "feed_forward.output_dense.")  # the last layers of the two branches, in speech


def alpha(blocks: int) -> float:
    return (2 * blocks) ** 0.25


def beta(blocks: int) -> float:
    return (8 * blocks) ** -0.25


def start_deep_norm(layers: Iterable[Any], blocks: int) -> None:
    """Initialise blocks of Data2VecAudioModel: Xavier's normal distribution with DeepNorm's gains folded in."""
    gain, fold = beta(blocks), 1 / alpha(blocks)
    for layer in layers:
        attention, ffn = layer.attention, layer.feed_forward
        gains: list[tuple[nn.Linear, float]] = [
            (attention.q_proj, 1.0),
            (attention.k_proj, 1.0),
            (attention.v_proj, gain),
            (attention.out_proj, gain * fold),
            (ffn.intermediate_dense, gain),
            (ffn.output_dense, gain * fold),
        ]
        for linear, scale in gains:
            init.xavier_normal_(linear.weight, gain=scale)
            init.zeros_(linear.bias)
