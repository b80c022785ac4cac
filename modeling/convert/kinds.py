"""Which checkpoint is it? Every kind that can be converted: how it is told, configured and which class it becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import (
    Data2VecAudioForCTC,
    Data2VecAudioModel,
    Data2VecTextForSequenceClassification,
    Data2VecTextModel,
    Data2VecVisionForImageClassification,
    Data2VecVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..heads import (
    Data2Vec2AudioForCTC,
    Data2Vec2TextForSequenceClassification,
    Data2Vec2VisionForImageClassification,
)
from ..modeling_data2vec2 import Data2Vec2AudioModel, Data2Vec2TextModel, Data2Vec2VisionModel
from ..modeling_data2vec2_pretraining import (
    Data2Vec2AudioForPreTraining,
    Data2Vec2TextForPreTraining,
    Data2Vec2VisionForPreTraining,
)
from ..modeling_data2vec_audio import Data2VecAudioForPreTraining
from ..modeling_data2vec_text import Data2VecTextForPreTraining
from ..modeling_data2vec_vision import Data2VecVisionForPreTraining
from .beit import beit_classification_config, beit_config
from .checkpoint import Checkpoint
from .fairseq_v1 import (
    Notes,
    audio_config,
    audio_ctc_config,
    text_classification_config,
    text_config,
    vision_config,
)
from .fairseq_v2 import (
    config2,
    ctc_config2,
    image_classification_config2,
    modality_of,
    text_classification_config2,
)
from .keys import MODALITIES2


ENCODERS: dict[str, type[PreTrainedModel]] = {
    "audio": Data2VecAudioModel,
    "text": Data2VecTextModel,
    "vision": Data2VecVisionModel,
    "beit": Data2VecVisionModel,
    "audio2": Data2Vec2AudioModel,
    "text2": Data2Vec2TextModel,
    "vision2": Data2Vec2VisionModel,
}
PRETRAINED: dict[str, type[PreTrainedModel]] = {
    "audio": Data2VecAudioForPreTraining,
    "text": Data2VecTextForPreTraining,
    "vision": Data2VecVisionForPreTraining,
    "beit": Data2VecVisionForPreTraining,
    "audio2": Data2Vec2AudioForPreTraining,
    "text2": Data2Vec2TextForPreTraining,
    "vision2": Data2Vec2VisionForPreTraining,
}
TUNED_CLASSES: dict[str, type[PreTrainedModel]] = {
    "audio": Data2VecAudioForCTC,
    "text": Data2VecTextForSequenceClassification,
    "beit": Data2VecVisionForImageClassification,
    "audio2": Data2Vec2AudioForCTC,
    "text2": Data2Vec2TextForSequenceClassification,
    "vision2": Data2Vec2VisionForImageClassification,
}
TUNED_CONFIGS: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], tuple[PreTrainedConfig, Notes]]] = {
    "audio": audio_ctc_config,
    "text": text_classification_config,
    "beit": beit_classification_config,
    "audio2": ctc_config2,
    "text2": text_classification_config2,
    "vision2": image_classification_config2,
}
CONFIGS = {"audio": audio_config, "text": text_config, "vision": vision_config, "beit": beit_config}
# what the fine-tuned models are called, and where in their configuration the pretrained one is
WRAPPERS = {
    "wav2vec_ctc": "w2v_args",
    "data2vec_text_classification": "pretrained_model_args",
    "mae_image_classification": "pretrained_model_args",
}
NAMES = {"data2vec_audio": "audio", "data2vec_text": "text", "data2vec_vision": "vision"}
FAMILY_WORDS = {
    "audio": "data2vec 1 in speech",
    "text": "data2vec 1 in language",
    "vision": "data2vec 1 in vision (fairseq)",
    "beit": "data2vec 1 in vision (data2vec_vision)",
    "audio2": "data2vec 2.0 in speech",
    "text2": "data2vec 2.0 in language",
    "vision2": "data2vec 2.0 in vision",
}


@dataclass(frozen=True)
class Kind:
    """A family of tensor names, and whether a task's head takes the place of teacher and predictor."""

    family: str
    tuned: bool

    @property
    def words(self) -> str:
        return f"{FAMILY_WORDS[self.family]}, {'fine-tuned' if self.tuned else 'pretrained'}"

    def config(self, checkpoint: Checkpoint) -> tuple[PreTrainedConfig, Notes]:
        cfg, tensors = checkpoint.cfg, checkpoint.tensors
        if self.tuned:
            return TUNED_CONFIGS[self.family](cfg, tensors)
        if self.family in MODALITIES2:
            return config2(cfg["model"], tensors, cfg, MODALITIES2[self.family])
        return CONFIGS[self.family](cfg["model"], tensors, cfg)


def kind_of(checkpoint: Checkpoint) -> Kind:
    """Tell the kind by the model's name in the configuration, and by tensors where that does not say.

    Raises:
        ValueError: a model that is not one of data2vec's.
    """
    model, tensors = checkpoint.cfg["model"], checkpoint.tensors
    name = str(model.get("_name"))
    if "patch_embed.proj.weight" in tensors and "cls_token" in tensors:
        if "lm_head.weight" not in tensors and "head.weight" not in tensors:
            raise ValueError("the checkpoint has neither lm_head nor head: it is of data2vec_vision, but incomplete.")
        return Kind("beit", tuned="head.weight" in tensors)
    if any(n.startswith("classification_heads.") for n in tensors) and name in NAMES | {"roberta": ""} | {
        f"roberta_{size}": "" for size in ("base", "large")
    }:
        return Kind("text", tuned=True)
    if name in WRAPPERS:
        inner = model.get(WRAPPERS[name])
        if not isinstance(inner, dict) or not isinstance(inner.get("model"), dict):
            raise ValueError(
                f"model.{WRAPPERS[name]} is missing from the checkpoint's configuration: without it the encoder "
                f"inside {name} is unknown."
            )
        inside = str(inner["model"].get("_name"))
        if inside == "data2vec_multi":
            return Kind(_family2(checkpoint), tuned=True)
        if inside == "data2vec_audio":
            return Kind("audio", tuned=True)
        raise ValueError(f"model._name = {name!r} holds {inside!r}: only data2vec's models can be converted.")
    if name == "data2vec_multi":
        return Kind(_family2(checkpoint), tuned=False)
    if name in NAMES:
        return Kind(NAMES[name], tuned=False)
    known = ", ".join([*NAMES, "data2vec_multi", *WRAPPERS])
    raise ValueError(f"model._name = {name!r} is no model of data2vec that can be converted; known are {known}.")


def _family2(checkpoint: Checkpoint) -> str:
    modality = modality_of(checkpoint.tensors)
    return next(family for family, theirs in MODALITIES2.items() if theirs == modality)
