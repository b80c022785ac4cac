"""fairseq's checkpoints of data2vec 2.0 (`data2vec_multi`): one modality each, and the tasks' heads around it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2Config, Data2Vec2TextConfig, Data2Vec2VisionConfig
from ..configuration_objective import ObjectiveConfig
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
from . import original
from .fairseq_audio import TASK as AUDIO_TASK
from .fairseq_multi_keys import LOCAL_ROWS, rows_of_modality, shaped, shaped_back
from .fairseq_text import EMBEDDINGS, text_task
from .keys import Rows
from .original import Fields, number, optional_part, part_of, read_fields, write_fields
from .source import Configured, Source, Tensors, Tuned, Values


NAME = "data2vec_multi"
ENCODER: Fields = [
    ("embed_dim", "hidden_size"),
    ("depth", "num_hidden_layers"),
    ("num_heads", "num_attention_heads"),
    ("norm_eps", "layer_norm_eps"),
    ("encoder_dropout", "hidden_dropout", 0.1),
    ("attention_dropout", "attention_dropout", 0.1),
    ("activation_dropout", "activation_dropout", 0.0),
    ("layerdrop", "layerdrop", 0.0),
    ("end_drop_path_rate", "drop_path_rate", 0.0),
]
LOCAL: Fields = [("prenet_depth", "num_prenet_layers"), ("num_extra_tokens", "num_extra_tokens", 0)]
AUDIO_LOCAL: Fields = [
    ("conv_pos_depth", "num_conv_pos_embeddings"),
    ("conv_pos_groups", "num_conv_pos_embedding_groups"),
]
IMAGE_LOCAL: Fields = [
    ("input_size", "image_size"),
    ("patch_size", "patch_size"),
    ("in_chans", "num_channels", 3),
]
DECODER: Fields = [
    ("decoder_dim", "dim"),
    ("decoder_layers", "layers"),
    ("decoder_kernel", "kernel"),
    ("decoder_groups", "groups"),
    ("decoder_residual", "residual", True),
    ("input_dropout", "input_dropout", 0.1),
]
# what only pretraining, or a run's regularisation, would notice; the rest of the switches is the network
OF_TRAINING = {
    "dropout_input", "shared_decoder", "recon_loss", "d2v_loss", "local_grad_mult", "keep_masked_pct", "mask_dropout",
    "mask_prob_min", "add_masks", "remove_masks", "mask_channel_prob", "encoder_zero_mask", "add_positions_masked",
    "add_positions_all", "projection_ratio", "learned_alibi_scale", "transformer_decoder", "enc_dec_transformer",
    "expand_adjacent", "non_overlapping", "flexible_mask", "adversarial_training",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A modality of `data2vec_multi`, and what we make of it.

    Attributes:
        modality: its name in the original: audio, image or text.
        config_class: ours.
        fields: its section and the tensors -> fields of our configuration that others do not have.
        cfg: our configuration and the masks -> those of its section, and of the task, in the original.
        samples: of a process in the published recipe, which the original's weight of the CLS loss is relative to.
    """

    modality: str
    config_class: type[Data2Vec2Config]
    fields: Callable[[Values, Tensors], Values]
    cfg: Callable[[Any, Values], tuple[Values, Values]]
    samples: int = 16


def modality_of(tensors: Tensors) -> str:
    """ "audio", "image" or "text", by the encoder that is there."""
    names = [name.partition("modality_encoders.")[2] for name in tensors if "modality_encoders." in name]
    found = sorted({name.partition(".")[0].lower() for name in names})
    if len(found) != 1 or found[0] not in LOCAL_ROWS:
        raise ValueError(f"the checkpoint has encoders of the modalities {found}: only one can be converted.")
    return found[0]


# ---- configuration ----


