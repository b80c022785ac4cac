"""The original's configuration of data2vec 2.0 -> ours, with the objective's numbers."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from ..configuration_data2vec2 import (
    Data2Vec2AudioConfig,
    Data2Vec2Config,
    Data2Vec2TextConfig,
    Data2Vec2VisionConfig,
)
from .fairseq_v1 import (
    Notes,
    classification_head,
    conv_layers,
    ctc_head,
    get,
    labels_of,
    refuse_unless,
    rows_of,
    shared_objective,
)


CONFIGS: dict[str, type[Data2Vec2Config]] = {
    "audio": Data2Vec2AudioConfig,
    "image": Data2Vec2VisionConfig,
    "text": Data2Vec2TextConfig,
}
# what only pretraining, or a run's regularisation, would notice; the rest of the switches is the network
OF_TRAINING = {
    "dropout_input", "shared_decoder", "recon_loss", "d2v_loss", "local_grad_mult", "keep_masked_pct", "mask_dropout",
    "mask_prob_min", "add_masks", "remove_masks", "mask_channel_prob", "encoder_zero_mask", "add_positions_masked",
    "add_positions_all", "projection_ratio", "learned_alibi_scale", "transformer_decoder", "enc_dec_transformer",
}  # fmt: skip


def modality_of(tensors: dict[str, Tensor]) -> str:
    """ "audio", "image" or "text", by the encoder that is there."""
    names = [name.partition("modality_encoders.")[2] for name in tensors if "modality_encoders." in name]
    found = sorted({name.partition(".")[0].lower() for name in names})
    if len(found) != 1 or found[0] not in CONFIGS:
        raise ValueError(f"the checkpoint has encoders of the modalities {found}: only one can be converted.")
    return found[0]


def config2(
    m: dict[str, Any],
    tensors: dict[str, Tensor],
    cfg: dict[str, Any],
    modality: str,
    tuned: bool = False,
    **kwargs: Any,
) -> tuple[PreTrainedConfig, Notes]:
    """Args: `cfg`, the whole configuration that `m`, its model, is part of; `kwargs`, fields of a head."""
    part = get(get(m, "modalities"), modality, "model.modalities")
    decoder = part.get("decoder") or {}
    switches = {**m, **part, **decoder}
    if tuned:
        switches = {name: value for name, value in switches.items() if name not in OF_TRAINING}
    config_class = CONFIGS[modality]
    config_class.check_original_switches(switches)
    fields: dict[str, Any] = {
        "hidden_size": get(m, "embed_dim"),
        "num_hidden_layers": get(m, "depth"),
        "num_prenet_layers": get(part, "prenet_depth", f"modalities.{modality}"),
        "num_extra_tokens": part.get("num_extra_tokens", 0),
        "num_attention_heads": get(m, "num_heads"),
        "intermediate_size": int(get(m, "embed_dim") * get(m, "mlp_ratio")),
        "layer_norm_eps": float(get(m, "norm_eps")),
        "hidden_dropout": m.get("encoder_dropout", 0.1),
        "attention_dropout": m.get("attention_dropout", 0.1),
        "activation_dropout": m.get("activation_dropout", 0.0),
        "layerdrop": m.get("layerdrop", 0.0),
        "drop_path_rate": m.get("end_drop_path_rate", 0.0),
        **LOCAL[modality](part, tensors),
        **kwargs,
    }
    if tuned:  # the encoder reads one number of it
        fields["objective"] = config_class.default_objective | {"original_padding": True}
    else:
        fields["objective"] = _objective(m, part, cfg, modality)
    return config_class(**fields), _notes(m, part)


def _notes(m: dict[str, Any], part: dict[str, Any]) -> Notes:
    """Dropout rates that the original has twice, and ours once."""
    pairs = [
        ("post_mlp_drop", m.get("post_mlp_drop"), "encoder_dropout", m.get("encoder_dropout")),
        ("prenet_dropout", part.get("prenet_dropout"), "encoder_dropout", m.get("encoder_dropout")),
        ("prenet_layerdrop", part.get("prenet_layerdrop"), "layerdrop", m.get("layerdrop")),
        ("start_drop_path_rate", m.get("start_drop_path_rate"), "0", 0),
    ]
    prenet = bool(part.get("prenet_depth"))
    return [
        f"{name} = {value} is left out: {other} = {used} takes its place."
        for name, value, other, used in pairs
        if value is not None and value != used and (prenet or not name.startswith("prenet"))
    ]


def _audio(part: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    convs = conv_layers(get(part, "feature_encoder_spec", "modalities.audio"))
    depth = get(part, "conv_pos_depth", "modalities.audio")
    return {
        "conv_dim": [conv[0] for conv in convs],
        "conv_kernel": [conv[1] for conv in convs],
        "conv_stride": [conv[2] for conv in convs],
        "num_conv_pos_embeddings": depth,
        "conv_pos_kernel_size": max(3, get(part, "conv_pos_width", "modalities.audio") // depth),
        "num_conv_pos_embedding_groups": get(part, "conv_pos_groups", "modalities.audio"),
    }


def _image(part: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "image_size": get(part, "input_size", "modalities.image"),
        "patch_size": get(part, "patch_size", "modalities.image"),
        "num_channels": part.get("in_chans", 3),
    }


def _text(part: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    stem = next(
        (name for name in tensors if name.endswith("local_encoder.embed_tokens.weight")), "embed_tokens.weight"
    )
    return {
        "vocab_size": rows_of(tensors, stem),
        "max_position_embeddings": rows_of(tensors, stem.replace("embed_tokens", "embed_positions")),
    }


LOCAL = {"audio": _audio, "image": _image, "text": _text}


def _objective(m: dict[str, Any], part: dict[str, Any], cfg: dict[str, Any], modality: str) -> dict[str, Any]:
    decoder = get(part, "decoder", f"modalities.{modality}")
    scope = "all" if part.get("ema_local_encoder") else "encoder"
    views, cls_loss = m.get("clone_batch", 1), m.get("cls_loss", 0)
    samples = (cfg.get("dataset") or {}).get("batch_size")
    if cls_loss and not samples:
        raise ValueError(
            f"model.cls_loss = {cls_loss} is relative to dataset.batch_size, which is missing from the checkpoint's "
            "configuration."
        )
    return shared_objective(m) | {
        "masking": _masking(part, (cfg.get("task") or {}).get("precompute_mask_config") or {}),
        "views": views,
        "target_tap": "end_of_block" if m.get("end_of_block_targets") else "ffn",
        "cls_loss_weight": cls_loss * samples * views if cls_loss else 0.0,
        # the head of images has one layer whatever the field says
        "head_layers": 1 if modality == "image" else decoder.get("projection_layers", 1),
        "decoder": {
            "dim": get(decoder, "decoder_dim", "decoder"),
            "layers": get(decoder, "decoder_layers", "decoder"),
            "kernel": get(decoder, "decoder_kernel", "decoder"),
            "groups": get(decoder, "decoder_groups", "decoder"),
            "residual": decoder.get("decoder_residual", True),
            "input_dropout": decoder.get("input_dropout", 0.1),
        },
        "mask_noise_std": part.get("mask_noise_std", 0.01),
        "ema_scope": "blocks" if m.get("ema_encoder_only", True) else scope,
    }


def _masking(part: dict[str, Any], precomputed: dict[str, Any]) -> dict[str, Any]:
    """What the data set precomputes goes before what the model says."""

    def number(name: str, default: Any) -> Any:
        return precomputed.get(name, part.get(name, default))

    prob, length = number("mask_prob", None), number("mask_length", 1)
    if prob is None:
        raise ValueError("modalities: mask_prob is missing from the checkpoint's configuration.")
    if length == 1:
        return {"method": "random", "prob": prob}
    adjust, inverse = number("mask_prob_adjust", 0.0), bool(number("inverse_mask", False))
    return {"method": "block", "prob": prob, "length": length, "adjust": adjust, "inverse": inverse}


# Fine-tuned: the pretrained model's configuration is inside that of the head


def ctc_config2(cfg: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[PreTrainedConfig, Notes]:
    head, inner = cfg["model"], cfg["model"]["w2v_args"]
    return config2(inner["model"], tensors, inner, "audio", True, **ctc_head(head, tensors))


def text_classification_config2(cfg: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[PreTrainedConfig, Notes]:
    head = cfg["model"]
    inner = get(head, "pretrained_model_args")
    refuse_unless(head, {"pooler_activation_fn": "tanh"}, "our head has tanh")
    labels = labels_of(tensors, classification_head(tensors) + "out_proj.weight")
    labels["classifier_dropout"] = head.get("pooler_dropout", 0.0)
    return config2(inner["model"], tensors, inner, "text", True, **labels)


def image_classification_config2(cfg: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[PreTrainedConfig, Notes]:
    head = cfg["model"]
    inner = get(head, "pretrained_model_args")
    refuse_unless(head, {"use_fc_norm": True}, "our head has a norm")
    mode = str(head.get("prediction_mode", "MEAN_POOLING")).rpartition(".")[2]
    if mode not in ("MEAN_POOLING", "CLS_TOKEN"):
        raise ValueError(f"model.prediction_mode = {mode} is not supported: only MEAN_POOLING and CLS_TOKEN are.")
    fields = labels_of(tensors, "head.weight") | {
        "use_mean_pooling": mode == "MEAN_POOLING",
        "drop_path_rate": head.get("drop_path_rate", 0.0),
    }
    return config2(inner["model"], tensors, inner, "image", True, **fields)
