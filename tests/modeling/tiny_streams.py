"""Tiny models of several streams and their inputs, of sizes that differ from each other."""

import copy
from typing import Any

import torch
from torch import Tensor

from data2vec import modeling
from data2vec.modeling import AvData2VecConfig, SvData2VecConfig


SHARED: dict[str, Any] = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "resnet_width": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "sv": {"pixel_values": (2, 10, 10), "keypoint_values": (1, 5, 2)},
    "av": {"input_features": (6,), "pixel_values": (1, 10, 10)},
}


def sv_config(**kwargs: Any) -> SvData2VecConfig:
    """Up to 13 frames of 10 x 10 pixels; one person of 5 joints."""
    decoder = {"method": "transformer", "layers": 1, "input_projection": True, "learned_positions": True}
    shape: dict[str, Any] = {
        "max_position_embeddings": 13,
        "image_size": 10,
        "num_channels": 2,
        "num_persons": 1,
        "num_joints": 5,
        "classifier_proj_size": 17,
        "classifier_dropout": 0.0,
        "objective": copy.deepcopy(SvData2VecConfig.default_objective) | {"top_k_layers": 2, "decoder": decoder},
    }
    return SvData2VecConfig(**(SHARED | shape | kwargs))


def av_config(**kwargs: Any) -> AvData2VecConfig:
    """Frames of 2 x 3 mel bins and of 10 x 10 pixels."""
    masking = {"method": "span", "prob": 0.5, "length": 3}
    shape: dict[str, Any] = {
        "layerdrop": 0.0,
        "num_mel_bins": 3,
        "num_stacked_frames": 2,
        "image_size": 10,
        "num_conv_pos_embeddings": 1,
        "conv_pos_kernel_size": 3,
        "num_conv_pos_embedding_groups": 4,
        "vocab_size": 11,
        "final_dropout": 0.0,
        "objective": copy.deepcopy(AvData2VecConfig.default_objective) | {"top_k_layers": 2, "masking": masking},
    }
    return AvData2VecConfig(**(SHARED | shape | kwargs))


CONFIGS: dict[str, Any] = {"sv": sv_config, "av": av_config}
MODELS: dict[Any, str] = {
    modeling.SvData2VecModel: "sv",
    modeling.SvData2VecForPreTraining: "sv",
    modeling.SvData2VecForVideoClassification: "sv",
    modeling.AvData2VecModel: "av",
    modeling.AvData2VecForPreTraining: "av",
    modeling.AvData2VecForCTC: "av",
}


def build(model_class: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    model = model_class(CONFIGS[MODELS[model_class]](**kwargs))
    with torch.no_grad():  # away from zeros and ones, so that nothing hides behind them
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def inputs(kind: str, padded: bool = False) -> dict[str, Tensor]:
    """Three clips of 11 frames; padded: the second has 7."""
    generator, mask = torch.Generator().manual_seed(1), torch.ones(3, 11, dtype=torch.long)
    batch = {name: torch.randn(3, 11, *shape, generator=generator) for name, shape in SHAPES[kind].items()}
    if not padded:
        return batch
    mask[1, 7:] = 0
    for values in batch.values():
        values[mask == 0] = 0
    return batch | {"attention_mask": mask}
