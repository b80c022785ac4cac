"""Configuration of EAT, the Efficient Audio Transformer (arXiv 2401.03497); the defaults are its base recipe."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_data2vec2 import Data2Vec2Config, Sizes
from .embed_image import as_pair
from .ranges import require


@strict
class EatConfig(Data2Vec2Config):
    """data2vec 2.0 on patches of log-mel spectrograms; the defaults are AudioSet base.

    Args:
        num_mel_bins (`int`): of a frame.
        patch_size (`int` or two: frames and mel bins): of a token; patches do not overlap.
        max_position_embeddings (`int`): rows of patches that have a position; a clip of any shorter length has those
            of its rows, so that a patch's position says how long after the start it is.
        classifier_pooling (`str`): what the classifier reads: `"cls_token"` (the last extra token), `"mean"` (of the
            patches) or `"lin_softmax"` (of the patches, each channel weighted by its own sigmoid).
        classifier_norm_eps (`float`): of the norm in front of the classifier. The code that the published weights come
            with on the Hub has 1e-5 there, the original 1e-6.
    """

    model_type = "eat"
    num_extra_tokens: int = 1
    layer_norm_eps: float = 1e-6
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    num_mel_bins: int = 128
    patch_size: Sizes = 16
    max_position_embeddings: int = 768
    classifier_pooling: str = "cls_token"
    classifier_norm_eps: float = 1e-6

    axes: ClassVar[int] = 2
    num_channels: ClassVar[int] = 1
    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "block", "prob": 0.8, "length": 5, "adjust": 0.07, "inverse": True},
        "views": 16,
        "top_k_layers": 12,
        "target_layer_norm": "instance",
        "target_norm": "layer",
        # the original's 1 is relative to a sum: 1 * 12 samples of a process * 16 views
        "cls_loss_weight": 192.0,
        "decoder": {"dim": 768, "layers": 6, "kernel": 3, "groups": 16},
        "ema_decay": 0.9998,
        "ema_end_decay": 0.99999,
        "ema_anneal_steps": 100_000,
        "ema_scope": "all",
    }
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_eat.EatConfig",
        "AutoModel": "modeling_eat.EatModel",
        "AutoModelForPreTraining": "modeling_eat.EatForPreTraining",
        "AutoModelForAudioClassification": "modeling_eat.EatForAudioClassification",
        "AutoFeatureExtractor": "feature_extraction_eat.EatFeatureExtractor",
    }
    original_switches: ClassVar[dict[str, Any]] = {
        **Data2Vec2Config.original_switches,
        "fixed_positions": True,
        "transformer_decoder": False,
        "enc_dec_transformer": False,
        "utterance_level": False,
        "flexible_mask": False,
    }

    @property
    def image_size(self) -> tuple[int, int]:
        """The field of the positions: (frames, mel bins)."""
        return (self.max_position_embeddings * as_pair(self.patch_size)[0], self.num_mel_bins)

    def validate_eat(self) -> None:
        pair = isinstance(self.patch_size, int) or len(self.patch_size) == 2
        require("", self, {"patch_size": (pair, "one number, or frames and mel bins")})
        poolings = ("cls_token", "mean", "lin_softmax")
        checks = {
            "num_mel_bins": (
                self.num_mel_bins % as_pair(self.patch_size)[1] == 0,
                f"a multiple of patch_size = {self.patch_size}",
            ),
            "hidden_size": (self.hidden_size % 4 == 0, "a multiple of 4 for sine-cosine positions"),
            "classifier_pooling": (self.classifier_pooling in poolings, f"one of {', '.join(poolings)}"),
            "num_extra_tokens": (
                self.classifier_pooling != "cls_token" or self.num_extra_tokens > 0,
                "1 or more with classifier_pooling = 'cls_token'",
            ),
        }
        require("", self, checks)


def _travel_together() -> None:
    """Never called: `save_pretrained` copies to a folder only those files of ours that such lines lead to."""
    from .feature_extraction_eat import EatFeatureExtractor  # noqa: F401
    from .modeling_eat import EatForPreTraining  # noqa: F401
