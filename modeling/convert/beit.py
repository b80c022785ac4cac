"""Checkpoints of the data2vec_vision repository (data2vec 1 in vision as published) and its classifier.

They hold the arguments of the command line in a namespace; sizes are read off the weights.
"""

import math
import re
from functools import partial
from typing import Any

from transformers import (
    Data2VecVisionConfig,
    Data2VecVisionForImageClassification,
    Data2VecVisionModel,
    PreTrainedConfig,
)

from ..configuration_objective import ObjectiveConfig
from ..modeling_data2vec_vision import Data2VecVisionForPreTraining
from . import original
from .fairseq_vision import ATTENTION_ROWS, position_indices
from .keys import Rows, under
from .original import Fields, number, read_fields, write_fields
from .source import Configured, Source, Tensors, Tuned, Values


HEADS = {"base": 12, "large": 16, "huge": 16}
TAPS = {"end": "end_of_block", "fc": "ffn"}
DROPOUT: Fields = [
    ("attn_drop_rate", "attention_probs_dropout_prob", 0.0),
    ("drop_path", "drop_path_rate", 0.1),
]
SHARED = "rel_pos_bias.relative_position_bias_table"

ENCODER_ROWS: Rows = [
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    (SHARED, "encoder.relative_position_bias.relative_position_bias_table"),
    *under(
        "blocks.{n}.",
        "encoder.layer.{n}.",
        [
            *ATTENTION_ROWS,
            (
                "attn.relative_position_bias_table",
                "attention.attention.relative_position_bias.relative_position_bias_table",
            ),
            ("mlp.fc1.", "intermediate.dense."),
            ("mlp.fc2.", "output.dense."),
        ],
    ),
    ("norm.", "layernorm."),
]
ROWS: Rows = [
    *under("", "data2vec_vision.", ENCODER_ROWS),
    *under("_ema.", "teacher.", ENCODER_ROWS),
    ("lm_head.", "head.0."),
]
HEAD: Rows = [("fc_norm.", "data2vec_vision.pooler.layernorm."), ("head.", "classifier.")]


def encoder(args: Values, tensors: Tensors) -> Values:
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    own = "blocks.0.attn.relative_position_bias_table"
    tables = [tensors[name] for name in (SHARED, own) if name in tensors]
    sizes = [HEADS[size] for size in HEADS if size in str(args.get("model", ""))]
    if not tables and not sizes:
        raise ValueError(
            f"args.model = {args.get('model')!r} does not tell the number of heads: use a published size."
        )
    if tables:
        side = (math.isqrt(len(tables[0]) - 3) + 1) // 2  # patches along one axis
    elif "pos_embed" in tensors:
        side = math.isqrt(tensors["pos_embed"].shape[1] - 1)
    else:
        side = number(args, "input_size", "args") // patch
    scaled = "blocks.0.gamma_1" in tensors
    return read_fields(args, DROPOUT, "args") | {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": tables[0].shape[1] if tables else sizes[0],
        "intermediate_size": original.rows_of(tensors, "blocks.0.mlp.fc1.weight"),
        "num_channels": channels,
        "patch_size": patch,
        "image_size": side * patch,
        "layer_norm_eps": 1e-6,
        "layer_scale_init_value": float(number(args, "layer_scale_init_value", "args", 0.1)) if scaled else 0.0,
        "use_shared_relative_position_bias": SHARED in tensors,
        "use_relative_position_bias": own in tensors,
        "use_absolute_position_embeddings": "pos_embed" in tensors,
        "hidden_dropout_prob": 0.0,
    }


