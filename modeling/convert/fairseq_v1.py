"""The original's configuration of data2vec 1 -> `transformers`' configurations, with the objective's numbers.

Every function takes the plain configuration of a checkpoint and its tensors. A switch that cannot be expressed is a
ValueError that names it; what only training would notice is a note for the model card.
"""

import ast
import math
from typing import Any

from torch import Tensor
from transformers import Data2VecAudioConfig, Data2VecTextConfig, Data2VecVisionConfig, PreTrainedConfig


Notes = list[str]
MISSING = object()


def get(values: dict[str, Any], name: str, section: str = "model", default: Any = MISSING) -> Any:
    """One field of the original's configuration; a ValueError where it has to be there and is not."""
    value = values.get(name, default)
    if value is MISSING or (value is None and default is MISSING):
        raise ValueError(f"{section}.{name} is missing from the checkpoint's configuration.")
    return value


def refuse_unless(values: dict[str, Any], expected: dict[str, Any], why: str, section: str = "model") -> None:
    """Raise a ValueError that names the first field with another value; a field that is not there is passed over."""
    for name, built in expected.items():
        if values.get(name, built) != built:
            raise ValueError(f"{section}.{name} = {values[name]!r} is not supported: {why}; only {built!r} is.")


def rows_of(tensors: dict[str, Tensor], name: str) -> int:
    if name not in tensors:
        raise ValueError(f"the checkpoint has no tensor {name}.")
    return len(tensors[name])


def conv_layers(spec: Any) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution of a spec like "[(512, 10, 5)] + [(512, 3, 2)] * 4"."""

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Tuple | ast.List):
            return [value(entry) for entry in node.elts]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
            left, right = value(node.left), value(node.right)
            return left + right if isinstance(node.op, ast.Add) else left * right
        raise ValueError

    try:
        layers = [(int(c), int(k), int(s)) for c, k, s in value(ast.parse(str(spec), mode="eval"))]
    except (ValueError, TypeError, SyntaxError) as error:
        raise ValueError(
            f"the convolutions {spec!r} cannot be read: expected [(channels, kernel, stride), ...]."
        ) from error
    return layers


def target_norms(m: dict[str, Any]) -> dict[str, str | None]:
    """Fields of the objective; the original can stack several normalisations, which no recipe does."""
    refuse_unless(m, {"group_norm_target_layer": False}, "no recipe uses it")
    found: dict[str, str | None] = {}
    for ours, suffix in (("target_layer_norm", "_norm_target_layer"), ("target_norm", "_norm_targets")):
        names = [name + suffix for name in ("instance", "layer", "batch") if m.get(name + suffix)]
        if len(names) > 1:
            raise ValueError(f"model.{names[0]} and model.{names[1]} are both on: only one of them is supported.")
        found[ours] = names[0].removesuffix(suffix) if names else None
    return found


def shared_objective(m: dict[str, Any]) -> dict[str, Any]:
    scale = m.get("loss_scale")
    return {
        "top_k_layers": get(m, "average_top_k_layers"),
        **target_norms(m),
        "original_padding": True,  # the folder answers as the checkpoint did, in padded batches too
        "loss_beta": m.get("loss_beta", 0),
        "loss_scale": None if scale is None or scale <= 0 else scale,
        "ema_decay": get(m, "ema_decay"),
        "ema_end_decay": get(m, "ema_end_decay"),
        "ema_anneal_steps": int(get(m, "ema_anneal_end_step")),
    }


# Speech

AUDIO_SWITCHES = {
    "layer_norm_first": False,
    "layer_type": "transformer",
    "activation_fn": "gelu",
}


def audio_config(m: dict[str, Any], tensors: dict[str, Tensor], cfg: dict[str, Any]) -> tuple[PreTrainedConfig, Notes]:
    return Data2VecAudioConfig(**audio_encoder(m) | {"objective": audio_objective(m)}), []


def audio_encoder(m: dict[str, Any]) -> dict[str, Any]:
    if get(m, "extractor_mode", default="default") != "layer_norm":
        raise ValueError(
            f"model.extractor_mode = {m.get('extractor_mode', 'default')!r} is not supported: transformers' encoder "
            "has no group-norm front end; only 'layer_norm' is."
        )
    refuse_unless(m, AUDIO_SWITCHES, "transformers' encoder is post-norm and has no other blocks")
    if (m.get("adp_num") or -1) > 0:
        raise ValueError(f"model.adp_num = {m['adp_num']} is not supported: transformers' encoder has no adapters.")
    depth = get(m, "pos_conv_depth", default=1)
    if depth < 2:
        raise ValueError(
            f"model.pos_conv_depth = {depth} is not supported: transformers' encoder has stacked positional "
            "convolutions; only 2 and more are."
        )
    convs = conv_layers(get(m, "conv_feature_layers"))
    return {
        "hidden_size": get(m, "encoder_embed_dim"),
        "num_hidden_layers": get(m, "encoder_layers"),
        "num_attention_heads": get(m, "encoder_attention_heads"),
        "intermediate_size": get(m, "encoder_ffn_embed_dim"),
        "conv_dim": [conv[0] for conv in convs],
        "conv_kernel": [conv[1] for conv in convs],
        "conv_stride": [conv[2] for conv in convs],
        "conv_bias": bool(m.get("conv_bias", False)),
        "num_conv_pos_embeddings": depth,
        "conv_pos_kernel_size": max(3, get(m, "conv_pos") // depth),
        "num_conv_pos_embedding_groups": get(m, "conv_pos_groups"),
        "hidden_dropout": m.get("dropout", 0.1),
        "attention_dropout": m.get("attention_dropout", 0.1),
        "activation_dropout": m.get("activation_dropout", 0.0),
        "feat_proj_dropout": m.get("dropout_input", 0.0),
        "layerdrop": m.get("encoder_layerdrop", 0.0),
        "layer_norm_eps": 1e-5,
    }


def audio_objective(m: dict[str, Any]) -> dict[str, Any]:
    masks = {"mask_selection": "static", "no_mask_overlap": False, "mask_channel_prob": 0, "mask_dropout": 0}
    refuse_unless(m, masks, "no recipe of pretraining uses it")
    layers_only, transformer_only = m.get("ema_layers_only", True), m.get("ema_transformer_only", True)
    if not layers_only and not transformer_only:
        raise ValueError("model.ema_transformer_only = False is not supported: no recipe of speech uses it.")
    return shared_objective(m) | {
        "masking": {"method": "span", "prob": get(m, "mask_prob"), "length": get(m, "mask_length")},
        "ema_scope": "blocks" if layers_only else "encoder",
    }


def spec_augment(m: dict[str, Any]) -> dict[str, Any]:
    """Masks of frames and channels in fine-tuning with CTC."""
    on = bool(m.get("apply_mask", False))
    return {
        "mask_time_prob": m.get("mask_prob", 0.0) if on else 0.0,
        "mask_time_length": m.get("mask_length", 10),
        "mask_feature_prob": m.get("mask_channel_prob", 0.0) if on else 0.0,
        "mask_feature_length": m.get("mask_channel_length", 10),
    }


def ctc_head(head: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The blank is token 0, `<s>` in the original's dictionary."""
    refuse_unless(head, {"blank_weight": 0}, "transformers' head adds nothing to the blank")
    return {
        "vocab_size": rows_of(tensors, "w2v_encoder.proj.weight"),
        "pad_token_id": 0,
        "final_dropout": head.get("final_dropout", 0.0),
        **spec_augment(head),
    }


