"""Self-attention of data2vec 2.0 and its bias against distance, ALiBi."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class Alibi(nn.Module):
    """Linear bias of the attention against distance, with a learned scale a head (arXiv 2108.12409; 2212.07525).

    bias = -slope * max(scale, 0) * |i - j|; an extra token is at no distance from anything. Distances between the
    tokens that are there are all that is built, `(rows, 1, time, time)`, and one number a head.
    """

    slopes: Tensor

    def __init__(self, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.scale = nn.Parameter(torch.ones(num_heads))
        self.register_buffer("slopes", alibi_slopes(num_heads), persistent=False)  # (heads,)

    def forward(self, index: Tensor, extra: int) -> tuple[Tensor, Tensor]:
        """Positions `(rows, time)` long, behind `extra` tokens.

        Returns:
            distances `(rows, 1, extra + time, extra + time)` fp32, and slopes `(heads,)` fp32 with gradient.
        """
        distance = (index.unsqueeze(2) - index.unsqueeze(1)).abs().to(torch.float32)  # (rows, time, time)
        distance = F.pad(distance, (extra, 0, extra, 0)).unsqueeze(1)
        return distance, self.slopes.float() * self.scale.float().clamp(min=0)


def alibi_slopes(num_heads: int) -> Tensor:
    """Slopes `(heads,)` fp32: 2^(-8/n), 2^(-16/n), ...; from the two nearest powers of two where n is none."""

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    below = 2 ** int(math.log2(num_heads))
    between = geometric(2 * below)[0::2][: num_heads - below]
    return torch.tensor(geometric(below) + between, dtype=torch.float32)


def alibi_bias(distance: Tensor, slopes: Tensor) -> Tensor:
    """Distances `(rows, 1, time, time)` and slopes `(heads,)` -> `(rows, heads, time, time)` fp32."""
    return distance * -slopes.view(1, -1, 1, 1)


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """What queries and keys will be, under autocast too: the attention wants its bias in it."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class Data2Vec2Attention(nn.Module):
    """Multi-head self-attention, explicit or through `transformers`' attention interface."""

    is_causal = False

    def __init__(self, config: PreTrainedConfig, num_heads: int | None = None, hidden_size: int | None = None):
        super().__init__()
        self.config = config
        dim = hidden_size or config.hidden_size
        self.head_dim = dim // (num_heads or config.num_attention_heads)
        self.scaling = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self, hidden: Tensor, bias: Tensor | None, slopes: Tensor | None, attention_mask: Any, explicit: bool
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            hidden: `(rows, time, dim)`.
            bias: explicit, distances `(rows or 1, 1, time, time)`; else what is added to the scores,
                `(rows or 1, heads, time, time)`.
            slopes: `(heads,)`, what distances are multiplied with; explicit only.
            attention_mask: explicit, bool `(rows or 1, 1, 1 or time, time)`, True = attended to; else of a type that
                the interface wants.

        Returns:
            `(rows, time, dim)`, and the attention `(rows, heads, time, time)` where the implementation makes it.
        """
        heads = self.qkv(hidden).unflatten(-1, (3, -1, self.head_dim))  # (rows, time, 3, heads, head_dim)
        dropout = self.config.attention_dropout if self.training else 0.0
        if explicit:
            heads = heads.permute(2, 0, 3, 1, 4).contiguous()  # one copy, not three
            query, key, value = heads.unbind(0)  # (rows, heads, time, head_dim) each
            weights = attention_weights(query, key, self.scaling, bias, slopes, attention_mask)
            mixed = torch.matmul(F.dropout(weights, dropout, self.training), value).transpose(1, 2)
        else:
            query, key, value = (part.transpose(1, 2) for part in heads.unbind(2))  # whose gradient is one copy
            attend: Callable = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
            kwargs = {"dropout": dropout, "scaling": self.scaling, "position_bias": bias, "is_causal": False}
            mixed, weights = attend(self, query, key, value, attention_mask, **kwargs)
        return self.dropout(self.output(mixed.flatten(2))), weights


def attention_weights(
    query: Tensor,
    key: Tensor,
    scaling: float,
    distance: Tensor | None = None,
    slopes: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """softmax(scaling * query key^T - slopes * distance) over what the bool `mask` allows.

    Args:
        query, key: `(rows, heads, time, head_dim)`, contiguous.
        distance, slopes, mask: `(rows or 1, 1, time, time)`, `(heads,)` and `(rows or 1, 1, 1 or time, time)`.

    Returns:
        `(rows, heads, time, time)` of the queries' dtype.
    """
    if torch.is_grad_enabled() and query.requires_grad:
        return _AttentionWeights.apply(query, key, scaling, distance, slopes, mask)
    return _attention_weights(query, key, scaling, distance, slopes, mask)


def _attention_weights(
    query: Tensor, key: Tensor, scaling: float, distance: Tensor | None, slopes: Tensor | None, mask: Tensor | None
) -> Tensor:
    rows, heads = query.shape[:2]
    queries, keys = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    if distance is None or slopes is None:
        scores = torch.bmm(queries * scaling, keys)  # (rows * heads, time, time)
    else:
        bias = alibi_bias(distance, slopes).to(query.dtype).expand(rows, -1, -1, -1)
        scores = bias.reshape(rows * heads, *bias.shape[2:]).baddbmm_(queries, keys, alpha=scaling)
    scores = scores.unflatten(0, (rows, heads))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).to(query.dtype)


class _AttentionWeights(torch.autograd.Function):
    """[`attention_weights`] that keeps its result alone for the gradient: no scores, no bias, no copy in fp32.

    The gradient of a slope, a sum over all pairs of tokens, is a product of a matrix and a vector.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        scaling: float,
        distance: Tensor | None,
        slopes: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        weights = _attention_weights(query, key, scaling, distance, slopes, mask)
        ctx.scaling = scaling
        ctx.save_for_backward(query, key, distance, slopes, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, distance, slopes, weights = ctx.saved_tensors
        scores = torch._softmax_backward_data(gradient, weights, -1, weights.dtype)  # (rows, heads, time, time)
        queries = torch.matmul(scores, key) * ctx.scaling
        keys = torch.matmul(scores.transpose(2, 3), query) * ctx.scaling
        steeper = None
        if ctx.needs_input_grad[4]:
            pairs = distance.to(scores.dtype).flatten(1).unsqueeze(-1)  # (rows or 1, time * time, 1)
            steeper = -torch.matmul(scores.flatten(2), pairs).to(slopes.dtype).sum((0, 2))  # (heads,)
        return queries, keys, None, None, steeper, None