def config(cfg: Values, tensors: Tensors, kind: Kind, tuned: bool = False, **head: Any) -> Configured:
    """Args: `head`, fields of a task's head, around a model that has this configuration."""
    m = part_of(cfg, "model", "cfg")
    part = part_of(part_of(m, "modalities"), kind.modality, "model.modalities")
    task = optional_part(cfg, "task")
    switches = task | m | part | optional_part(part, "decoder") | optional_part(task, "precompute_mask_config")
    if tuned:
        switches = {name: value for name, value in switches.items() if name not in OF_TRAINING}
    config_class = kind.config_class
    config_class.check_original_switches(switches)
    original.refuse_unless(m, {"layer_norm_first": False}, "the original drops a residual there")
    found = read_fields(m, ENCODER) | read_fields(part, LOCAL, f"modalities.{kind.modality}")
    fields: Values = found | {
        "layer_norm_eps": float(found["layer_norm_eps"]),
        "intermediate_size": int(found["hidden_size"] * number(m, "mlp_ratio")),
        **kind.fields(part, tensors),
        **head,
    }
    if tuned:  # the encoder reads one number of it
        fields["objective"] = config_class.default_objective | {"original_padding": True}
    else:
        fields["objective"] = _objective(m, part, cfg, kind.modality)
    return config_class(**fields), _notes(m, part)


def _notes(m: Values, part: Values) -> list[str]:
    """Dropout rates that the original has twice, and ours once."""
    dropout, layerdrop = (number(m, name, default=None) for name in ("encoder_dropout", "layerdrop"))
    pairs = [
        (m, "post_mlp_drop", "encoder_dropout", dropout),
        (m, "start_drop_path_rate", "0", 0),
    ]
    if part.get("prenet_depth"):
        pairs += [(part, "prenet_dropout", "encoder_dropout", dropout)]
        pairs += [(part, "prenet_layerdrop", "layerdrop", layerdrop)]
    return [
        f"{name} = {value} is left out: {other} = {used} takes its place."
        for values, name, other, used in pairs
        if (value := number(values, name, default=None)) is not None and value != used
    ]


def _audio(part: Values, tensors: Tensors) -> Values:
    section = "modalities.audio"
    found = read_fields(part, AUDIO_LOCAL, section)
    width = number(part, "conv_pos_width", section)
    return found | original.conv_fields(part.get("feature_encoder_spec"), width, found["num_conv_pos_embeddings"])


def _image(part: Values, tensors: Tensors) -> Values:
    return read_fields(part, IMAGE_LOCAL, "modalities.image")


def _text(part: Values, tensors: Tensors) -> Values:
    ending = "local_encoder.embed_tokens.weight"
    stem = next((name for name in tensors if name.endswith(ending)), ending)
    return {
        "vocab_size": original.rows_of(tensors, stem),
        "max_position_embeddings": original.rows_of(tensors, stem.replace("embed_tokens", "embed_positions")),
    }


def _objective(m: Values, part: Values, cfg: Values, modality: str) -> Values:
    decoder = part_of(part, "decoder", f"modalities.{modality}")
    scope = "all" if part.get("ema_local_encoder") else "encoder"
    views, cls_loss = number(m, "clone_batch", default=1), number(m, "cls_loss", default=0)
    samples = number(optional_part(cfg, "dataset"), "batch_size", "dataset", 0)
    if cls_loss and not samples:
        raise ValueError(
            f"model.cls_loss = {cls_loss} is relative to dataset.batch_size, which is missing from the checkpoint's "
            "configuration."
        )
    return original.read_objective(m) | {
        # what the data set precomputes goes before what the model says
        "masking": _masking(part | optional_part(optional_part(cfg, "task"), "precompute_mask_config")),
        "views": views,
        "target_tap": "end_of_block" if m.get("end_of_block_targets") else "ffn",
        "cls_loss_weight": cls_loss * samples * views if cls_loss else 0.0,
        # the head of images has one layer whatever the field says
        "head_layers": 1 if modality == "image" else number(decoder, "projection_layers", "decoder", 1),
        "decoder": read_fields(decoder, DECODER, "decoder"),
        "mask_noise_std": number(part, "mask_noise_std", default=0.01),
        "ema_scope": "blocks" if m.get("ema_encoder_only", True) else scope,
    }


