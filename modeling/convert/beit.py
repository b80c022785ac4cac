"""Checkpoints of the data2vec_vision repository (data2vec 1 in vision as published) -> `transformers`' configuration.

They hold the arguments of the command line in a namespace; sizes are read off the weights.
"""

import ast
import math
from typing import Any

from torch import Tensor
from transformers import Data2VecVisionConfig, PreTrainedConfig

from .fairseq_v1 import Notes, get, labels_of, mask_ratio, refuse_unless, rows_of


HEADS = {"base": 12, "large": 16, "huge": 16}


def beit_encoder(args: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    shared, own = "rel_pos_bias.relative_position_bias_table", "blocks.0.attn.relative_position_bias_table"
    tables = [tensors[name] for name in (shared, own) if name in tensors]
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
        side = get(args, "input_size", "args") // patch
    scale = args.get("layer_scale_init_value", 0.1) if "blocks.0.gamma_1" in tensors else 0
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": tables[0].shape[1] if tables else sizes[0],
        "intermediate_size": rows_of(tensors, "blocks.0.mlp.fc1.weight"),
        "num_channels": channels,
        "patch_size": patch,
        "image_size": side * patch,
        "layer_norm_eps": 1e-6,
        "layer_scale_init_value": float(scale),
        "use_shared_relative_position_bias": shared in tensors,
        "use_relative_position_bias": own in tensors,
        "use_absolute_position_embeddings": "pos_embed" in tensors,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": args.get("attn_drop_rate", 0.0),
        "drop_path_rate": args.get("drop_path", 0.1),
    }


def beit_config(m: dict[str, Any], tensors: dict[str, Tensor], cfg: dict[str, Any]) -> tuple[PreTrainedConfig, Notes]:
    args = m
    encoder = beit_encoder(args, tensors)
    depth, width = encoder["num_hidden_layers"], encoder["hidden_size"]
    switches = {"var_w0": 0, "target_instance_norm": False, "target_batch_norm": False}
    refuse_unless(args, switches, "the published recipe does not use it", "args")
    layers = ast.literal_eval(str(get(args, "target_layers", "args")))
    if not layers or sorted(layers) != list(range(depth - len(layers), depth)):
        raise ValueError(f"args.target_layers = {layers} is not supported: only the top K of {depth} blocks are.")
    taps = {"end": "end_of_block", "fc": "ffn"}
    tap = args.get("layer_results", "end")
    refuse_unless(args, {"layer_results": tap if tap in taps else "end"}, "use 'end' or 'fc'", "args")
    if args.get("post_target_layer_norm") and args.get("post_target_instance_norm"):
        raise ValueError(
            "args.post_target_layer_norm and post_target_instance_norm are both on: only one is supported."
        )
    scale, patches = args.get("loss_scale", -1), (encoder["image_size"] // encoder["patch_size"]) ** 2
    post = [name for name in ("layer", "instance") if args.get(f"post_target_{name}_norm")]
    objective = {
        "masking": {
            "method": "beit_block",
            "ratio": mask_ratio(args.get("num_mask_patches", 75), patches),
            "min_patches": args.get("min_mask_patches_per_block", 16),
            "max_patches": args.get("max_mask_patches_per_block"),
        },
        "top_k_layers": len(layers),
        "target_tap": taps[tap],
        "target_layer_norm": None if args.get("no_target_layer_norm_last") else "layer",
        "target_norm": post[0] if post else None,
        "original_padding": True,
        "loss_beta": 0 if args.get("l2_loss") else args.get("l1_beta", 0.12),
        "loss_scale": (1 if scale == -1 else scale) / width,  # a plain mean over the channels
        "head_layers": 1,
        "ema_decay": args.get("ema_decay_init", 0.999) if args.get("ema_start_at", 25_000) else args["ema_decay"],
        "ema_end_decay": args.get("ema_decay", 0.9998),
        "ema_anneal_steps": args.get("ema_start_at", 25_000),
        "ema_scope": "all",
    }
    fields: dict[str, Any] = {"use_mask_token": True, "use_mean_pooling": False, "objective": objective}
    return Data2VecVisionConfig(**encoder | fields), []


def beit_classification_config(cfg: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[PreTrainedConfig, Notes]:
    return Data2VecVisionConfig(
        **beit_encoder(cfg["model"], tensors),
        **labels_of(tensors, "head.weight"),
        use_mask_token="mask_token" in tensors,
        use_mean_pooling="fc_norm.weight" in tensors,
    ), []
