"""Configurations of MedCoSS. The defaults are the published recipe: masked autoencoders and masked words."""

from math import prod
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_data2vec2 import Data2Vec2Config, Sizes
from .ranges import require


@strict
class MedCossConfig(Data2Vec2Config):
    """What the modalities of MedCoSS share: the trunk (arXiv 2311.17597).

    Pre-norm blocks with a small factor on each residual branch, and no norm behind them.
    """

    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.1
    layer_norm_first: bool = True
    layer_scale_init_value: float | int = 1e-3

    use_context_norm: ClassVar[bool] = False
    use_final_norm: ClassVar[bool] = False


@strict
class MedCossTextConfig(MedCossConfig):
    """Reports: whole words are hidden behind the mask token and predicted, as in BERT.

    Args:
        vocab_size, pad_token_id, mask_token_id: the tokenizer's.
        max_position_embeddings (`int`): positions.
        type_vocab_size (`int`): kinds of text, of which the first is read.
        is_causal (`bool`): a token reads none behind it. The published weights were trained so; off, as here, a masked
            word is predicted from both sides.
    """

    model_type = "medcoss-text"
    vocab_size: int = 49_411
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int = 0
    mask_token_id: int = 103
    is_causal: bool = False

    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "token", "prob": 0.15, "keep_prob": 0.1, "random_prob": 0.1},
        "target": "input",
        "decoder": {"method": "token"},
    }
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_medcoss.MedCossTextConfig",
        "AutoModel": "modeling_medcoss.MedCossTextModel",
        "AutoModelForPreTraining": "modeling_medcoss.MedCossTextForPreTraining",
        "AutoModelForSequenceClassification": "modeling_medcoss.MedCossTextForSequenceClassification",
    }

    def validate_text(self) -> None:
        inside = f"in the vocabulary of {self.vocab_size}"
        checks = {
            "pad_token_id": (0 <= self.pad_token_id < self.vocab_size, inside),
            "mask_token_id": (0 <= self.mask_token_id < self.vocab_size, inside),
            "num_extra_tokens": (self.num_extra_tokens == 0, "0: a text brings its own class token"),
            "type_vocab_size": (self.type_vocab_size >= 1, "1 or more"),
        }
        require("", self, checks)


@strict
class MedCossPatchConfig(MedCossConfig):
    """What images and volumes share: patches, most of which are hidden and reconstructed, as in MAE.

    Args:
        image_size, patch_size (`int`, or one an axis): in pixels or voxels.
        num_channels (`int`): of an image.
        num_positions (`int`): rows of the table of spatial positions, of which the first so many as there are patches
            are read.
        num_temporal_positions (`int`): rows of the table of temporal positions, which Uni-Perceiver has for videos: in
            training one is drawn for each sample, else the first is read.
        use_mean_pooling (`bool`): the classifier reads the mean of the patches; off: the last extra token.
    """

    num_extra_tokens: int = 1
    image_size: Sizes = 224
    patch_size: Sizes = 16
    num_channels: int = 3
    num_positions: int = 1024
    num_temporal_positions: int = 8
    use_mean_pooling: bool = True

    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "random", "prob": 0.75},
        "target": "input",
        "decoder": {
            "method": "transformer",
            "layers": 8,
            "dim": 512,
            "num_attention_heads": 16,
            "intermediate_size": 2048,
            "input_projection": True,
            "learned_positions": True,
            "extra_tokens": True,
            "layer_norm_eps": 1e-6,
        },
    }

    def sizes(self, name: str) -> tuple[int, ...]:
        """`image_size` or `patch_size`, one number an axis."""
        size: Sizes = getattr(self, name)
        return (size,) * self.axes if isinstance(size, int) else tuple(size)

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis."""
        pairs = zip(self.sizes("image_size"), self.sizes("patch_size"), strict=True)
        return tuple(size // patch for size, patch in pairs)

    @property
    def max_position_embeddings(self) -> int:
        """Patches, each of which a decoder has a position for."""
        return prod(self.grid)

    def validate_patches(self) -> None:
        sizes = [self.sizes(name) for name in ("image_size", "patch_size")]
        words = f"one number, or {self.axes}, one an axis"
        require("", self, {"patch_size": (len(sizes[1]) == self.axes, words)})
        whole = len(sizes[0]) == self.axes and all(size % patch == 0 for size, patch in zip(*sizes, strict=True))
        require("", self, {"image_size": (whole, f"{words}, in multiples of patch_size = {self.patch_size}")})
        patches = self.max_position_embeddings
        checks = {
            "num_positions": (self.num_positions >= patches, f"at least {patches}, the patches of an input"),
            "num_temporal_positions": (self.num_temporal_positions >= 1, "1 or more"),
            "num_extra_tokens": (self.use_mean_pooling or self.num_extra_tokens > 0, "1 or more without mean pooling"),
        }
        require("", self, checks)


@strict
class MedCossImageConfig(MedCossPatchConfig):
    """Images: X-ray and pathology."""

    model_type = "medcoss-image"
    axes: ClassVar[int] = 2
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_medcoss.MedCossImageConfig",
        "AutoModel": "modeling_medcoss.MedCossImageModel",
        "AutoModelForPreTraining": "modeling_medcoss.MedCossImageForPreTraining",
        "AutoModelForImageClassification": "modeling_medcoss.MedCossImageForImageClassification",
    }


@strict
class MedCossVolumeConfig(MedCossPatchConfig):
    """Volumes: CT and MR, slices first."""

    model_type = "medcoss-volume"
    image_size: Sizes = (16, 192, 192)
    num_channels: int = 1
    num_positions: int = 4096

    axes: ClassVar[int] = 3
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_medcoss.MedCossVolumeConfig",
        "AutoFeatureExtractor": "feature_extraction_medcoss.MedCossVolumeFeatureExtractor",
        "AutoModel": "modeling_medcoss.MedCossVolumeModel",
        "AutoModelForPreTraining": "modeling_medcoss.MedCossVolumeForPreTraining",
        "AutoModelForImageClassification": "modeling_medcoss.MedCossVolumeForImageClassification",
    }


def _travel_together() -> None:
    """Never called: `save_pretrained` copies to a folder only those files of ours that such lines lead to."""
    from .feature_extraction_medcoss import MedCossVolumeFeatureExtractor  # noqa: F401
    from .modeling_medcoss import MedCossTextForPreTraining  # noqa: F401