def config(cfg: Values, tensors: Tensors) -> Configured:
    args = cfg["model"]
    fields = encoder(args, tensors)
    depth, width = fields["num_hidden_layers"], fields["hidden_size"]
    patches = (fields["image_size"] // fields["patch_size"]) ** 2
    switches = {"var_w0": 0, "target_instance_norm": False, "target_batch_norm": False}
    original.refuse_unless(args, switches, "the published recipe does not use it", "args")
    given = str(args.get("target_layers"))
    layers = [int(layer) for layer in re.findall(r"\d{1,4}", given)] if re.fullmatch(r"\[[\d, ]+\]", given) else []
    if not layers or sorted(layers) != list(range(depth - len(layers), depth)):
        raise ValueError(f"args.target_layers = {given} is not supported: only the top K of {depth} blocks are.")
    tap = args.get("layer_results", "end")
    if tap not in TAPS:
        raise ValueError(f"args.layer_results = {tap!r} is not supported: only 'end' and 'fc' are.")
    post = [name for name in ("layer", "instance") if args.get(f"post_target_{name}_norm")]
    if len(post) > 1:
        raise ValueError(
            "args.post_target_layer_norm and post_target_instance_norm are both on: only one is supported."
        )
    scale, start = (
        number(args, "loss_scale", "args", -1),
        number(args, "ema_start_at", "args", 25_000),
    )
    end = number(args, "ema_decay", "args", 0.9998)
    objective = {
        "masking": {
            "method": "beit_block",
            "ratio": original.mask_ratio(number(args, "num_mask_patches", "args", 75), patches),
            "min_patches": number(args, "min_mask_patches_per_block", "args", 16),
            "max_patches": number(args, "max_mask_patches_per_block", "args", None),
        },
        "top_k_layers": len(layers),
        "target_tap": TAPS[tap],
        "target_layer_norm": None if args.get("no_target_layer_norm_last") else "layer",
        "target_norm": post[0] if post else None,
        "original_padding": True,
        "loss_beta": 0 if args.get("l2_loss") else number(args, "l1_beta", "args", 0.12),
        "loss_scale": (1 if scale == -1 else scale) / width,  # a plain mean over the channels
        "head_layers": 1,
        "ema_decay": number(args, "ema_decay_init", "args", 0.999) if start else end,
        "ema_end_decay": end,
        "ema_anneal_steps": start,
        "ema_scope": "all",
    }
    fields |= {"use_mask_token": True, "use_mean_pooling": False, "objective": objective}
    return Data2VecVisionConfig(**fields), []


def classification_config(cfg: Values, tensors: Tensors) -> Configured:
    return Data2VecVisionConfig(
        **encoder(cfg["model"], tensors),
        **original.labels_of(tensors, "head.weight"),
        use_mask_token="mask_token" in tensors,
        use_mean_pooling="fc_norm.weight" in tensors,
    ), []


def to_cfg(config: PreTrainedConfig, objective: ObjectiveConfig) -> Values:
    """The arguments of the command line."""
    depth, masking = config.num_hidden_layers, objective.masking.to_dict()
    patches = (config.image_size // config.patch_size) ** 2
    scale = objective.scale_for(config.hidden_size) * config.hidden_size
    return write_fields(config, DROPOUT) | {
        "model": {768: "beit_base_patch16_224", 1024: "beit_large_patch16_224"}.get(config.hidden_size, "beit"),
        "input_size": config.image_size,
        "layer_scale_init_value": config.layer_scale_init_value,
        "num_mask_patches": int(masking["ratio"] * patches),
        "min_mask_patches_per_block": masking["min_patches"],
        "max_mask_patches_per_block": masking["max_patches"],
        "target_layers": str(list(range(depth - objective.top_k_layers, depth))),
        "layer_results": "end" if objective.target_tap == "end_of_block" else "fc",
        "no_target_layer_norm_last": objective.target_layer_norm is None,
        "post_target_layer_norm": objective.target_norm == "layer",
        "post_target_instance_norm": objective.target_norm == "instance",
        "l2_loss": objective.loss_beta == 0,
        "l1_beta": objective.loss_beta,
        "loss_scale": -1 if abs(scale - 1) < 1e-9 else scale,
        "ema_decay_init": objective.ema_decay,
        "ema_decay": objective.ema_end_decay,
        "ema_start_at": objective.ema_anneal_steps,
    }


def fixed(config: Any, tuned: bool) -> Tensors:
    names = ["rel_pos_bias."] if config.use_shared_relative_position_bias else []
    if config.use_relative_position_bias:
        names += [f"blocks.{n}.attn." for n in range(config.num_hidden_layers)]
    return position_indices(config, names if tuned else names + [f"_ema.{name}" for name in names])


def completed(originals: Tensors, config: Any) -> Tensors:
    """With the teacher's head, which the original keeps and does not read."""
    return {f"_ema.lm_head.{x}": originals[f"lm_head.{x}"] for x in ("weight", "bias")} | originals


def is_source(name: str, section: Values, tensors: Tensors) -> bool:
    return "patch_embed.proj.weight" in tensors and "cls_token" in tensors


BEIT = Source(
    words="data2vec 1 in vision (data2vec_vision)",
    arxiv="2202.03555",
    is_source=is_source,
    is_ours=lambda config: config.model_type == "data2vec-vision" and config.objective["head_layers"] > 0,
    student="data2vec_vision.",
    rows=ROWS,
    encoder=partial(Data2VecVisionModel, add_pooling_layer=False),
    pretrained=Data2VecVisionForPreTraining,
    config=config,
    tuned=Tuned(Data2VecVisionForImageClassification, classification_config, "", HEAD),
    older=((r"^((_ema\.)?)module\.", r"\1"),),
    unused=r"_ema\.lm_head\.(weight|bias)",
    fixed=fixed,
    halves=True,
    to_cfg=to_cfg,
    completed=completed,
    layout="data2vec_vision",
    epsilon=1e-6,
)
