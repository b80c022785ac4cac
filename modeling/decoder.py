"""What fills in what the student did not see, and the head that predicts (arXiv 2212.07525, section 3.2)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .configuration_decoder import ConvDecoderConfig, DecoderConfig, TokenDecoderConfig, TransformerDecoderConfig
from .conv import TokenConv
from .encoder import Data2Vec2Block, add_at, attention_inputs, computes_explicitly, drop_path_rates, final_norm
from .gather import per_view
from .initialization import MaskToken, SelfInitialized
from .positions import LearnedPositions
from .tokens import Tokens


def regression_head(
    dim: int, num_layers: int, out_dim: int | None = None, linear: type[nn.Linear] = nn.Linear, ratio: int = 2
) -> nn.Sequential:
    """The head that predicts: `num_layers` linear layers with GELU in between, `ratio` * dim wide inside.

    With 0 layers the state itself is the prediction. Speech and vision use 1, text 2 (arXiv 2202.03555, sections
    4.1-4.3). `out_dim` is `dim` if not given; `linear` is the class of the layers.
    """
    widths = [dim] + [ratio * dim] * (num_layers - 1) + [dim if out_dim is None else out_dim]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers += [linear(widths[i], widths[i + 1]), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Decoder(nn.Module):
    """What every decoder has: the value of hidden positions in front of it, and the head behind it (`projection`).

    Attributes:
        width: of its output, which `projection` reads.
        input_dropout: on what the student hands over.
    """

    width: int
    input_dropout: float
    projection: nn.Sequential

    def enter(self, states: Tensor) -> Tensor:
        """What is read of the student's states, `(rows, kept, dim)`."""
        return F.dropout(states, self.input_dropout, self.training)

    def hidden_values(self, states: Tensor, shape: tuple[int, ...], noise: Tensor | None, std: float) -> Tensor:
        """What is read at positions that the student did not see: `shape`, `(rows, time, dim)`, or one to expand.

        Args:
            states: the student's, for dtype and device.
            noise: given in place of a random value, where the decoder reads one.
            std: standard deviation of a random value.
        """
        raise NotImplementedError

    def forward(self, tokens: Tokens, positions: Tensor | None = None, in_front: Tensor | None = None) -> Tensor:
        """
        Args:
            tokens: `values` `(rows, time, dim)`, the student's states in their places, [`hidden_values`] elsewhere;
                `real` `(rows, time)`, so that padding changes nothing; `None` takes every step as it is.
            positions: the student's, `(rows, time, dim)`, or fewer rows, each of which serves as many in a row.
            in_front: the student's extra tokens, `(rows, extra, dim)`, which most decoders do not read.

        Returns:
            `(rows, time, width)`, for `projection`, which only scored positions need.
        """
        raise NotImplementedError

    def head(self, layers: int, out_dim: int, linear: type[nn.Linear], ratio: int) -> nn.Sequential:
        """What becomes `projection`, see [`regression_head`]."""
        return regression_head(self.width, layers, out_dim, linear, ratio)


class NoDecoder(Decoder):
    """The student itself sees hidden positions, as a mask token, and its output is what `projection` reads."""

    input_dropout = 0.0

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.width = config.hidden_size
        self.mask_token = MaskToken(config.hidden_size)

    def hidden_values(self, states: Tensor, shape: tuple[int, ...], noise: Tensor | None, std: float) -> Tensor:
        return self.mask_token(states.dtype)

    def forward(self, tokens: Tokens, positions: Tensor | None = None, in_front: Tensor | None = None) -> Tensor:
        return tokens.values


class SeenStates(Decoder):
    """Nothing is filled in: what the student made of its tokens is compared as it is."""

    input_dropout = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Sequential()

    def hidden_values(self, states: Tensor, shape: tuple[int, ...], noise: Tensor | None, std: float) -> Tensor:
        return states.new_zeros(1)

    def forward(self, tokens: Tokens, positions: Tensor | None = None, in_front: Tensor | None = None) -> Tensor:
        return tokens.values


class TokenDecoder(Decoder, SelfInitialized):
    """BERT's head: the student read the mask token's own embedding, and each state becomes scores of a vocabulary."""

    input_dropout = 0.0

    def __init__(self, numbers: TokenDecoderConfig, config: PreTrainedConfig):
        super().__init__()
        self.width = config.hidden_size
        self.task_embedding = nn.Parameter(torch.zeros(self.width))  # added to every state, as MedCoSS does

    def initialize(self) -> None:
        init.zeros_(self.task_embedding)

    def hidden_values(self, states: Tensor, shape: tuple[int, ...], noise: Tensor | None, std: float) -> Tensor:
        return states  # ids were replaced before they were embedded

    def forward(self, tokens: Tokens, positions: Tensor | None = None, in_front: Tensor | None = None) -> Tensor:
        return tokens.values + self.task_embedding.to(tokens.values.dtype)

    def head(self, layers: int, out_dim: int, linear: type[nn.Linear], ratio: int) -> nn.Sequential:
        norm = nn.LayerNorm(self.width, eps=1e-12)
        return nn.Sequential(linear(self.width, self.width), nn.GELU(), norm, linear(self.width, out_dim))


