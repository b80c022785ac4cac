"""Configurations of encoders without front ends of their own: an input is rows of a value and a position."""

from math import prod
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_data2vec2 import (
    Data2Vec2AudioConfig,
    Data2Vec2Config,
    Data2Vec2TextConfig,
    Data2Vec2VisionConfig,
    Sizes,
)
from .configuration_point2vec import Point2VecConfig
from .embed_image import as_pair
from .ranges import require


def _remote(name: str) -> dict[str, str]:
    """Auto class -> file.Class of a modality."""
    return {
        "AutoConfig": f"configuration_universal.{name}Config",
        "AutoModel": f"modeling_universal.{name}Model",
        "AutoModelForPreTraining": f"modeling_universal.{name}ForPreTraining",
    }


@strict
class UniversalConfig(Data2Vec2Config):
    """What the modalities share. Rows and Fourier positions are Perceiver's (arXiv 2103.03206), read as tokens.

    Args:
        row_size (`int`): numbers that a row of any modality has, zeros behind those that it needs.
        num_frequencies (`int`): of the sines and cosines of a position, on each of three axes.
        max_positions (`int`): places on an axis of a grid; the highest frequency tells neighbours apart.
    """

    row_size: int = 784
    num_frequencies: int = 32
    max_positions: int = 1024

    @property
    def row_values(self) -> int:
        """Numbers of a row that this modality needs."""
        raise NotImplementedError

    def validate_rows(self) -> None:
        enough = type(self) is UniversalConfig or self.row_size >= self.row_values
        checks = {
            "row_size": (enough, "as large as what a row of this modality holds"),
            "num_frequencies": (self.num_frequencies >= 1, "1 or more"),
            "max_positions": (self.max_positions >= 2, "2 or more"),
        }
        require("", self, checks)


@strict
class UniversalAudioConfig(Data2Vec2AudioConfig, UniversalConfig):
    """A row is `conv_kernel` samples, without a convolution."""

    model_type = "universal-audio"
    layerdrop: float | int = 0.0
    conv_dim: list[int] | tuple[int, ...] = (1,)
    conv_kernel: list[int] | tuple[int, ...] = (320,)
    conv_stride: list[int] | tuple[int, ...] = (320,)
    num_conv_pos_embeddings: int = 0
    num_conv_pos_embedding_groups: int = 1

    use_alibi: ClassVar[bool] = False
    remote_classes: ClassVar[dict[str, str]] = _remote("UniversalAudio")

    @property
    def row_values(self) -> int:
        return prod(self.conv_kernel)

    def validate_chunks(self) -> None:
        one = len(self.conv_kernel) == 1 and tuple(self.conv_kernel) == tuple(self.conv_stride)
        require("", self, {"conv_kernel": (one, "one number, that of conv_stride: the samples of a row")})


@strict
class UniversalVisionConfig(Data2Vec2VisionConfig, UniversalConfig):
    """A row is the pixels of a patch."""

    model_type = "universal-vision"
    num_hidden_layers: int = 12
    num_prenet_layers: int = 0
    patch_size: Sizes = 14
    image_size: Sizes = 224

    remote_classes: ClassVar[dict[str, str]] = _remote("UniversalVision")

    @property
    def row_values(self) -> int:
        return self.num_channels * prod(as_pair(self.patch_size))


@strict
class UniversalTextConfig(Data2Vec2TextConfig, UniversalConfig):
    """A row is one of the tokenizer's ids, by default a byte, as a one-hot vector."""

    model_type = "universal-text"
    vocab_size: int = 261

    use_context_norm: ClassVar[bool] = True  # there is none in front of it
    remote_classes: ClassVar[dict[str, str]] = _remote("UniversalText")

    @property
    def row_values(self) -> int:
        return self.vocab_size


@strict
class UniversalPointsConfig(Point2VecConfig, UniversalConfig):
    """A row is the offsets of a group's points from its centre, which is its position."""

    model_type = "universal-points"

    remote_classes: ClassVar[dict[str, str]] = _remote("UniversalPoints")

    @property
    def row_values(self) -> int:
        return 3 * self.group_size


def _travel_together() -> None:
    """Never called: `save_pretrained` copies to a folder only those files of ours that such lines lead to."""
    from .modeling_universal import UniversalAudioForPreTraining  # noqa: F401
