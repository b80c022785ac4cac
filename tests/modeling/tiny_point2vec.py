"""Tiny Point2Vec configurations and inputs, of sizes that differ from each other."""

import copy
from typing import Any

import torch
from torch import Tensor

from data2vec import modeling
from data2vec.modeling import Point2VecConfig


def points_config(**kwargs: Any) -> Point2VecConfig:
    """11 groups of 5 points."""
    decoder = {"method": "transformer", "layers": 2, "add_positions_to_every_layer": True}
    shape: dict[str, Any] = {
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "intermediate_size": 40,
        "num_groups": 11,
        "group_size": 5,
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "classifier_dropout": 0.0,
        "classifier_proj_size": 13,
        "num_categories": 3,
        "segmentation_layers": (0, 2),
        "segmentation_proj_size": 14,
        "objective": copy.deepcopy(Point2VecConfig.default_objective) | {"top_k_layers": 2, "decoder": decoder},
    }
    return Point2VecConfig(**(shape | kwargs))


CONFIGS: dict[str, Any] = {"points": points_config, "parts": points_config}
MODELS: dict[Any, str] = {
    modeling.Point2VecModel: "points",
    modeling.Point2VecForPreTraining: "points",
    modeling.Point2VecForPointCloudClassification: "points",
    modeling.Point2VecForPartSegmentation: "parts",
}


def inputs(kind: str, padded: bool = False) -> dict[str, Tensor]:
    """Three clouds; padded: the second is smaller."""
    batch = {"point_values": torch.randn(3, 37, 3, generator=torch.Generator().manual_seed(1))}
    if padded:
        batch["attention_mask"] = torch.ones(3, 37, dtype=torch.long)
        batch["attention_mask"][1, 29:] = 0
        batch["point_values"] *= batch["attention_mask"].unsqueeze(-1)
    return batch | ({"categories": torch.tensor([2, 0, 1])} if kind == "parts" else {})
