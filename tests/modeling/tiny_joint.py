"""A tiny joint model of speech, images, text and points, and its inputs."""

from typing import Any

from torch import Tensor

from data2vec import modeling
from data2vec.modeling import JointConfig
from data2vec.modeling.configuration_joint import TRUNK, own_fields
from tests.modeling import tiny_data2vec2, tiny_point2vec


MAKERS: dict[str, Any] = {
    "text": tiny_data2vec2.text_config,
    "audio": tiny_data2vec2.audio_config,
    "image": tiny_data2vec2.vision_config,
    "points": tiny_point2vec.points_config,
}
KIND = {"text": "text", "audio": "audio", "image": "vision"}
MODELS: dict[Any, str] = {modeling.JointModel: "joint", modeling.JointForPreTraining: "joint"}
SCHEDULE = {"ema_decay": 0.9, "ema_end_decay": 0.99, "ema_anneal_steps": 10}


def joint_config(**kwargs: Any) -> JointConfig:
    """Text, which has no prenet and no extra tokens, is first, so that the trunk is known by its names."""
    modalities = {name: own_fields(make()) for name, make in MAKERS.items()}
    trunk: dict[str, Any] = {
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "intermediate_size": 40,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "modalities": modalities,
        "objective": SCHEDULE,
    }
    assert trunk.keys() & set(TRUNK)
    return JointConfig(**(trunk | kwargs))


CONFIGS = {"joint": joint_config}


def inputs_of(name: str, padded: bool = False) -> dict[str, Tensor]:
    """Of one modality."""
    if name == "points":
        return tiny_point2vec.inputs("points", padded)
    return tiny_data2vec2.inputs(KIND[name], padded and name != "image")


def inputs(kind: str) -> dict[str, Tensor]:
    return inputs_of("audio")
