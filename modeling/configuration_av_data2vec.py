"""Configuration of AV-data2vec. The defaults are the published base recipe, its objective included."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_data2vec2 import Data2Vec2Config
from .configuration_streams import StreamsObjectiveConfig
from .ranges import require


@strict
class AvData2VecConfig(Data2Vec2Config):
    """AV-data2vec: one encoder of speech that is heard, seen on the lips, or both (arXiv 2302.06419).

    What the paper was not found to say is as in data2vec 1 in speech: hidden tokens are replaced in place, targets are
    outputs of feed-forward layers, each normalised over time, the head is a linear layer, and the teacher averages the
    blocks. The front ends, the fusion and the pre-norm blocks are AV-HuBERT's.

    Args:
        num_mel_bins, num_stacked_frames (`int`): an audio frame is so many log-mel frames of so many bins.
        image_size (`int`): height and width of a mouth crop, in pixels; others can be read.
        num_channels (`int`): of a crop.
        resnet_width (`int`): planes of the first convolution.
        conv_pos_kernel_size, num_conv_pos_embedding_groups, num_conv_pos_embeddings: of the positional convolutions.
        vocab_size, pad_token_id, final_dropout, ctc_loss_reduction, ctc_zero_infinity: of the CTC head; `pad_token_id`
            is the blank.
    """

    model_type = "av-data2vec"
    layer_norm_first: bool = True
    layerdrop: float | int = 0.05
    num_mel_bins: int = 26
    num_stacked_frames: int = 4
    image_size: int = 88
    num_channels: int = 1
    resnet_width: int = 64
    num_conv_pos_embeddings: int = 5
    conv_pos_kernel_size: int = 19
    num_conv_pos_embedding_groups: int = 16
    vocab_size: int = 32
    pad_token_id: int = 0
    final_dropout: float | int = 0.1
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False

    streams: ClassVar[tuple[str, ...]] = ("audio", "video")
    objective_class: ClassVar[type[StreamsObjectiveConfig]] = StreamsObjectiveConfig
    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "span", "prob": 0.5, "length": 10},
        "student_streams": {"audio+video": [1.0, 0.25], "video": [0.0, 0.75]},
        "teacher_streams": {"audio": [1.0, 1.0]},
        "streams_anneal_steps": 600_000,
        "score_visible": {"video": 1.0},
        "top_k_layers": 12,
        "target_layer_norm": "instance",
        "ema_decay": 0.999,
        "ema_end_decay": 0.99999,
        "ema_anneal_steps": 100_000,
        "ema_scope": "blocks",
    }
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_av_data2vec.AvData2VecConfig",
        "AutoFeatureExtractor": "feature_extraction_av_data2vec.AvData2VecFeatureExtractor",
        "AutoModel": "modeling_av_data2vec.AvData2VecModel",
        "AutoModelForPreTraining": "modeling_av_data2vec.AvData2VecForPreTraining",
        "AutoModelForCTC": "modeling_av_data2vec.AvData2VecForCTC",
    }

    def validate_streams(self) -> None:
        groups = self.num_conv_pos_embedding_groups
        checks = {
            "num_extra_tokens": (self.num_extra_tokens == 0, "0: no recipe uses it"),
            "num_conv_pos_embedding_groups": (
                groups > 0 and self.hidden_size % groups == 0,
                "a divisor of hidden_size",
            ),
            "pad_token_id": (0 <= self.pad_token_id < self.vocab_size, f"in the vocabulary of {self.vocab_size}"),
            "ctc_loss_reduction": (self.ctc_loss_reduction in ("sum", "mean"), "'sum' or 'mean'"),
        }
        require("", self, checks)


def _travel_together() -> None:
    """Never called: `save_pretrained` copies to a folder only those files of ours that such lines lead to."""
    from .feature_extraction_av_data2vec import AvData2VecFeatureExtractor  # noqa: F401
    from .modeling_av_data2vec import AvData2VecModel  # noqa: F401
