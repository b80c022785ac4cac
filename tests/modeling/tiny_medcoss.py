"""Tiny models of MedCoSS and their inputs, of sizes that differ from each other."""

import copy
from typing import Any

import torch
from torch import Tensor

from data2vec import modeling
from data2vec.modeling import MedCossImageConfig, MedCossTextConfig, MedCossVolumeConfig


SHARED: dict[str, Any] = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "drop_path_rate": 0.0,
    "layer_scale_init_value": 0.5,
}
DECODER = {"layers": 2, "dim": 14, "num_attention_heads": 2, "intermediate_size": 29}


def text_config(**kwargs: Any) -> MedCossTextConfig:
    objective = MedCossTextConfig.default_objective | {"top_k_layers": 2}
    own = {"vocab_size": 53, "max_position_embeddings": 23, "pad_token_id": 1, "mask_token_id": 52}
    return MedCossTextConfig(**(SHARED | own | {"objective": copy.deepcopy(objective)} | kwargs))


def image_config(**kwargs: Any) -> MedCossImageConfig:
    """3 x 5 patches of 4 x 3 pixels."""
    own = {"image_size": [12, 15], "patch_size": [4, 3], "num_channels": 2, "num_positions": 17}
    return MedCossImageConfig(**(SHARED | own | {"objective": _patches(MedCossImageConfig)} | kwargs))


def volume_config(**kwargs: Any) -> MedCossVolumeConfig:
    """2 x 3 x 2 patches of 2 x 3 x 5 voxels."""
    own = {"image_size": [4, 9, 10], "patch_size": [2, 3, 5], "num_positions": 13}
    return MedCossVolumeConfig(**(SHARED | own | {"objective": _patches(MedCossVolumeConfig)} | kwargs))


def _patches(config_class: Any) -> dict[str, Any]:
    published = copy.deepcopy(config_class.default_objective)
    return published | {"top_k_layers": 2, "decoder": published["decoder"] | DECODER}


CONFIGS: dict[str, Any] = {"report": text_config, "scan": image_config, "volume": volume_config}
MODELS: dict[Any, str] = {
    modeling.MedCossTextModel: "report",
    modeling.MedCossTextForPreTraining: "report",
    modeling.MedCossTextForSequenceClassification: "report",
    modeling.MedCossImageModel: "scan",
    modeling.MedCossImageForPreTraining: "scan",
    modeling.MedCossImageForImageClassification: "scan",
    modeling.MedCossVolumeModel: "volume",
    modeling.MedCossVolumeForPreTraining: "volume",
    modeling.MedCossVolumeForImageClassification: "volume",
}


def build(model_class: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    model = model_class(CONFIGS[MODELS[model_class]](**kwargs))
    with torch.no_grad():  # away from zeros and ones, so that nothing hides behind them
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def inputs(kind: str, padded: bool = False) -> dict[str, Tensor]:
    """Three inputs; padded: the second report has 7 of 11 tokens."""
    generator = torch.Generator().manual_seed(1)
    if kind == "report":
        ids = torch.randint(4, 52, (3, 11), generator=generator)
        if not padded:
            return {"input_ids": ids}
        real = torch.ones_like(ids)
        real[1, 7:] = 0
        return {"input_ids": ids.masked_fill(real == 0, 1), "attention_mask": real}
    name, shape = {"scan": ("pixel_values", (2, 12, 15)), "volume": ("voxel_values", (1, 4, 9, 10))}[kind]
    return {name: torch.randn(3, *shape, generator=generator)}
