"""The encoder of data2vec 2.0 and its blocks, the same in every modality (arXiv 2212.07525, section 4)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import Alibi, Data2Vec2Attention, alibi_bias, compute_dtype
from .initialization import SelfInitialized
from .recompute import recompute_activation
from .targets import BlockFeatures, TopKAverage
from .window import attention_mask_of, window_mask


class EncoderOutput(NamedTuple):
    """What went through the encoder; `time` counts the extra tokens in front."""

    last_hidden_state: Tensor  # (rows, time, dim)
    hidden_states: tuple[Tensor, ...] | None  # the input of the first block and the output of each
    attentions: tuple[Tensor, ...] | None  # (rows, heads, time, time) each


def draw_kept_layers(given: list[bool] | None, blocks: int, layerdrop: float) -> list[bool]:
    """Which blocks are run: as `given`, else each of them dropped with a probability of `layerdrop`.

    Raises:
        ValueError: `given` is not one a block.
    """
    if given is None:
        return (torch.rand(blocks) >= layerdrop).tolist() if layerdrop else [True] * blocks
    if len(given) != blocks:
        raise ValueError(f"kept_layers has {len(given)} entries: give one for each of the {blocks} blocks.")
    return given


class Data2Vec2Encoder(nn.Module):
    """Extra tokens, context norm, prenet and blocks; where blocks are pre-norm, a final norm and no context norm.

    Either norm is left out where the configuration's class says so.

    The prenet's blocks differ from the others in one thing: no target is taken there.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        extra, prenet, blocks = config.num_extra_tokens, config.num_prenet_layers, config.num_hidden_layers
        self.extra_tokens = nn.Parameter(torch.zeros(1, extra, config.hidden_size)) if extra else None
        self.alibi = Alibi(config.num_attention_heads) if config.use_alibi else None
        norms = config.use_context_norm and not config.layer_norm_first
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if norms else None
        self.dropout = nn.Dropout(config.hidden_dropout)
        rates = drop_path_rates(config.drop_path_rate, prenet + blocks)
        self.prenet = nn.ModuleList([Data2Vec2Block(config, rate) for rate in rates[:prenet]])
        self.layers = nn.ModuleList([Data2Vec2Block(config, rate) for rate in rates[prenet:]])
        self.final_norm = final_norm(config) if config.use_final_norm else None

    def forward(
        self,
        tokens: Tensor,
        real: Tensor | None = None,
        index: Tensor | None = None,
        kept_layers: list[bool] | None = None,
        targets: TopKAverage | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        window: int | None = None,
        positions: Tensor | None = None,
    ) -> EncoderOutput:
        """
        Args:
            tokens: `(rows, time, dim)`.
            real: bool `(rows, time)`, False = nobody attends to it; `None` where all is real.
            index: `(rows, time)` long, where a token is in the full sequence, which is its position for ALiBi; `None`
                where the sequence is full.
            kept_layers: one bool a block, the prenet's first, False = dropped (LayerDrop); drawn in training with
                `config.layerdrop` if `None`.
            targets: to which the blocks behind the prenet are added, up to the last one that counts.
            window: how far a token reads in every block of a full sequence, see [`window.window_mask`].
            positions: `(rows or 1, time, dim)`, what is added to the tokens, in front of the extra tokens and the norm
                or, with `config.add_positions_to_every_layer`, of every block.

        Raises:
            ValueError: `kept_layers` is not one a block.
        """
        blocks = [*self.prenet, *self.layers]
        kept_layers = draw_kept_layers(kept_layers, len(blocks), self.config.layerdrop if self.training else 0.0)
        every = self.config.add_positions_to_every_layer
        if positions is not None and not every:
            tokens, positions = tokens + positions, None
        hidden = self._enter(tokens)
        extra = hidden.shape[1] - tokens.shape[1]
        if positions is not None and extra:  # an extra token has none
            positions = F.pad(positions, (0, 0, extra, 0))
        explicit = output_attentions or self.computes_explicitly(hidden)
        bias, attention = attention_inputs(self.config, hidden, real, explicit, index, window, extra, self.alibi)
        states, weights = [hidden], []
        for number, (block, kept) in enumerate(zip(blocks, kept_layers, strict=True)):
            if kept:
                *outputs, attended = block(add_at(number, hidden, positions, every), *bias, **attention)
                features = BlockFeatures(*outputs)
                hidden = features.end_of_block
                if output_attentions:
                    weights.append(attended)
                if targets is not None and number >= len(self.prenet):
                    targets.add(features)
            if output_hidden_states:
                states.append(hidden)
            if targets is not None and targets.complete:
                break
        return EncoderOutput(
            hidden if self.final_norm is None else self.final_norm(hidden),
            tuple(states) if output_hidden_states else None,
            tuple(weights) if output_attentions else None,
        )

    def computes_explicitly(self, hidden: Tensor) -> bool:
        """See [`computes_explicitly`]."""
        return computes_explicitly(self.config, hidden, self.training, learned_bias=self.alibi is not None)

    def _enter(self, hidden: Tensor) -> Tensor:
        """The first block's input: extra tokens in front, norm, dropout."""
        if self.extra_tokens is not None:
            first = self.extra_tokens.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
            hidden = torch.cat((first, hidden), dim=1)  # (rows, extra + time, dim)
        if self.norm is not None:
            hidden = self.norm(hidden)
        return self.dropout(hidden)


