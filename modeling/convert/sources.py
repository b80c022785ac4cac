"""Every kind of checkpoint that can be converted, and which one a checkpoint is."""

from typing import Any

from .beit import BEIT
from .checkpoint import Checkpoint
from .eat import EAT, EAT_HUB
from .emotion2vec import EMOTION2VEC
from .fairseq_audio import AUDIO
from .fairseq_multi import AUDIO2, TEXT2, VISION2
from .fairseq_text import TEXT
from .fairseq_vision import VISION
from .lightning_point2vec import POINT2VEC, POINT2VEC_PARTS
from .medcoss import MEDCOSS
from .source import Source
from .sv_data2vec import SV_DATA2VEC


# the first that a checkpoint is one of
SOURCES: dict[str, Source] = {
    "beit": BEIT,
    "audio": AUDIO,
    "text": TEXT,
    "vision": VISION,
    "eat": EAT,
    "eat_hub": EAT_HUB,
    "emotion2vec": EMOTION2VEC,
    "audio2": AUDIO2,
    "vision2": VISION2,
    "text2": TEXT2,
    "point2vec": POINT2VEC,
    "point2vec_parts": POINT2VEC_PARTS,
    "sv_data2vec": SV_DATA2VEC,
    "medcoss": MEDCOSS,
}
NAMES = ("data2vec_audio", "data2vec_text", "data2vec_vision", "data2vec_multi")
# what the fine-tuned models are called, and where in their configuration the pretrained one is
WRAPPERS = {
    "wav2vec_ctc": "w2v_args",
    "data2vec_text_classification": "pretrained_model_args",
    "mae_image_classification": "pretrained_model_args",
}


def source_of(checkpoint: Checkpoint) -> tuple[Source, bool]:
    """Tell it by the model's name in the configuration and by its tensors; and whether it was fine-tuned.

    Raises:
        ValueError: a model that is not one of data2vec's.
    """
    model: dict[str, Any] = checkpoint.cfg.get("model", {})
    name = str(model.get("_name"))
    inside, section = name, model
    if name in WRAPPERS:
        inner = model.get(WRAPPERS[name])
        if not isinstance(inner, dict) or not isinstance(inner.get("model"), dict):
            raise ValueError(
                f"model.{WRAPPERS[name]} is missing from the checkpoint's configuration: without it the encoder "
                f"inside {name} is unknown."
            )
        section = inner["model"]
        inside = str(section.get("_name"))
    for source in SOURCES.values():
        if source.is_source(inside, section, checkpoint.tensors):
            tuned = source.is_tuned(checkpoint.tensors)
            if name in WRAPPERS and not tuned:
                raise ValueError(f"model._name = {name!r}, but the checkpoint has no head of {source.words}.")
            return source, tuned
    if name in WRAPPERS:
        raise ValueError(f"model._name = {name!r} holds {inside!r}: only data2vec's models can be converted.")
    known = ", ".join([*NAMES, *WRAPPERS])
    raise ValueError(f"model._name = {name!r} is no model of data2vec that can be converted; known are {known}.")