def audio_ctc_config(cfg: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[PreTrainedConfig, Notes]:
    head = cfg["model"]
    inner = head["w2v_args"]["model"]
    tokens: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
    return Data2VecAudioConfig(**audio_encoder(inner), **ctc_head(head, tensors), **tokens), []


# Text


def text_config(m: dict[str, Any], tensors: dict[str, Tensor], cfg: dict[str, Any]) -> tuple[PreTrainedConfig, Notes]:
    task = cfg.get("task", {})
    refuse_unless(task, {"mask_whole_words": False, "mask_stdev": 0}, "no recipe uses it", "task")
    objective = shared_objective(m) | {
        "masking": {
            "method": "token",
            "prob": get(task, "mask_prob", "task"),
            "length": max(1, task.get("mask_multiple_length", 1)),
            "keep_prob": task.get("leave_unmasked_prob", 0.1),
            "random_prob": task.get("random_token_prob", 0.1),
        },
        "head_layers": m.get("head_layers", 1),
        "ema_scope": "blocks" if m.get("ema_transformer_layers_only", True) else "all",
    }
    encoder, notes = text_encoder(m, tensors)
    return Data2VecTextConfig(**encoder | {"objective": objective}), notes


def text_encoder(m: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], Notes]:
    nested = m.get("transformer")
    t: dict[str, Any] = nested or m  # RoBERTa's, in fine-tuning, is flat
    encoder = t["encoder"] if nested else {n.removeprefix("encoder_"): v for n, v in m.items() if "encoder_" in n}
    section = "model.transformer" if nested else "model"
    refuse_unless(encoder, {"normalize_before": False, "learned_pos": True}, "no recipe uses it", f"{section}.encoder")
    switches = {"layernorm_embedding": True, "no_scale_embedding": True, "no_token_positional_embeddings": False}
    refuse_unless(t, switches, "transformers' encoder has no such switch", section)
    refuse_unless(t, {"activation_fn": "gelu", "adaptive_input": False}, "no recipe uses it", section)
    notes = [
        f"{name} = {values[name]} is left out: transformers' text encoder has none."
        for values, name in ((t, "activation_dropout"), (encoder, "layerdrop"))
        if values.get(name)
    ]
    stem = "encoder.sentence_encoder.embed_"
    return {
        "vocab_size": rows_of(tensors, f"{stem}tokens.weight"),
        "max_position_embeddings": rows_of(tensors, f"{stem}positions.weight"),
        "hidden_size": get(encoder, "embed_dim", f"{section}.encoder"),
        "num_hidden_layers": get(encoder, "layers", f"{section}.encoder"),
        "num_attention_heads": get(encoder, "attention_heads", f"{section}.encoder"),
        "intermediate_size": get(encoder, "ffn_embed_dim", f"{section}.encoder"),
        "hidden_dropout_prob": t.get("dropout", 0.1),
        "attention_probs_dropout_prob": t.get("attention_dropout", 0.1),
        "type_vocab_size": 1,  # the original has none: its one row is zero
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }, notes


