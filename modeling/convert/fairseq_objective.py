"""Our configurations -> those of the original code: the sections `model` and `task` of its checkpoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from ..configuration_objective import ObjectiveConfig
from .keys import MODALITIES2


# of a process, in the published recipe for images: the original's weight of the CLS loss is relative to it
SAMPLES = 16
EPSILONS = {"audio": 1e-5, "text": 1e-5, "vision": 1e-5, "beit": 1e-6}


def check_expressible(objective: ObjectiveConfig, config: PreTrainedConfig) -> None:
    """Raise a ValueError for an objective that the original code has no switches for."""
    ends = objective.target_tap == "end_of_block" and config.model_type not in ("data2vec-audio", "data2vec-text")
    if objective.target_tap != "ffn" and not ends:
        raise ValueError(
            f"objective.target_tap = {objective.target_tap!r} cannot be written: the original has no such target for "
            f"{config.model_type}."
        )
    if getattr(config, "hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act = {config.hidden_act!r} cannot be written: the original's is 'gelu'.")
    if objective.target_norm == "batch":
        raise ValueError("objective.target_norm = 'batch' cannot be written: the original has no such switch.")
    if objective.teacher_window is not None:
        raise ValueError(
            f"objective.teacher_window = {objective.teacher_window} cannot be written: the original's teacher sees "
            "everything; set it to null, which no weight depends on."
        )


def export_notes(config: PreTrainedConfig, objective: ObjectiveConfig, family: str) -> list[str]:
    """What the original will do a little differently."""
    notes = []
    eps = EPSILONS.get(family, config.layer_norm_eps)
    if config.layer_norm_eps != eps:
        notes.append(f"layer_norm_eps = {config.layer_norm_eps} becomes {eps}, which the original cannot change.")
    if not objective.original_padding:
        notes.append("objective.original_padding = False: in the original padding takes part in the targets.")
    return notes


def _shared(objective: ObjectiveConfig) -> dict[str, Any]:
    norms = ("layer", "instance", "batch")
    return {
        "loss_beta": objective.loss_beta,
        "loss_scale": objective.loss_scale,
        "average_top_k_layers": objective.top_k_layers,
        **{f"{norm}_norm_target_layer": objective.target_layer_norm == norm for norm in norms},
        **{f"{norm}_norm_targets": objective.target_norm == norm for norm in norms[:2]},
        "ema_decay": objective.ema_decay,
        "ema_end_decay": objective.ema_end_decay,
        "ema_anneal_end_step": objective.ema_anneal_steps,
    }


def _convs(config: PreTrainedConfig) -> str:
    return str([tuple(conv) for conv in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)])


def _audio(config: PreTrainedConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    masking, depth = objective.masking.to_dict(), config.num_conv_pos_embeddings
    return {
        "_name": "data2vec_audio",
        "extractor_mode": "layer_norm",
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "activation_fn": "gelu",
        "layer_type": "transformer",
        "dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "encoder_layerdrop": config.layerdrop,
        "dropout_input": config.feat_proj_dropout,
        "dropout_features": config.feat_proj_dropout,
        "layer_norm_first": False,
        "conv_feature_layers": _convs(config),
        "conv_bias": config.conv_bias,
        "mask_prob": masking["prob"],
        "mask_length": masking["length"],
        "conv_pos": config.conv_pos_kernel_size * depth,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "pos_conv_depth": depth,
        "ema_transformer_only": True,
        "ema_layers_only": objective.ema_scope == "blocks",
        "max_update": objective.ema_anneal_steps,
        **_shared(objective),
    }


def _text(config: PreTrainedConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    positions = config.max_position_embeddings - config.pad_token_id - 1
    return {
        "_name": "data2vec_text",
        "max_positions": positions,
        "head_layers": objective.head_layers,
        "transformer": {
            "activation_fn": "gelu",
            "dropout": config.hidden_dropout_prob,
            "attention_dropout": config.attention_probs_dropout_prob,
            "activation_dropout": 0.0,
            "encoder": {
                "embed_dim": config.hidden_size,
                "ffn_embed_dim": config.intermediate_size,
                "layers": config.num_hidden_layers,
                "attention_heads": config.num_attention_heads,
                "normalize_before": False,
                "learned_pos": True,
                "layerdrop": 0.0,
            },
            "max_source_positions": positions,
            "layernorm_embedding": True,
            "no_scale_embedding": True,
        },
        "ema_transformer_layers_only": objective.ema_scope == "blocks",
        # for the original, a number below 0 stands for 1/sqrt(dim)
        **_shared(objective) | {"loss_scale": -1.0 if objective.loss_scale is None else objective.loss_scale},
    }


def _vision(config: PreTrainedConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    masking, patches = objective.masking.to_dict(), (config.image_size // config.patch_size) ** 2
    if config.intermediate_size != 4 * config.hidden_size:
        raise ValueError(
            f"intermediate_size = {config.intermediate_size} cannot be written: the original's is always 4 times "
            f"hidden_size = {config.hidden_size}."
        )
    return {
        "_name": "data2vec_vision",
        "layer_scale_init_value": config.layer_scale_init_value,
        "num_mask_patches": int(masking["ratio"] * patches),
        "min_mask_patches_per_block": masking["min_patches"],
        "max_mask_patches_per_block": masking["max_patches"] or patches,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "in_channels": config.num_channels,
        "shared_rel_pos_bias": config.use_shared_relative_position_bias,
        "drop_path": config.drop_path_rate,
        "attention_dropout": config.attention_probs_dropout_prob,
        "depth": config.num_hidden_layers,
        "embed_dim": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": 4,
        "end_of_block_targets": objective.target_tap == "end_of_block",
        "ema_transformer_only": objective.ema_scope == "blocks",
        **_shared(objective),
    }


def _cfg2(config: PreTrainedConfig, objective: ObjectiveConfig, modality: str) -> dict[str, Any]:
    decoder, views = objective.decoder, objective.views
    assert decoder is not None and views is not None  # of every model of data2vec 2.0
    local: dict[str, Any] = {
        "type": modality.upper(),
        "prenet_depth": config.num_prenet_layers,
        "prenet_layerdrop": config.layerdrop,
        "prenet_dropout": config.hidden_dropout,
        "num_extra_tokens": config.num_extra_tokens,
        "init_extra_token_zero": False,
        "mask_noise_std": objective.mask_noise_std,
        **_masking2(objective),
        "ema_local_encoder": objective.ema_scope == "all",
        "use_alibi_encoder": config.use_alibi,
        "learned_alibi_scale": config.use_alibi,
        "learned_alibi_scale_per_head": config.use_alibi,
        "num_alibi_heads": config.num_attention_heads,
        "model_depth": config.num_hidden_layers,
        "decoder": {
            "decoder_dim": decoder.dim,
            "decoder_groups": decoder.groups,
            "decoder_kernel": decoder.kernel,
            "decoder_layers": decoder.layers,
            "input_dropout": decoder.input_dropout,
            "decoder_residual": decoder.residual,
            "projection_layers": objective.head_layers,
            "projection_ratio": 2.0,
        },
    }
    if modality == "audio":
        depth = config.num_conv_pos_embeddings
        local |= {
            "extractor_mode": "layer_norm",
            "feature_encoder_spec": _convs(config),
            "conv_pos_width": config.conv_pos_kernel_size * depth,
            "conv_pos_groups": config.num_conv_pos_embedding_groups,
            "conv_pos_depth": depth,
            "conv_pos_pre_ln": False,
        }
    elif modality == "image":
        local |= {"input_size": config.image_size, "patch_size": config.patch_size, "in_chans": config.num_channels}
        local |= {"embed_dim": config.hidden_size, "fixed_positions": True}
    else:
        local |= {"max_source_positions": config.max_position_embeddings - config.pad_token_id - 1}
        local |= {"learned_pos": True, "layernorm_embedding": True, "no_scale_embedding": True}
        local |= {"dropout": config.hidden_dropout}
    return {
        "_name": "data2vec_multi",
        "depth": config.num_hidden_layers,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": config.drop_path_rate,
        "num_heads": config.num_attention_heads,
        "norm_eps": config.layer_norm_eps,
        "norm_affine": True,
        "encoder_dropout": config.hidden_dropout,
        "post_mlp_drop": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "dropout_input": 0.0,
        "layerdrop": config.layerdrop,
        "embed_dim": config.hidden_size,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "layer_norm_first": False,
        "end_of_block_targets": objective.target_tap == "end_of_block",
        "clone_batch": views,
        "ema_encoder_only": objective.ema_scope == "blocks",
        "max_update": objective.ema_anneal_steps,
        "modalities": {modality: local},
        "supported_modality": modality.upper(),
        "cls_loss": objective.cls_loss_weight / (SAMPLES * views),
        "seed": 1,
        **_shared(objective),
    }


def _masking2(objective: ObjectiveConfig) -> dict[str, Any]:
    masking = objective.masking.to_dict()
    return {
        "mask_prob": masking["prob"],
        "mask_length": masking.get("length", 1),
        "mask_prob_adjust": masking.get("adjust", 0.0),
        "inverse_mask": masking.get("inverse", False),
    }


def _audio_task(config: PreTrainedConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    task: dict[str, Any] = {"_name": "audio_pretraining", "data": "none", "sample_rate": 16000, "normalize": True}
    if objective.views is not None:
        spec = {"feature_encoder_spec": _convs(config), "clone_batch": objective.views}
        task["precompute_mask_config"] = spec | _masking2(objective)
    return task


def _text_task(config: PreTrainedConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    positions = config.max_position_embeddings - config.pad_token_id - 1
    task: dict[str, Any] = {"_name": "masked_lm", "data": "none", "tokens_per_sample": positions}
    task |= {"include_target_tokens": True, "include_index": True}
    if objective.views is not None:
        return task | {"skip_masking": True, "d2v2_multi": True}
    masking = objective.masking.to_dict()
    return task | {
        "mask_prob": masking["prob"],
        "mask_multiple_length": masking["length"],
        "leave_unmasked_prob": masking["keep_prob"],
        "random_token_prob": masking["random_prob"],
    }


def _image_task(config: PreTrainedConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    if objective.views is None:
        return {"_name": "image_pretraining", "data": "none", "input_size": config.image_size}
    spec = {"patch_size": config.patch_size, "clone_batch": objective.views} | _masking2(objective)
    return {
        "_name": "mae_image_pretraining",
        "data": "none",
        "input_size": config.image_size,
        "precompute_mask_config": spec,
    }


TASKS = {
    "audio": _audio_task,
    "audio2": _audio_task,
    "text": _text_task,
    "text2": _text_task,
    "vision": _image_task,
    "vision2": _image_task,
}
CFGS: dict[str, Callable[[PreTrainedConfig, ObjectiveConfig], dict[str, Any]]] = {
    "audio": _audio,
    "text": _text,
    "vision": _vision,
    **{family: partial(_cfg2, modality=modality) for family, modality in MODALITIES2.items()},
}
