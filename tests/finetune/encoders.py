"""Tiny encoder folders, as a pretraining run leaves them: plain encoder and processor at the top."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import RobertaProcessing
from transformers import (
    BeitImageProcessorPil,
    Data2VecAudioConfig,
    Data2VecTextConfig,
    Data2VecVisionConfig,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

from data2vec import modeling
from data2vec.modeling import (
    Data2Vec2AudioConfig,
    Data2Vec2TextConfig,
    Data2Vec2VisionConfig,
    EatConfig,
    Point2VecConfig,
)


FAMILIES = ("v1", "v2")
WORDS = "the of and to in is that for it was on are as with his they at be this from good bad fine poor".split()
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SIZES: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 40}
AUDIO: dict[str, Any] = {
    "conv_dim": (10, 14, 14), "conv_kernel": (10, 8, 4), "conv_stride": (8, 8, 5), "num_conv_pos_embeddings": 2,
    "conv_pos_kernel_size": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
# 320 samples per frame, as the published encoders
CONFIGS: dict[tuple[str, str], Any] = {
    ("audio", "v1"): lambda: Data2VecAudioConfig(**SIZES, **AUDIO),
    ("audio", "v2"): lambda: Data2Vec2AudioConfig(**SIZES, **AUDIO),
    ("vision", "v1"): lambda: Data2VecVisionConfig(
        **SIZES, image_size=16, patch_size=4, use_shared_relative_position_bias=True, layer_scale_init_value=1.0
    ),
    ("vision", "v2"): lambda: Data2Vec2VisionConfig(
        **SIZES, image_size=16, patch_size=4, num_prenet_layers=1, objective=_small_objective(Data2Vec2VisionConfig)
    ),
    ("text", "v1"): lambda: Data2VecTextConfig(**SIZES, **_text()),
    ("text", "v2"): lambda: Data2Vec2TextConfig(**SIZES, **_text()),
    ("spectrogram", "v2"): lambda: EatConfig(**SIZES, num_mel_bins=16, patch_size=4, max_position_embeddings=520),
    ("points", "v2"): lambda: Point2VecConfig(**SIZES, num_groups=7, group_size=5),
}
PRETRAINING: dict[tuple[str, str], Any] = {
    ("audio", "v1"): modeling.Data2VecAudioForPreTraining,
    ("audio", "v2"): modeling.Data2Vec2AudioForPreTraining,
    ("vision", "v1"): modeling.Data2VecVisionForPreTraining,
    ("vision", "v2"): modeling.Data2Vec2VisionForPreTraining,
    ("text", "v1"): modeling.Data2VecTextForPreTraining,
    ("text", "v2"): modeling.Data2Vec2TextForPreTraining,
    ("spectrogram", "v2"): modeling.EatForPreTraining,
    ("points", "v2"): modeling.Point2VecForPreTraining,
}


def encoder_folder(folder: Path, modality: str, family: str, **config_fields: Any) -> Path:
    """Save a tiny encoder and its processor into `folder`; returns it.

    Args:
        modality: audio, vision, text, spectrogram or points.
        family: v1 or v2.
        config_fields: set on the configuration.
    """
    torch.manual_seed(0)
    config = CONFIGS[modality, family]()
    for name, value in config_fields.items():
        setattr(config, name, value)
    small = {"top_k_layers": min(2, config.num_hidden_layers)}
    if family == "v2" and modality != "points":
        small |= {"views": 2, "decoder": {"dim": 16, "layers": 2, "kernel": 3, "groups": 4}}
    objective = PRETRAINING[modality, family].default_objective
    config.objective = modeling.ObjectiveConfig.from_dict({**objective, **small}).to_dict()
    PRETRAINING[modality, family](config).save_encoder(str(folder))
    processor(modality).save_pretrained(str(folder))
    return folder


def processor(modality: str) -> Any:
    """What a pretraining run saves beside its encoder."""
    if modality == "audio":
        return Wav2Vec2FeatureExtractor(sampling_rate=16_000, return_attention_mask=True)
    if modality == "spectrogram":
        return modeling.EatFeatureExtractor(num_mel_bins=16, pad_to_multiple_of=4)
    if modality == "points":
        return modeling.Point2VecFeatureExtractor(num_points=31)
    if modality == "vision":
        half = [0.5, 0.5, 0.5]
        return BeitImageProcessorPil(
            size={"height": 16, "width": 16}, do_center_crop=False, image_mean=half, image_std=half
        )
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        mask_token="<mask>", cls_token="<s>", sep_token="</s>", model_max_length=62,
    )  # fmt: skip


def _text() -> dict[str, Any]:
    return {"vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 64, "pad_token_id": 1}


def _small_objective(config_class: Any) -> dict[str, Any]:
    return {**config_class.default_objective, "top_k_layers": 2}
