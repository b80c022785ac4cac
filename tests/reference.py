"""The golden cases of the original implementation: where they are, and their names in ours."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


SHARED = Path(__file__).parents[2] / "shared"
REFERENCE = SHARED / "reference"


def need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the repository: golden cases and real data are not shipped with it")
    return path


def load_case(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """configuration, inputs and expectations, and the checkpoint's `model` entry of one case."""
    folder = need(REFERENCE / name)
    config = json.loads((folder / "config.json").read_text())
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return config, load_file(folder / "io.safetensors"), flatten(checkpoint["model"])


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The teacher is a dict inside the `model` dict: join the names with dots."""
    flat = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat


BLOCK = [
    (r"self_attn_layer_norm\.", "layer_norm."),
    (r"self_attn\.", "attention."),
    (r"fc1\.", "feed_forward.intermediate_dense."),
    (r"fc2\.", "feed_forward.output_dense."),
]
AUDIO = [
    (r"^mask_emb$", "data2vec_audio.masked_spec_embed"),
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"data2vec_audio.feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"data2vec_audio.feature_extractor.conv_layers.\1.layer_norm."),
    (r"^post_extract_proj\.", "data2vec_audio.feature_projection.projection."),
    (r"^layer_norm\.", "data2vec_audio.feature_projection.layer_norm."),
    (r"^encoder\.pos_conv\.(\d+)\.0\.", r"data2vec_audio.encoder.pos_conv_embed.layers.\1.conv."),
    (r"^_ema\.pos_conv\.(\d+)\.0\.", r"teacher.encoder.pos_conv_embed.layers.\1.conv."),
    (r"^_ema\.", "teacher.encoder."),
    (r"^encoder\.", "data2vec_audio.encoder."),
    (r"^final_proj\.", "head.0."),
    *BLOCK,
]
TEXT = [
    (r"^encoder\.regression_head\.", "head."),
    (r"^encoder\._ema\.", "teacher."),
    (r"^encoder\.sentence_encoder\.", "data2vec_text."),
    (r"embed_tokens\.", "embeddings.word_embeddings."),
    (r"embed_positions\.", "embeddings.position_embeddings."),
    (r"layernorm_embedding\.", "embeddings.LayerNorm."),
    (r"(^data2vec_text\.|^teacher\.)layers\.", r"\1encoder.layer."),
    (r"self_attn\.q_proj\.", "attention.self.query."),
    (r"self_attn\.k_proj\.", "attention.self.key."),
    (r"self_attn\.v_proj\.", "attention.self.value."),
    (r"self_attn\.out_proj\.", "attention.output.dense."),
    (r"self_attn_layer_norm\.", "attention.output.LayerNorm."),
    (r"fc1\.", "intermediate.dense."),
    (r"fc2\.", "output.dense."),
    (r"final_layer_norm\.", "output.LayerNorm."),
]
VISION = [
    (r"^cls_emb$", "data2vec_vision.embeddings.cls_token"),
    (r"^mask_emb$", "data2vec_vision.embeddings.mask_token"),
    (r"^patch_embed\.conv\.", "data2vec_vision.embeddings.patch_embeddings.projection."),
    (r"^final_proj\.", "head.0."),
    (r"^encoder\.norm\.", "data2vec_vision.layernorm."),
    (r"^_ema\.norm\.", "teacher.layernorm."),
    (r"^_ema\.", "teacher.encoder."),
    (r"^encoder\.", "data2vec_vision.encoder."),
    (r"rel_pos_bias\.", "relative_position_bias."),
    (r"blocks\.", "layer."),
    (r"gamma_", "lambda_"),
    (r"norm1\.", "layernorm_before."),
    (r"norm2\.", "layernorm_after."),
    (r"attn\.q_bias", "attention.attention.query.bias"),
    (r"attn\.v_bias", "attention.attention.value.bias"),
    (r"attn\.proj\.", "attention.output.dense."),
    (r"mlp\.0\.", "intermediate.dense."),
    (r"mlp\.2\.", "output.dense."),
]
RULES = {"audio": AUDIO, "text": TEXT, "vision": VISION}


def rename(name: str, kind: str) -> str:
    for pattern, replacement in RULES[kind]:
        name = re.sub(pattern, replacement, name)
    return name


def renamed(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors under our names; the fused query-key-value weight of vision becomes three."""
    result = {}
    for name, tensor in tensors.items():
        name = rename(name, kind)
        if name.endswith("attn.qkv.weight"):
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            stem = name.removesuffix("attn.qkv.weight") + "attention.attention."
            result.update({f"{stem}{part}.weight": chunk for part, chunk in parts})
        else:
            result[name] = tensor
    return result


def part(io: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in io.items() if name.startswith(prefix)}