class ConvDecoder(Decoder):
    """Convolutions over the whole grid; hidden positions start as noise."""

    def __init__(self, numbers: ConvDecoderConfig, config: PreTrainedConfig):
        super().__init__()
        widths = [config.hidden_size] + [numbers.dim] * numbers.layers
        self.layers = nn.ModuleList(
            [
                TokenConv(inside, outside, numbers.kernel, numbers.groups, config.axes)
                for inside, outside in zip(widths[:-1], widths[1:], strict=True)
            ]
        )
        self.width, self.input_dropout, self.residual = numbers.dim, float(numbers.input_dropout), numbers.residual

    def hidden_values(self, states: Tensor, shape: tuple[int, ...], noise: Tensor | None, std: float) -> Tensor:
        return states.new_empty(shape).normal_(0.0, std) if noise is None else noise.reshape(shape).to(states.dtype)

    def forward(self, tokens: Tokens, positions: Tensor | None = None, in_front: Tensor | None = None) -> Tensor:
        values = tokens.values
        for layer in self.layers:
            if tokens.real is not None:
                values = values.masked_fill(~tokens.real.unsqueeze(-1), 0)
            filled = layer(values, tokens.grid)
            values = filled + values if self.residual and filled.shape == values.shape else filled
        return values


class TransformerDecoder(Decoder):
    """Blocks like the encoder's; hidden positions start as a mask token, and are told apart by positions."""

    def __init__(self, numbers: TransformerDecoderConfig, config: PreTrainedConfig):
        super().__init__()
        self.config, self.add_to_every = config, numbers.add_positions_to_every_layer
        self.width, self.input_dropout = numbers.dim or config.hidden_size, float(numbers.input_dropout)
        self.mask_token = MaskToken(self.width)
        self.input_projection = nn.Linear(config.hidden_size, self.width) if numbers.input_projection else None
        self.reads_extra_tokens = numbers.extra_tokens
        extra = config.num_extra_tokens if numbers.extra_tokens else 0
        self.positions = LearnedPositions(config, extra, self.width) if numbers.learned_positions else None
        size = {"num_heads": numbers.num_attention_heads, "intermediate_size": numbers.intermediate_size}
        eps = numbers.layer_norm_eps
        how: dict[str, Any] = {"hidden_size": self.width, "layer_norm_eps": eps, "layer_scale_init_value": 0.0}
        rates = drop_path_rates(numbers.drop_path_rate, numbers.layers)
        self.layers = nn.ModuleList([Data2Vec2Block(config, rate, **size, **how) for rate in rates])
        self.final_norm = final_norm(config, self.width, eps)

    def enter(self, states: Tensor) -> Tensor:
        states = super().enter(states)
        return states if self.input_projection is None else self.input_projection(states)

    def hidden_values(self, states: Tensor, shape: tuple[int, ...], noise: Tensor | None, std: float) -> Tensor:
        return self.mask_token(states.dtype)

    def forward(self, tokens: Tokens, positions: Tensor | None = None, in_front: Tensor | None = None) -> Tensor:
        values, extra = tokens.values, 0
        if self.reads_extra_tokens and in_front is not None:
            values, extra = torch.cat((self.enter(in_front), values), dim=1), in_front.shape[1]
        if self.positions is not None:
            positions = self.positions(tokens._replace(values=values))
        elif positions is not None and extra:  # an extra token has none
            positions = F.pad(positions, (0, 0, extra, 0))
        if positions is not None:
            positions = per_view(positions, len(values))
        explicit = computes_explicitly(self.config, values, self.training)
        bias, attention = attention_inputs(self.config, values, tokens.real, explicit, extra=extra)
        for number, layer in enumerate(self.layers):
            values = layer(add_at(number, values, positions, self.add_to_every), *bias, **attention)[3]
        return (values if self.final_norm is None else self.final_norm(values))[:, extra:]


# by name, not by class: code from the Hub may be imported twice, and its classes are then others
DECODERS: dict[str, Callable[..., Decoder]] = {
    ConvDecoderConfig.method: ConvDecoder,
    TokenDecoderConfig.method: TokenDecoder,
    TransformerDecoderConfig.method: TransformerDecoder,
}


def build_decoder(
    numbers: DecoderConfig | None,
    config: PreTrainedConfig,
    head_layers: int,
    linear: type[nn.Linear] = nn.Linear,
    ratio: int = 2,
    out_dim: int | None = None,
) -> Decoder:
    """The decoder that an objective names, behind an encoder of `config`, with its head.

    Args:
        numbers: `None` is [`NoDecoder`].
        head_layers, linear, ratio, out_dim: of the head, see [`regression_head`]; it predicts as many numbers as the
            encoder is wide, if not given.
    """
    decoder = NoDecoder(config) if numbers is None else DECODERS[numbers.method](numbers, config)
    decoder.projection = decoder.head(head_layers, out_dim or config.hidden_size, linear, ratio)
    return decoder
