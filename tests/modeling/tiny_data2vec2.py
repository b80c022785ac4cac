"""Tiny data2vec 2.0 configurations and inputs, of sizes that differ from each other; a comparison of tensors."""

import copy
from typing import Any

import torch
from torch import Tensor

from data2vec import modeling
from data2vec.modeling import (
    Data2Vec2AudioConfig,
    Data2Vec2TextConfig,
    Data2Vec2VisionConfig,
    EatConfig,
    Emotion2vecConfig,
)


SHARED: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 40}
DECODER = {"dim": 16, "layers": 2, "kernel": 3, "groups": 4}
QUIET: dict[str, Any] = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}


def objective(config_class: Any, **kwargs: Any) -> dict[str, Any]:
    return copy.deepcopy(config_class.default_objective) | {"views": 2, "top_k_layers": 2, "decoder": DECODER} | kwargs


def audio_config(config_class: Any = Data2Vec2AudioConfig, **kwargs: Any) -> Any:
    """`conv_stride` 5 * 2: 10 samples per frame."""
    shape: dict[str, Any] = {
        "conv_dim": (10, 14),
        "conv_kernel": (7, 3),
        "conv_stride": (5, 2),
        "num_conv_pos_embeddings": 2,
        "conv_pos_kernel_size": 4,
        "num_conv_pos_embedding_groups": 6,
        "num_prenet_layers": 1,
        "num_extra_tokens": 2,
        "vocab_size": 11,
        "classifier_proj_size": 13,
        "objective": objective(config_class, masking={"method": "block", "prob": 0.5, "length": 3}),
    }
    return config_class(**(SHARED | QUIET | shape | kwargs))


def vision_config(**kwargs: Any) -> Data2Vec2VisionConfig:
    """A grid of 3 x 5 patches."""
    masking = {"method": "block", "prob": 0.6, "length": 2, "inverse": True}
    shape: dict[str, Any] = {
        "image_size": (12, 20),
        "patch_size": 4,
        "num_prenet_layers": 1,
        "objective": objective(Data2Vec2VisionConfig, masking=masking),
    }
    return Data2Vec2VisionConfig(**(SHARED | QUIET | shape | kwargs))


def text_config(**kwargs: Any) -> Data2Vec2TextConfig:
    shape: dict[str, Any] = {
        "vocab_size": 37,
        "max_position_embeddings": 23,
        "objective": objective(Data2Vec2TextConfig),
    }
    return Data2Vec2TextConfig(**(SHARED | QUIET | shape | kwargs))


def eat_config(**kwargs: Any) -> EatConfig:
    """A grid of up to 7 x 3 patches, of 4 frames and 2 mel bins each."""
    masking = {"method": "block", "prob": 0.6, "length": 2, "inverse": True}
    shape: dict[str, Any] = {
        "num_mel_bins": 6,
        "patch_size": (4, 2),
        "max_position_embeddings": 7,
        "num_extra_tokens": 2,
        "objective": objective(EatConfig, masking=masking),
    }
    return EatConfig(**(SHARED | QUIET | shape | kwargs))


CONFIGS: dict[str, Any] = {"audio": audio_config, "vision": vision_config, "text": text_config, "eat": eat_config}
PRETRAINING: dict[str, Any] = {
    "audio": modeling.Data2Vec2AudioForPreTraining,
    "vision": modeling.Data2Vec2VisionForPreTraining,
    "text": modeling.Data2Vec2TextForPreTraining,
    "eat": modeling.EatForPreTraining,
}
# every class -> its modality
MODELS: dict[Any, str] = {
    modeling.Data2Vec2AudioModel: "audio",
    modeling.Data2Vec2AudioForPreTraining: "audio",
    modeling.Data2Vec2AudioForCTC: "audio",
    modeling.Data2Vec2AudioForSequenceClassification: "audio",
    modeling.Data2Vec2AudioForAudioFrameClassification: "audio",
    modeling.Emotion2vecModel: "audio",
    modeling.Emotion2vecForPreTraining: "audio",
    modeling.Emotion2vecForSequenceClassification: "audio",
    modeling.Data2Vec2VisionModel: "vision",
    modeling.Data2Vec2VisionForPreTraining: "vision",
    modeling.Data2Vec2VisionForImageClassification: "vision",
    modeling.Data2Vec2TextModel: "text",
    modeling.Data2Vec2TextForPreTraining: "text",
    modeling.Data2Vec2TextForSequenceClassification: "text",
    modeling.Data2Vec2TextForTokenClassification: "text",
    modeling.Data2Vec2TextForQuestionAnswering: "text",
    modeling.EatModel: "eat",
    modeling.EatForPreTraining: "eat",
    modeling.EatForAudioClassification: "eat",
}
PRETRAINERS = [model_class for model_class in MODELS if "ForPreTraining" in model_class.__name__]


def config_of(model_class: Any, **kwargs: Any) -> Any:
    other = {"config_class": Emotion2vecConfig} if model_class.config_class is Emotion2vecConfig else {}
    return CONFIGS[MODELS[model_class]](**other, **kwargs)


def build(model_class: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    model = model_class(config_of(model_class, **kwargs))
    with torch.no_grad():  # away from zeros and ones, so that nothing hides behind them
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def inputs(kind: str, padded: bool = False) -> dict[str, Tensor]:
    """Three rows; padded: the second is shorter."""
    generator = torch.Generator().manual_seed(1)
    if kind == "vision":
        return {"pixel_values": torch.randn(3, 3, 12, 20, generator=generator)}
    if kind == "audio":
        values, length = torch.randn(3, 313, generator=generator), 229  # 30 and 22 frames
        name, filler = "input_values", 0.0
    elif kind == "eat":
        values, length = torch.randn(3, 20, 6, generator=generator), 12  # 5 rows of 3 patches, and 3
        name, filler = "input_values", 0.5
    else:
        values, length = torch.randint(3, 37, (3, 19), generator=generator), 13
        name, filler = "input_ids", 1
    if not padded:
        return {name: values}
    attention_mask = torch.ones(values.shape[:2], dtype=torch.long)
    attention_mask[1, length:] = 0
    values[attention_mask == 0] = filler
    return {name: values, "attention_mask": attention_mask}


def main_output(output: Any) -> Tensor:
    """What every class has one of."""
    names = ("last_hidden_state", "logits", "start_logits")
    return next(output[name] for name in names if name in output)


def same(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