def labels_of(tensors: dict[str, Tensor], name: str) -> dict[str, Any]:
    """One label is a regression (STS-B)."""
    labels = rows_of(tensors, name)
    return {"num_labels": labels, "problem_type": "regression" if labels == 1 else "single_label_classification"}


def classification_head(tensors: dict[str, Tensor]) -> str:
    heads = sorted({name.split(".")[1] for name in tensors if name.startswith("classification_heads.")})
    if len(heads) != 1:
        raise ValueError(f"the checkpoint has {len(heads)} classification heads {heads}: only one can be converted.")
    return f"classification_heads.{heads[0]}."


def text_classification_config(cfg: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[PreTrainedConfig, Notes]:
    m = cfg["model"]
    refuse_unless(m, {"pooler_activation_fn": "tanh"}, "transformers' head has tanh")
    encoder, notes = text_encoder(m, tensors)
    labels = labels_of(tensors, classification_head(tensors) + "out_proj.weight")
    return Data2VecTextConfig(**encoder, **labels, classifier_dropout=m.get("pooler_dropout", 0.0)), notes


# Vision, as fairseq has it; the published one is in `fairseq_config_beit`


def mask_ratio(hidden: int, patches: int) -> float:
    """The share of patches of which `int(ratio * patches)` is exactly `hidden`."""
    ratio = hidden / patches
    return ratio if int(ratio * patches) == hidden else math.nextafter(ratio, 1)


def vision_config(
    m: dict[str, Any], tensors: dict[str, Tensor], cfg: dict[str, Any]
) -> tuple[PreTrainedConfig, Notes]:
    size, patch = m.get("image_size", 224), m.get("patch_size", 16)
    scale = m.get("layer_scale_init_value", 1e-4)
    masking = {
        "method": "beit_block",
        "ratio": mask_ratio(m.get("num_mask_patches", 75), (size // patch) ** 2),
        "min_patches": m.get("min_mask_patches_per_block", 16),
        "max_patches": m.get("max_mask_patches_per_block", 196),
    }
    objective = shared_objective(m) | {
        "masking": masking,
        "target_tap": "end_of_block" if m.get("end_of_block_targets", True) else "ffn",
        "head_layers": 0,  # the original has one and does not use it
        "ema_scope": "blocks" if m.get("ema_transformer_only", True) else "all",
    }
    fields: dict[str, Any] = {
        "hidden_size": get(m, "embed_dim"),
        "num_hidden_layers": get(m, "depth"),
        "num_attention_heads": get(m, "num_heads"),
        "intermediate_size": rows_of(tensors, "encoder.blocks.0.mlp.0.weight"),  # the original ignores its mlp_ratio
        "image_size": size,
        "patch_size": patch,
        "num_channels": m.get("in_channels", 3),
        "layer_norm_eps": 1e-5,
        "layer_scale_init_value": float(scale or 0),
        "use_shared_relative_position_bias": bool(m.get("shared_rel_pos_bias", True)),
        "use_mask_token": True,
        "use_mean_pooling": False,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": m.get("attention_dropout", 0.0),
        "drop_path_rate": m.get("drop_path", 0.1),
        "objective": objective,
    }
    return Data2VecVisionConfig(**fields), []
