"""The encoder of data2vec 2.0: post-norm blocks, the same in every modality (arXiv 2212.07525, section 4)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .targets import BlockFeatures


class EncoderOutput(NamedTuple):
    """What went through the encoder; `time` counts the extra tokens in front, except in `taps`."""

    last_hidden_state: Tensor  # (rows, time, dim)
    hidden_states: tuple[Tensor, ...] | None  # the input of the first block and the output of each
    attentions: tuple[Tensor, ...] | None  # (rows, heads, time, time) each
    taps: tuple[Tensor, ...] | None  # one feature of each block behind the prenet, (rows, time, dim) each


class Data2Vec2Encoder(nn.Module):
    """Extra tokens, context norm, prenet and blocks.

    The prenet's blocks differ from the others in one thing: no target is taken there. There is no final norm.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        extra, prenet, blocks = config.num_extra_tokens, config.num_prenet_layers, config.num_hidden_layers
        self.extra_tokens = nn.Parameter(torch.zeros(1, extra, config.hidden_size)) if extra else None
        self.alibi = Alibi(config.num_attention_heads) if config.use_alibi else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_context_norm else None
        self.dropout = nn.Dropout(config.hidden_dropout)
        # the share of rows whose residual branch is dropped grows linearly with depth
        rates = [config.drop_path_rate * i / max(prenet + blocks - 1, 1) for i in range(prenet + blocks)]
        self.prenet = nn.ModuleList([Data2Vec2Block(config, rate) for rate in rates[:prenet]])
        self.layers = nn.ModuleList([Data2Vec2Block(config, rate) for rate in rates[prenet:]])

    def forward(
        self,
        tokens: Tensor,
        real: Tensor | None = None,
        index: Tensor | None = None,
        kept_layers: list[bool] | None = None,
        tap: str | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """
        Args:
            tokens: `(rows, time, dim)`, with positions where they are added.
            real: bool `(rows, time)`, False = nobody attends to it; `None` where all is real.
            index: `(rows, time)` long, where a token is in the full sequence, which is its position for ALiBi; `None`
                where the sequence is full.
            kept_layers: one bool a block, the prenet's first, False = dropped (LayerDrop); drawn in training with
                `config.layerdrop` if `None`.
            tap: the field of [`targets.BlockFeatures`] to return as `taps`.

        Raises:
            ValueError: `kept_layers` is not one a block; `output_attentions` without the eager attention.
        """
        blocks = [*self.prenet, *self.layers]
        kept_layers = self._kept_layers(kept_layers, len(blocks))
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"output_attentions = True is not possible with attn_implementation = "
                f"{self.config._attn_implementation!r}, which makes no attention matrix: load with 'eager'."
            )
        hidden, attention_mask, bias = self._enter(tokens, real, index)
        extra = hidden.shape[1] - tokens.shape[1]
        states, weights, taps = [hidden], [], []
        for number, (block, kept) in enumerate(zip(blocks, kept_layers, strict=True)):
            if kept:
                *outputs, attention = block(hidden, bias, attention_mask=attention_mask)
                features = BlockFeatures(*outputs)
                hidden = features.end_of_block
                weights.append(attention)
                if tap is not None and number >= len(self.prenet):
                    taps.append(getattr(features, tap)[:, extra:])
            states.append(hidden)
        return EncoderOutput(
            hidden,
            tuple(states) if output_hidden_states else None,
            tuple(weights) if output_attentions else None,
            tuple(taps) if tap is not None else None,
        )

    def _kept_layers(self, kept_layers: list[bool] | None, blocks: int) -> list[bool]:
        if kept_layers is None:
            if not self.training or self.config.layerdrop == 0:
                return [True] * blocks
            kept_layers = (torch.rand(blocks) >= self.config.layerdrop).tolist()
        if len(kept_layers) != blocks:
            raise ValueError(f"kept_layers has {len(kept_layers)} entries: give one for each of the {blocks} blocks.")
        return kept_layers

    def _enter(self, hidden: Tensor, real: Tensor | None, index: Tensor | None) -> tuple[Tensor, Any, Tensor | None]:
        """The first block's input, extra tokens in front; the attention mask and the position bias of all blocks."""
        extra = 0 if self.extra_tokens is None else self.extra_tokens.shape[1]
        if index is None:
            index = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)  # (1, time)
        if self.extra_tokens is not None:
            first = self.extra_tokens.to(hidden.dtype).expand(len(hidden), -1, -1)
            hidden = torch.cat((first, hidden), dim=1)  # (rows, extra + time, dim)
            real = None if real is None else F.pad(real, (extra, 0), value=True)
        if self.norm is not None:
            hidden = self.norm(hidden)
        hidden = self.dropout(hidden)
        attention_mask: Any = None  # of a type that the attention implementation chooses
        if real is not None:
            attention_mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=real)
        if self.alibi is None:
            return hidden, attention_mask, None
        bias = self.alibi(index, extra).to(_compute_dtype(hidden))  # (rows or 1, heads, time, time)
        if self.config._attn_implementation == "flex_attention":
            return hidden, attention_mask, bias.expand(len(hidden), -1, -1, -1)
        # one additive mask for all blocks, so that none of them has to join the two again
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            bias = torch.where(attention_mask, bias, torch.finfo(bias.dtype).min)
        elif attention_mask is not None:
            bias = bias + attention_mask
        return hidden, None, bias


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """What queries and keys will be, under autocast too: the attention wants its bias in it."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class Alibi(nn.Module):
    """Linear bias of the attention against distance, with a learned scale a head (arXiv 2108.12409; 2212.07525).

    bias = -slope * max(scale, 0) * |i - j|; an extra token is at no distance from anything. Distances between the
    tokens that are there are all that is built: `(rows, 1, time, time)` and one number a head.
    """

    slopes: Tensor

    def __init__(self, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.scale = nn.Parameter(torch.ones(num_heads))
        self.register_buffer("slopes", alibi_slopes(num_heads), persistent=False)  # (heads,)

    def forward(self, index: Tensor, extra: int) -> Tensor:
        """Positions `(rows, time)` long, behind `extra` tokens -> `(rows, heads, extra + time, extra + time)` fp32."""
        distance = (index.unsqueeze(2) - index.unsqueeze(1)).abs().to(torch.float32)  # (rows, time, time)
        distance = F.pad(distance, (extra, 0, extra, 0)).unsqueeze(1)  # (rows, 1, extra + time, extra + time)
        return distance * (-self.slopes.float() * self.scale.float().clamp(min=0)).view(1, -1, 1, 1)


def alibi_slopes(num_heads: int) -> Tensor:
    """Slopes `(heads,)` fp32: 2^(-8/n), 2^(-16/n), ...; from the two nearest powers of two where n is none."""

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    below = 2 ** int(math.log2(num_heads))
    between = geometric(2 * below)[0::2][: num_heads - below]
    return torch.tensor(geometric(below) + between, dtype=torch.float32)


class Data2Vec2Block(GradientCheckpointingLayer):
    """Attention, add, norm, feed-forward, add, norm: post-norm in every modality.

    Parameters are the original's except for names: one matrix makes queries, keys and values.
    """

    def __init__(self, config: PreTrainedConfig, drop_path_rate: float):
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.attention = Data2Vec2Attention(config)
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.intermediate = nn.Linear(dim, config.intermediate_size)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.output = nn.Linear(config.intermediate_size, dim)
        self.output_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.drop_path_rate = drop_path_rate

    def forward(
        self, hidden: Tensor, bias: Tensor | None = None, attention_mask: Any = None
    ) -> tuple[Tensor | None, ...]:
        """`(rows, time, dim)` -> the four [`targets.BlockFeatures`] and, eager only, the attention.

        The attention is `(rows, heads, time, time)`. A flat tuple: checkpointing of the reentrant kind loses the
        gradient of anything nested.
        """
        attended, weights = self.attention(hidden, bias, attention_mask)
        hidden = self.attention_norm(hidden + self._drop_path(attended))
        ffn = self.activation_dropout(F.gelu(self.intermediate(hidden)))
        ffn = self.activation_dropout(self.output(ffn))
        residual = hidden + self._drop_path(self.dropout(ffn))
        return *BlockFeatures(attended, ffn, residual, self.output_norm(residual)), weights

    def _drop_path(self, branch: Tensor) -> Tensor:
        """Stochastic depth: in training, zero for a share of the rows and larger for the others."""
        if not self.training or self.drop_path_rate == 0:
            return branch
        keep = 1 - self.drop_path_rate
        return branch * (branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep)


class Data2Vec2Attention(nn.Module):
    """Multi-head self-attention through `transformers`' attention interface."""

    is_causal = False

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor, bias: Tensor | None, attention_mask: Any) -> tuple[Tensor, Tensor | None]:
        heads = self.qkv(hidden).unflatten(-1, (3, -1, self.head_dim))  # (rows, time, 3, heads, head_dim)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # (rows, heads, time, head_dim) each
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            position_bias=bias,
            is_causal=False,
        )
        return self.dropout(self.output(mixed.flatten(2))), weights


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """The attention spelt out, softmax in fp32. Returns `(rows, time, heads, head_dim)` and the weights."""
    scores = torch.matmul(query * scaling, key.transpose(2, 3))  # (rows, heads, time, time)
    for added in (position_bias, attention_mask):
        scores = scores if added is None else scores + added
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    mixed = torch.matmul(F.dropout(weights, dropout, training=module.training), value)
    return mixed.transpose(1, 2).contiguous(), weights
