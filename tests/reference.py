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
    flat: dict[str, Tensor] = {}
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
    (
        r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.",
        r"data2vec_audio.feature_extractor.conv_layers.\1.layer_norm.",
    ),
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
# data2vec 2.0: what the modalities share, behind what is a modality's own
BLOCK2 = [
    (r"^_ema\.(?=\d)", "_ema.blocks."),  # the teacher of text is its blocks
    (r"^_ema\.", "teacher."),
    (r"^modality_encoders\.[A-Z]+\.decoder\.blocks\.(\d+)\.0\.", r"decoder.layers.\1.conv."),
    (r"^modality_encoders\.[A-Z]+\.decoder\.proj\.(?=[wb])", "decoder.projection.0."),
    (r"^modality_encoders\.[A-Z]+\.decoder\.proj\.", "decoder.projection."),
    (r"^(?!teacher\.|decoder\.)", "data2vec2."),
    (r"modality_encoders\.[A-Z]+\.extra_tokens", "encoder.extra_tokens"),
    (r"modality_encoders\.[A-Z]+\.alibi_scale", "encoder.alibi.scale"),
    (r"modality_encoders\.[A-Z]+\.context_encoder\.norm\.", "encoder.norm."),
    (r"modality_encoders\.[A-Z]+\.context_encoder\.blocks\.", "encoder.prenet."),
    (r"modality_encoders\.[A-Z]+\.", ""),
    (r"(^data2vec2\.|^teacher\.)blocks\.", r"\1encoder.layers."),
    (r"norm1\.", "attention_norm."),
    (r"attn\.qkv\.", "attention.qkv."),
    (r"attn\.proj\.", "attention.output."),
    (r"mlp\.fc1\.", "intermediate."),
    (r"mlp\.fc2\.", "output."),
    (r"norm2\.", "output_norm."),
]
AUDIO2 = [
    *BLOCK2,
    (r"local_encoder\.conv_layers\.0\.0\.", "embeddings.first_conv."),
    (r"local_encoder\.conv_layers\.(\d+)\.2\.1\.", r"embeddings.conv_norms.\1."),
    (r"local_encoder\.conv_layers\.(\d+)\.0\.", lambda m: f"embeddings.convs.{int(m[1]) - 1}."),
    (r"project_features\.1\.", "embeddings.layer_norm."),
    (r"project_features\.2\.", "embeddings.projection."),
    (r"relative_positional_encoder\.(\d+)\.0\.", lambda m: f"positions.layers.{int(m[1]) - 1}.conv."),
]
VISION2 = [
    *BLOCK2,
    (r"local_encoder\.proj\.", "embeddings.projection."),
    (r"fixed_positional_encoder\.positions", "positions.table"),
]
TEXT2 = [
    *BLOCK2,
    (r"local_encoder\.embed_tokens\.", "embeddings.word_embeddings."),
    (r"local_encoder\.embed_positions\.", "embeddings.position_embeddings."),
    (r"local_encoder\.layernorm_embedding\.", "embeddings.layer_norm."),
]
RULES: dict[str, list[tuple[str, Any]]] = {
    "audio": AUDIO,
    "text": TEXT,
    "vision": VISION,
    "audio2": AUDIO2,
    "text2": TEXT2,
    "vision2": VISION2,
}


def rename(name: str, kind: str) -> str:
    for pattern, replacement in RULES[kind]:
        name = re.sub(pattern, replacement, name)
    return name


def reshaped(name: str, tensor: Tensor) -> Tensor:
    """2.0: a 1-D convolution is a 2-D one of height 1, the first one a matrix, an ALiBi scale one number a head."""
    if name.endswith("first_conv.weight"):
        return tensor.squeeze(1)
    if name.endswith("alibi.scale"):
        return tensor.flatten()
    return tensor.unsqueeze(2) if tensor.ndim == 3 and name.endswith(".weight") else tensor


def renamed(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors under our names; the fused query-key-value weight of data2vec 1 in vision becomes three."""
    result = {}
    for name, tensor in tensors.items():
        name = rename(name, kind)
        if name.endswith("attn.qkv.weight"):
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            stem = name.removesuffix("attn.qkv.weight") + "attention.attention."
            result.update({f"{stem}{part}.weight": chunk for part, chunk in parts})
        else:
            result[name] = reshaped(name, tensor) if kind.endswith("2") else tensor
    return result


def part(io: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in io.items() if name.startswith(prefix)}