def attention_inputs(
    config: PreTrainedConfig,
    hidden: Tensor,
    real: Tensor | None,
    explicit: bool,
    index: Tensor | None = None,
    window: int | None = None,
    extra: int = 0,
    alibi: Alibi | None = None,
) -> tuple[tuple[Tensor | None, Tensor | None], dict[str, Any]]:
    """What the attention of all blocks reads, see [`attention.Data2Vec2Attention`]: (bias, slopes), and the rest.

    Args:
        hidden: `(rows, extra + time, dim)`.
        real, index, window: as in [`Data2Vec2Encoder.forward`], of what is behind the `extra` tokens.
        explicit: whether attention matrices are computed, see [`computes_explicitly`].
    """
    time, distance, slopes = hidden.shape[1] - extra, None, None
    causal = bool(getattr(config, "is_causal", False))
    masked = window is not None or causal  # for each reader
    if real is not None:
        real = F.pad(real, (extra, 0), value=True)
    if alibi is not None:
        if index is None:
            index = torch.arange(time, device=hidden.device).unsqueeze(0)  # (1, time)
        distance, slopes = alibi(index, extra)
    if explicit:
        mask = None if real is None else real[:, None, None]  # (rows, 1, 1, extra + time)
        if masked:
            seen = None if real is None else real[:, extra:]
            mask = window_mask(time, window, extra, seen, hidden.device, causal)  # (rows or 1, 1, ...)
        return (distance, slopes), {"attention_mask": mask, "explicit": True}

    attention_mask: Any = None  # of a type that the attention implementation chooses
    if real is not None or masked:
        attention_mask = attention_mask_of(config, hidden, real, window, extra, causal)
    if distance is None or slopes is None:
        return (None, None), {"attention_mask": attention_mask, "explicit": False}
    bias = alibi_bias(distance, slopes).to(compute_dtype(hidden))  # (rows or 1, heads, extra + time, extra + time)
    if config._attn_implementation == "flex_attention":
        bias = bias.expand(hidden.shape[0], -1, -1, -1)
    elif attention_mask is not None:  # one additive mask for all blocks, so that none of them has to join the two
        bias, attention_mask = torch.where(attention_mask, bias, torch.finfo(bias.dtype).min), None
    return (bias, None), {"attention_mask": attention_mask, "explicit": False}


