"""Configuration of one trunk of blocks for several modalities."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .configuration_av_data2vec import AvData2VecConfig
from .configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig
from .configuration_eat import EatConfig
from .configuration_emotion2vec import Emotion2vecConfig
from .configuration_medcoss import MedCossImageConfig, MedCossTextConfig, MedCossVolumeConfig
from .configuration_objective import EmaSchedule, objective_class_of
from .configuration_point2vec import Point2VecConfig
from .configuration_sv_data2vec import SvData2VecConfig
from .configuration_universal import (
    UniversalAudioConfig,
    UniversalPointsConfig,
    UniversalTextConfig,
    UniversalVisionConfig,
)
from .ranges import check_ranges, require


# Fields of the blocks that all modalities share, said once.
TRUNK = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "layer_norm_first",
    "layer_norm_eps",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "drop_path_rate",
    "layer_scale_init_value",
    "initializer_range",
)
SAVED = ("auto_map", "architectures", "dtype", "transformers_version", "name_or_path", "_name_or_path")
NAME = re.compile(r"[a-z][a-z0-9_]*")
# By model type; a folder that carries the code is opened where the Auto classes know none of them.
CONFIGS: dict[str, Any] = {
    config.model_type: config
    for config in (
        AvData2VecConfig,
        Data2Vec2AudioConfig,
        Data2Vec2TextConfig,
        Data2Vec2VisionConfig,
        EatConfig,
        Emotion2vecConfig,
        MedCossImageConfig,
        MedCossTextConfig,
        MedCossVolumeConfig,
        Point2VecConfig,
        SvData2VecConfig,
        UniversalAudioConfig,
        UniversalPointsConfig,
        UniversalTextConfig,
        UniversalVisionConfig,
    )
}


@strict
class JointConfig(PreTrainedConfig):
    """Modalities that share their blocks; everything else each has of its own.

    Args:
        modalities (`dict`): a name of your choice -> `model_type` and the fields of that configuration, but for those
            of the trunk, which stand here: `{"audio": {"model_type": "data2vec2-audio", "conv_dim": [48, 96]}}`. Each
            has an `objective` of its own, without the teacher's schedule.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, layer_norm_first, layer_norm_eps: of
            the blocks.
        hidden_dropout, attention_dropout, activation_dropout, drop_path_rate: of the blocks in training.
        layer_scale_init_value (`float`): see [`Data2Vec2Config`].
        initializer_range (`float`): standard deviation of linear layers and embeddings at the start.
        shared_front_ends (`list[list[str]]`, *optional*): modalities that read their input by the same modules, as in
            MedCoSS: `[["xray", "pathology"], ["ct", "mr"]]`. Those of a list have one type and the same sizes.
        objective (`dict`, *optional*): the teacher's schedule, see [`EmaSchedule`].

    Raises:
        ValueError: a modality is invalid, or contradicts the trunk or the schedule; the message names it.
    """

    model_type = "data2vec2-joint"
    modalities: dict[str, Any] | None = None
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    layer_norm_first: bool = False
    layer_norm_eps: float = 1e-5
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_scale_init_value: float | int = 0.0
    initializer_range: float | int = 0.02
    shared_front_ends: list[list[str]] | None = None
    objective: dict[str, Any] | None = None

    objective_class: ClassVar[type[EmaSchedule]] = EmaSchedule
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_joint.JointConfig",
        "AutoModel": "modeling_joint.JointModel",
        "AutoModelForPreTraining": "modeling_joint.JointForPreTraining",
    }

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.objective = EmaSchedule.from_dict(self.objective or {}).to_dict()
        given = self.modalities or {}
        self.modalities = {}
        for name, fields in given.items():
            if not NAME.fullmatch(str(name)) or hasattr(nn.ModuleDict, name):
                raise ValueError(f"modalities names {name!r}: must be lower-case letters, digits and underscores.")
            try:
                self.modalities[name] = self._own(fields)
            except Exception as error:  # the strict configurations raise types of their own
                raise ValueError(f"modalities.{name}: {error.__cause__ or error}") from error
        self.auto_map = dict(self.remote_classes) | (getattr(self, "auto_map", None) or {})

    def _own(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a modality without what all share, its objective complete."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in TRUNK}
        schedule: dict[str, Any] = self.objective or {}
        objective = fields.get("objective") or {}
        for of_all, own, where in ((shared, fields, ""), (schedule, objective, "objective.")):
            for name in of_all.keys() & own.keys():
                if own[name] != of_all[name]:
                    raise ValueError(
                        f"{where}{name} = {own[name]!r} contradicts {of_all[name]!r}, which all modalities share: "
                        f"leave it out here, or change {where}{name} for all."
                    )
        values = {name: value for name, value in fields.items() if name not in (*TRUNK, *SAVED)}
        values["objective"] = objective
        config = self._build(values)
        own_objective = {name: value for name, value in config.objective.items() if name not in schedule}
        return values | {"objective": own_objective}

    def _build(self, fields: Mapping[str, Any]) -> Any:
        values, schedule = dict(fields), self.objective or {}
        model_type = str(values.pop("model_type", None))
        known = model_type in CONFIG_MAPPING or model_type in CONFIGS
        config_class: Any = (
            (CONFIG_MAPPING if model_type in CONFIG_MAPPING else CONFIGS)[model_type] if known else None
        )
        if not hasattr(config_class, "default_objective"):
            raise ValueError(f"model_type = {model_type!r}: must be one of {', '.join(sorted(CONFIGS))}.")
        stored = values.pop("objective", None) or {
            name: value for name, value in config_class.default_objective.items() if name not in schedule
        }
        config = config_class(**values, **{name: getattr(self, name) for name in TRUNK}, objective=stored | schedule)
        check_ranges(config)
        objective_class_of(config).from_dict(config.objective)
        return config

    def of(self, name: str) -> Any:
        """The configuration of a modality, complete, as one that is trained alone has it.

        Raises:
            ValueError: there is no such modality.
        """
        modalities: dict[str, Any] = self.modalities or {}
        if name not in modalities:
            raise ValueError(f"modality = {name!r}: must be one of {', '.join(modalities) or 'none'}.")
        config = self._build(modalities[name])
        config._attn_implementation = self._attn_implementation
        return config

    def validate_joint(self) -> None:
        check_ranges(self)
        heads, groups = self.num_attention_heads, self.shared_front_ends or []
        known: dict[str, Any] = self.modalities or {}
        named = [name for group in groups for name in group]
        apart = len(named) == len(set(named)) and known.keys() >= set(named)
        alike = apart and all(len({known[name]["model_type"] for name in group}) == 1 for group in groups)
        rules = {
            "num_attention_heads": (self.hidden_size % heads == 0, "a divisor of hidden_size"),
            "shared_front_ends": (alike, "lists of modalities of one model_type, none of them named twice"),
        }
        require("", self, rules)


def own_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """What a joint configuration holds of one that stands alone."""
    schedule = EmaSchedule().to_dict()
    fields = {name: value for name, value in config.to_diff_dict().items() if name not in (*TRUNK, *SAVED)}
    objective = {name: value for name, value in config.objective.items() if name not in schedule}
    return fields | {"objective": objective, "model_type": config.model_type}