def _masking(values: Values) -> Values:
    prob, length = (
        number(values, "mask_prob", "modalities"),
        number(values, "mask_length", "modalities", 1),
    )
    if length == 1:
        return {"method": "random", "prob": prob}
    adjust, inverse = number(values, "mask_prob_adjust", "modalities", 0.0), bool(values.get("inverse_mask"))
    return {"method": "block", "prob": prob, "length": length, "adjust": adjust, "inverse": inverse}


# Fine-tuned: the pretrained model's configuration is inside that of the head


def ctc_config(cfg: Values, tensors: Tensors) -> Configured:
    head = cfg["model"]
    return config(part_of(head, "w2v_args"), tensors, AUDIO_KIND, True, **original.ctc_head(head, tensors))


def text_config(cfg: Values, tensors: Tensors) -> Configured:
    head = cfg["model"]
    return config(
        part_of(head, "pretrained_model_args"), tensors, TEXT_KIND, True, **original.text_head(head, tensors)
    )


def image_config(cfg: Values, tensors: Tensors) -> Configured:
    head = cfg["model"]
    original.refuse_unless(head, {"use_fc_norm": True}, "our head has a norm")
    mode = str(head.get("prediction_mode", "MEAN_POOLING")).rpartition(".")[2]
    if mode not in ("MEAN_POOLING", "CLS_TOKEN"):
        raise ValueError(f"model.prediction_mode = {mode} is not supported: only MEAN_POOLING and CLS_TOKEN are.")
    fields = original.labels_of(tensors, "head.weight") | {
        "use_mean_pooling": mode == "MEAN_POOLING",
        "drop_path_rate": number(head, "drop_path_rate", default=0.0),
    }
    return config(part_of(head, "pretrained_model_args"), tensors, IMAGE_KIND, True, **fields)


# ---- back ----


def to_cfg(config: PreTrainedConfig, objective: ObjectiveConfig, kind: Kind) -> Values:
    decoder, views, masking = objective.decoder, objective.views, objective.masking.to_dict()
    assert decoder is not None and views is not None  # of every model of data2vec 2.0
    masks = {
        "mask_prob": masking["prob"],
        "mask_length": masking.get("length", 1),
        "mask_prob_adjust": masking.get("adjust", 0.0),
        "inverse_mask": masking.get("inverse", False),
    }
    own, task = kind.cfg(config, {"clone_batch": views, **masks})
    local = write_fields(config, LOCAL) | masks | own
    local |= {
        "type": kind.modality.upper(),
        "prenet_layerdrop": config.layerdrop,
        "prenet_dropout": config.hidden_dropout,
        "init_extra_token_zero": config.first_extra_token_is_zero,
        "mask_noise_std": objective.mask_noise_std,
        "ema_local_encoder": objective.ema_scope == "all",
        "use_alibi_encoder": config.use_alibi,
        "learned_alibi_scale": config.use_alibi,
        "learned_alibi_scale_per_head": config.use_alibi,
        "num_alibi_heads": config.num_attention_heads,
        "model_depth": config.num_hidden_layers,
        "decoder": write_fields(decoder, DECODER)
        | {"projection_layers": objective.head_layers, "projection_ratio": 2.0},
    }
    model = write_fields(config, ENCODER) | original.write_objective(objective)
    model |= {
        "_name": NAME,
        "max_update": objective.ema_anneal_steps,
        "start_drop_path_rate": 0.0,
        "norm_affine": True,
        "post_mlp_drop": config.hidden_dropout,
        "dropout_input": 0.0,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "layer_norm_first": False,
        "end_of_block_targets": objective.target_tap == "end_of_block",
        "clone_batch": views,
        "ema_encoder_only": objective.ema_scope == "blocks",
        "modalities": {kind.modality: local},
        "supported_modality": kind.modality.upper(),
        "cls_loss": objective.cls_loss_weight / (kind.samples * views),
        "seed": 1,
    }
    dataset = {"batch_size": kind.samples} if objective.cls_loss_weight else {}
    return {"model": model, "task": task, "dataset": dataset}


