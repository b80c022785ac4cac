"""The decoder of data2vec 2.0: convolutions fill in what the student did not see (arXiv 2212.07525, section 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from .conv import TokenConv
from .ranges import require


@strict
@dataclass(kw_only=True)
class DecoderConfig:
    """The numbers of a decoder, `objective.decoder` in a file.

    Args:
        dim: width of the convolutions; where it is not the encoder's, the first layer has no residual.
        layers, kernel, groups: of the convolutions.
        residual: add a layer's input to its output.
        input_dropout: dropout on what the student hands over.

    Raises:
        ValueError: a value outside its range; the message names the field.
    """

    dim: int
    layers: int
    kernel: int
    groups: int = 16
    residual: bool = True
    input_dropout: float | int = 0.0

    def __post_init__(self) -> None:
        divides = self.groups >= 1 and self.dim % self.groups == 0
        checks = {
            "groups": (self.groups >= 1, "1 or more"),
            "dim": (self.dim >= 1 and divides, f"a multiple of groups = {self.groups}"),
            "layers": (self.layers >= 1, "1 or more"),
            "kernel": (self.kernel >= 1, "1 or more"),
            "input_dropout": (0 <= self.input_dropout < 1, "at least 0 and below 1"),
        }
        require("objective.decoder.", self, checks)


def decoder_from_dict(numbers: Mapping[str, Any]) -> DecoderConfig:
    """{"dim": 384, ...} -> `DecoderConfig`; `ValueError` on an unknown field, a wrong type or value."""
    if not isinstance(numbers, Mapping):
        raise ValueError(f"objective.decoder = {numbers!r} must be {{dim: ..., layers: ..., kernel: ...}}")
    try:
        return DecoderConfig(**numbers)
    except (TypeError, StrictDataclassError) as error:  # an unknown or missing field; a value of a wrong type
        known = ", ".join(field.name for field in fields(DecoderConfig))
        raise ValueError(
            f"objective.decoder cannot be built from {dict(numbers)}: {error}. Its fields: {known}"
        ) from error


def regression_head(
    dim: int, num_layers: int, out_dim: int | None = None, linear: type[nn.Linear] = nn.Linear
) -> nn.Sequential:
    """The head that predicts: `num_layers` linear layers with GELU in between, 2 * dim wide inside.

    With 0 layers the state itself is the prediction. Speech and vision use 1, text 2 (arXiv 2202.03555, sections
    4.1-4.3). `out_dim` is `dim` if not given; `linear` is the class of the layers.
    """
    widths = [dim] + [2 * dim] * (num_layers - 1) + [dim if out_dim is None else out_dim]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers += [linear(widths[i], widths[i + 1]), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Data2Vec2Decoder(nn.Module):
    """Convolutions over the whole grid, then the head that predicts (`projection`).

    Args:
        dim: the encoder's width.
        axes: 1 for sequences, 2 for images.
        num_projections, linear: number and class of the head's layers, see [`regression_head`].
    """

    def __init__(
        self,
        config: DecoderConfig,
        dim: int,
        axes: int,
        num_projections: int,
        linear: type[nn.Linear] = nn.Linear,
    ):
        super().__init__()
        widths = [dim] + [config.dim] * config.layers
        self.layers = nn.ModuleList(
            [
                TokenConv(inside, outside, config.kernel, config.groups, axes)
                for inside, outside in zip(widths[:-1], widths[1:], strict=True)
            ]
        )
        self.projection = regression_head(config.dim, num_projections, dim, linear)
        self.residual = config.residual

    def forward(self, tokens: Tensor, grid: tuple[int, ...], real: Tensor | None = None) -> Tensor:
        """
        Args:
            tokens: `(rows, time, dim)`, the student's states with noise where it saw nothing.
            grid: (time,) or (height, width).
            real: bool `(rows, time)`; what is not real is zero in front of every layer, so that padding changes
                nothing. `None` takes every step as it is.

        Returns:
            `(rows, time, decoder dim)`, for `projection`, which only hidden positions need.
        """
        for layer in self.layers:
            if real is not None:
                tokens = tokens.masked_fill(~real.unsqueeze(-1), 0)
            filled = layer(tokens, grid)
            tokens = filled + tokens if self.residual and filled.shape == tokens.shape else filled
        return tokens