def computes_explicitly(config: PreTrainedConfig, hidden: Tensor, training: bool, learned_bias: bool = False) -> bool:
    """Whether attention matrices are computed: "eager", and in training on a CPU where "sdpa" is slower.

    That is with a learned bias, for which it has no kernel there, and in half precision (backward).
    """
    implementation = config._attn_implementation
    if implementation != "sdpa":
        return implementation == "eager"
    if hidden.device.type != "cpu" or not training or not torch.is_grad_enabled():
        return False
    short = hidden.shape[1] <= 512  # a longer sequence's attention matrices take more memory than they save time
    return learned_bias or (short and compute_dtype(hidden) != torch.float32)


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """The share of rows whose residual branch is dropped, for each block: it grows linearly with depth."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def final_norm(
    config: PreTrainedConfig, dim: int | None = None, layer_norm_eps: float | None = None
) -> nn.LayerNorm | None:
    """The norm behind pre-norm blocks; post-norm blocks end in one of their own."""
    eps = config.layer_norm_eps if layer_norm_eps is None else layer_norm_eps
    return nn.LayerNorm(dim or config.hidden_size, eps=eps) if config.layer_norm_first else None


def add_at(number: int, hidden: Tensor, positions: Tensor | None, every: bool) -> Tensor:
    """What block `number` reads: positions are added in front of the first, or of every one."""
    return hidden if positions is None or (number and not every) else hidden + positions


class LayerScale(SelfInitialized):
    """A factor per channel of a residual branch, small at the start (arXiv 2103.17239)."""

    def __init__(self, dim: int, value: float):
        super().__init__()
        self.value = value
        self.weight = nn.Parameter(torch.full((dim,), float(value)))

    def initialize(self) -> None:
        init.constant_(self.weight, float(self.value))


def scaled(branch: Tensor, scale: LayerScale | None) -> Tensor:
    return branch if scale is None else branch * scale.weight.to(branch.dtype)


class Data2Vec2Block(GradientCheckpointingLayer):
    """Attention, add, norm, feed-forward, add, norm; with `config.layer_norm_first` each norm is in front instead.

    Parameters are the original's except for names: one matrix makes queries, keys and values.

    Args:
        num_heads, intermediate_size, hidden_size, layer_norm_eps, layer_scale_init_value: where they are not the
            configuration's.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        drop_path_rate: float,
        num_heads: int | None = None,
        intermediate_size: int | None = None,
        hidden_size: int | None = None,
        layer_norm_eps: float | None = None,
        layer_scale_init_value: float | None = None,
    ):
        super().__init__()
        dim, inside = hidden_size or config.hidden_size, intermediate_size or config.intermediate_size
        eps = config.layer_norm_eps if layer_norm_eps is None else layer_norm_eps
        scale = config.layer_scale_init_value if layer_scale_init_value is None else layer_scale_init_value
        self.layer_norm_first = config.layer_norm_first
        self.attention = Data2Vec2Attention(config, num_heads, dim)
        self.attention_scale, self.output_scale = (LayerScale(dim, scale) if scale else None for _ in range(2))
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.intermediate = nn.Linear(dim, inside)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.output = nn.Linear(inside, dim)
        self.output_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.drop_path_rate = drop_path_rate

    def forward(
        self,
        hidden: Tensor,
        bias: Tensor | None = None,
        slopes: Tensor | None = None,
        attention_mask: Any = None,
        explicit: bool = True,
    ) -> tuple[Tensor | None, ...]:
        """`(rows, time, dim)` -> the four [`targets.BlockFeatures`] and, explicit, the attention.

        The other arguments are those of [`attention.Data2Vec2Attention`]. Arguments and the tuple are flat:
        checkpointing of the reentrant kind loses the gradient of anything nested.
        """
        first = self.layer_norm_first
        read = self.attention_norm(hidden) if first else hidden
        attended, weights = self.attention(read, bias, slopes, attention_mask, explicit)
        hidden = hidden + self._drop_path(scaled(attended, self.attention_scale))
        hidden = hidden if first else self.attention_norm(hidden)
        read = self.output_norm(hidden) if first else hidden
        recompute = not self.gradient_checkpointing and self.activation_dropout.p == 0
        with recompute_activation(F.gelu, self.intermediate(read), enabled=recompute) as activated:
            ffn = self.output(self.activation_dropout(activated))
        ffn = self.activation_dropout(ffn)
        residual = hidden + self._drop_path(scaled(self.dropout(ffn), self.output_scale))
        return *BlockFeatures(attended, ffn, residual, residual if first else self.output_norm(residual)), weights

    def _drop_path(self, branch: Tensor) -> Tensor:
        """Stochastic depth: in training, zero for a share of the rows and larger for the others."""
        if not self.training or self.drop_path_rate == 0:
            return branch
        keep = 1 - self.drop_path_rate
        return branch * (branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep)