def _audio_cfg(config: Any, masks: Values) -> tuple[Values, Values]:
    spec = {"feature_encoder_spec": original.conv_spec(config)}
    local = write_fields(config, AUDIO_LOCAL) | spec | {"extractor_mode": "layer_norm", "conv_pos_pre_ln": False}
    local["conv_pos_width"] = config.conv_pos_kernel_size * config.num_conv_pos_embeddings
    return local, AUDIO_TASK | {"precompute_mask_config": spec | masks}


def _image_cfg(config: Any, masks: Values) -> tuple[Values, Values]:
    local = write_fields(config, IMAGE_LOCAL) | {"embed_dim": config.hidden_size, "fixed_positions": True}
    task = {"_name": "mae_image_pretraining", "data": "none", "input_size": config.image_size}
    return local, task | {"precompute_mask_config": {"patch_size": config.patch_size, **masks}}


def _text_cfg(config: Any, masks: Values) -> tuple[Values, Values]:
    positions = config.max_position_embeddings - config.pad_token_id - 1
    local = EMBEDDINGS | {"max_source_positions": positions, "learned_pos": True, "dropout": config.hidden_dropout}
    return local, text_task(positions) | {"skip_masking": True, "d2v2_multi": True}


AUDIO_KIND = Kind("audio", Data2Vec2AudioConfig, _audio, _audio_cfg)
IMAGE_KIND = Kind("image", Data2Vec2VisionConfig, _image, _image_cfg)
TEXT_KIND = Kind("text", Data2Vec2TextConfig, _text, _text_cfg)


def source(
    kind: Kind,
    words: str,
    encoder: type[PreTrainedModel],
    pretrained: type[PreTrainedModel],
    tuned: Tuned,
    older: tuple[tuple[str, str], ...] = (),
) -> Source:
    """What the sources of `data2vec_multi` share."""
    modality, student = kind.modality, f"{encoder.base_model_prefix}."
    return Source(
        words=words,
        arxiv="2212.07525",
        is_source=lambda name, section, tensors: name == NAME and modality_of(tensors) == modality,
        is_ours=lambda config: type(config) is kind.config_class,
        student=student,
        rows=rows_of_modality(modality, student=student),
        encoder=encoder,
        pretrained=pretrained,
        config=partial(config, kind=kind),
        tuned=tuned,
        older=older,
        shaped=shaped,
        to_cfg=partial(to_cfg, kind=kind),
        rows_back=lambda objective: rows_of_modality(modality, objective.head_layers, objective.ema_scope, student),
        shaped_back=partial(shaped_back, flat=modality != "image"),
    )


OLDER_IMAGE = (
    (r"^((_ema\.)?)module\.", r"\1"),
    (r"\.positional_encoder\.(pos_embed|positions)$", ".fixed_positional_encoder.positions"),
)
IMAGE_HEAD: Rows = [("fc_norm.", "norm."), ("head.", "classifier.")]
TEXT_HEAD: Rows = [
    ("classification_heads.{name}.dense.", "dense."),
    ("classification_heads.{name}.out_proj.", "classifier."),
]
AUDIO2 = source(
    AUDIO_KIND,
    "data2vec 2.0 in speech",
    Data2Vec2AudioModel,
    Data2Vec2AudioForPreTraining,
    Tuned(Data2Vec2AudioForCTC, ctc_config, "w2v_encoder.w2v_model.", [("w2v_encoder.proj.", "lm_head.")]),
)
VISION2 = source(
    IMAGE_KIND,
    "data2vec 2.0 in vision",
    Data2Vec2VisionModel,
    Data2Vec2VisionForPreTraining,
    Tuned(Data2Vec2VisionForImageClassification, image_config, "model.", IMAGE_HEAD),
    OLDER_IMAGE,
)
TEXT2 = source(
    TEXT_KIND,
    "data2vec 2.0 in language",
    Data2Vec2TextModel,
    Data2Vec2TextForPreTraining,
    Tuned(Data2Vec2TextForSequenceClassification, text_config, "model.", TEXT_HEAD),
)
