"""The numbers of a decoder, `objective.decoder` in a file: one class per kind of decoder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .ranges import require


class DecoderConfig:
    """What every kind of decoder offers."""

    method: ClassVar[str]
    drops_hidden: ClassVar[bool] = True  # False: the student reads all positions, hidden ones replaced

    def check_encoder(self, config: PreTrainedConfig) -> None:
        """Raise a ValueError that names the field where such a decoder cannot follow an encoder of `config`."""

    def to_dict(self) -> dict[str, Any]:
        """What `decoder_from_dict` reads back, as plain JSON types."""
        return {"method": self.method, **asdict(self)}  # type: ignore[call-overload]


@strict
@dataclass(kw_only=True)
class ConvDecoderConfig(DecoderConfig):
    """Convolutions over the token grid: data2vec 2.0 (arXiv 2212.07525, section 3.2), EAT, emotion2vec.

    Args:
        dim: width of the convolutions; where it is not the encoder's, the first layer has no residual.
        layers, kernel, groups: of the convolutions.
        residual: add a layer's input to its output.
        input_dropout: dropout on what the student hands over.

    Raises:
        ValueError: a value outside its range; the message names the field.
    """

    method: ClassVar[str] = "conv"
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

    def check_encoder(self, config: PreTrainedConfig) -> None:
        if config.hidden_size % self.groups:
            raise ValueError(
                f"objective.decoder.groups = {self.groups}: must be a divisor of hidden_size = {config.hidden_size}."
            )


@strict
@dataclass(kw_only=True)
class TransformerDecoderConfig(DecoderConfig):
    """Blocks like the encoder's over the student's states and a learned mask token (Point2Vec; MAE).

    Args:
        dim: width of the blocks; the encoder's if `None`. Another one needs `input_projection`, and positions of its
            own.
        layers, num_attention_heads, intermediate_size: of the blocks; the encoder's heads and size if `None`.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
        add_positions_to_every_layer: positions are added in front of every block, not of the first alone.
        input_dropout: dropout on what the student hands over.
        input_projection: a linear layer on what the student hands over.
        learned_positions: positions of its own, learned, as many as the encoder's `max_position_embeddings`; off: the
            student's.
        extra_tokens: the student's extra tokens are read too, in front.
        layer_norm_eps: of its norms; the encoder's if `None`.

    Raises:
        ValueError: a value outside its range; the message names the field.
    """

    method: ClassVar[str] = "transformer"
    layers: int
    dim: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    drop_path_rate: float | int = 0.0
    add_positions_to_every_layer: bool = False
    input_dropout: float | int = 0.0
    input_projection: bool = False
    learned_positions: bool = False
    extra_tokens: bool = False
    layer_norm_eps: float | None = None

    def __post_init__(self) -> None:
        heads, inside = self.num_attention_heads, self.intermediate_size
        checks = {
            "layers": (self.layers >= 1, "1 or more"),
            "dim": (
                self.dim is None or (self.dim >= 1 and self.input_projection and self.learned_positions),
                "null for the encoder's width, or 1 or more with input_projection and learned_positions",
            ),
            "layer_norm_eps": (self.layer_norm_eps is None or self.layer_norm_eps > 0, "a positive number or null"),
            "num_attention_heads": (heads is None or heads >= 1, "1 or more, or null for the encoder's"),
            "intermediate_size": (inside is None or inside >= 1, "1 or more, or null for the encoder's"),
            "drop_path_rate": (0 <= self.drop_path_rate < 1, "at least 0 and below 1"),
            "input_dropout": (0 <= self.input_dropout < 1, "at least 0 and below 1"),
        }
        require("objective.decoder.", self, checks)

    def check_encoder(self, config: PreTrainedConfig) -> None:
        heads = self.num_attention_heads or config.num_attention_heads
        if (self.dim or config.hidden_size) % heads:
            width = (
                f"hidden_size = {config.hidden_size}" if self.dim is None else f"objective.decoder.dim = {self.dim}"
            )
            raise ValueError(
                f"objective.decoder.num_attention_heads = {self.num_attention_heads}: must be a divisor of {width}."
            )
        if self.learned_positions and not hasattr(config, "max_position_embeddings"):
            raise ValueError(
                f"objective.decoder.learned_positions = true: must be false with model type {config.model_type!r}, "
                "which has no max_position_embeddings."
            )


@strict
@dataclass(kw_only=True)
class TokenDecoderConfig(DecoderConfig):
    """Scores of a vocabulary from each state of the student, which reads mask tokens in place (BERT)."""

    method: ClassVar[str] = "token"
    drops_hidden: ClassVar[bool] = False


DECODER_CONFIGS: dict[str, type[DecoderConfig]] = {
    found.method: found for found in (ConvDecoderConfig, TransformerDecoderConfig, TokenDecoderConfig)
}


def decoder_from_dict(numbers: Mapping[str, Any]) -> DecoderConfig:
    """{"method": "conv", "dim": 384, ...} -> configuration; without `method` it is "conv".

    Raises:
        ValueError: an unknown method or field, a wrong type or value.
    """
    if not isinstance(numbers, Mapping):
        raise ValueError(f"objective.decoder = {numbers!r} must be {{method: ..., layers: ...}} or null")
    given = dict(numbers)
    method = given.pop("method", ConvDecoderConfig.method)
    if not isinstance(method, str) or method not in DECODER_CONFIGS:
        raise ValueError(f"objective.decoder.method = {method!r} must be one of {', '.join(DECODER_CONFIGS)}")
    kind: Any = DECODER_CONFIGS[method]
    try:
        return kind(**given)
    except (TypeError, StrictDataclassError) as error:  # an unknown or missing field; a value of a wrong type
        known = ", ".join(field.name for field in fields(kind))
        raise ValueError(
            f"objective.decoder cannot be built from {dict(numbers)}: {error}. Its fields: {known}"
        ) from error
