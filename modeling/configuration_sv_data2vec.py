"""Configuration of SV-data2vec. The defaults are the published recipe, its objective included."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_data2vec2 import Data2Vec2Config
from .configuration_streams import StreamsObjectiveConfig
from .ranges import require


@strict
class SvData2VecConfig(Data2Vec2Config):
    """SV-data2vec: a video's encoder learns from a teacher that reads the skeleton (WACV 2025, pages 6967 to 6976).

    Args:
        max_position_embeddings (`int`): most frames of a clip.
        image_size (`int`): height and width of a frame, in pixels; others can be read.
        num_channels (`int`): of a frame.
        resnet_width (`int`): planes of the first convolution.
        num_persons, num_joints (`int`): of a skeleton.
        classifier_proj_size (`int`): width inside the classifier.
        label_smoothing (`float`): of the classifier's loss.
    """

    model_type = "sv-data2vec"
    hidden_size: int = 256
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    intermediate_size: int = 1024
    layer_norm_first: bool = True
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    max_position_embeddings: int = 40
    image_size: int = 224
    num_channels: int = 3
    resnet_width: int = 64
    num_persons: int = 2
    num_joints: int = 17
    classifier_proj_size: int = 2048
    classifier_dropout: float | int | None = 0.3
    label_smoothing: float | int = 0.1

    streams: ClassVar[tuple[str, ...]] = ("video", "skeleton")
    objective_class: ClassVar[type[StreamsObjectiveConfig]] = StreamsObjectiveConfig
    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "random", "prob": 0.66},
        "nested_masking": {"skeleton": 0.75},
        "teacher_streams": {"skeleton": [1.0, 1.0]},
        "top_k_layers": 8,
        "target_tap": "end_of_block",
        "target_layer_norm": "instance",
        "loss_scale": 1 / 256,
        "decoder": {
            "method": "transformer",
            "layers": 3,
            "input_projection": True,
            "learned_positions": True,
        },
        "ema_decay": 0.999,
        "ema_end_decay": 0.99999,
        "ema_anneal_steps": 50_000,
        "ema_scope": "blocks",
    }
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_sv_data2vec.SvData2VecConfig",
        "AutoFeatureExtractor": "feature_extraction_sv_data2vec.SvData2VecFeatureExtractor",
        "AutoModel": "modeling_sv_data2vec.SvData2VecModel",
        "AutoModelForPreTraining": "modeling_sv_data2vec.SvData2VecForPreTraining",
        "AutoModelForVideoClassification": "modeling_sv_data2vec.SvData2VecForVideoClassification",
    }

    def validate_streams(self) -> None:
        none = "0: no recipe uses it"
        require("", self, {"num_extra_tokens": (self.num_extra_tokens == 0, none)})


def _travel_together() -> None:
    """Never called: `save_pretrained` copies to a folder only those files of ours that such lines lead to."""
    from .feature_extraction_sv_data2vec import SvData2VecFeatureExtractor  # noqa: F401
    from .modeling_sv_data2vec import SvData2VecModel  # noqa: F401
