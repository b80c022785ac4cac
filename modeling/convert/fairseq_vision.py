"""fairseq's own port of data2vec 1 in vision. The published checkpoints are those of data2vec_vision, see `beit`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Data2VecVisionConfig, Data2VecVisionModel, PreTrainedConfig

from ..configuration_objective import ObjectiveConfig
from ..modeling_data2vec_vision import Data2VecVisionForPreTraining
from . import original
from .keys import Rows, under
from .original import Fields, number, read_fields, write_fields
from .source import Configured, Source, Tensors, Values


FIELDS: Fields = [
    ("embed_dim", "hidden_size"),
    ("depth", "num_hidden_layers"),
    ("num_heads", "num_attention_heads"),
    ("image_size", "image_size", 224),
    ("patch_size", "patch_size", 16),
    ("in_channels", "num_channels", 3),
    ("shared_rel_pos_bias", "use_shared_relative_position_bias", True),
    ("attention_dropout", "attention_probs_dropout_prob", 0.0),
    ("drop_path", "drop_path_rate", 0.1),
]

# the query, key and value of vision are one matrix in the original, see `split_qkv`
ATTENTION_ROWS: Rows = [
    ("gamma_1", "lambda_1"),
    ("gamma_2", "lambda_2"),
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("attn.q_bias", "attention.attention.query.bias"),
    ("attn.v_bias", "attention.attention.value.bias"),
    ("attn.qkv.weight", "attention.attention.qkv.weight"),
    ("attn.proj.", "attention.output.dense."),
]
ENCODER_ROWS: Rows = [
    ("rel_pos_bias.relative_position_bias_table", "encoder.relative_position_bias.relative_position_bias_table"),
    *under(
        "blocks.{n}.",
        "encoder.layer.{n}.",
        [*ATTENTION_ROWS, ("mlp.0.", "intermediate.dense."), ("mlp.2.", "output.dense.")],
    ),
    ("norm.", "layernorm."),
]
EMBEDDINGS: Rows = [
    ("cls_emb", "embeddings.cls_token"),
    ("mask_emb", "embeddings.mask_token"),
    ("patch_embed.conv.", "embeddings.patch_embeddings.projection."),
]
STUDENT: Rows = [*under("", "data2vec_vision.", EMBEDDINGS), *under("encoder.", "data2vec_vision.", ENCODER_ROWS)]
TEACHER_BLOCKS: Rows = under("_ema.", "teacher.", ENCODER_ROWS)
TEACHER: Rows = [*under("_ema.", "teacher.", EMBEDDINGS), *under("_ema.encoder.", "teacher.", ENCODER_ROWS)]


def config(cfg: Values, tensors: Tensors) -> Configured:
    m = cfg["model"]
    found = read_fields(m, FIELDS)
    patches = (found["image_size"] // found["patch_size"]) ** 2
    objective = original.read_objective(m) | {
        "masking": {
            "method": "beit_block",
            "ratio": original.mask_ratio(number(m, "num_mask_patches", default=75), patches),
            "min_patches": number(m, "min_mask_patches_per_block", default=16),
            "max_patches": number(m, "max_mask_patches_per_block", default=196),
        },
        "target_tap": "end_of_block" if m.get("end_of_block_targets", True) else "ffn",
        "head_layers": 0,  # the original has one and does not use it
        "ema_scope": "blocks" if m.get("ema_transformer_only", True) else "all",
    }
    scale = m.get("layer_scale_init_value", 1e-4) or 0  # null is none
    fields: Values = found | {
        "intermediate_size": original.rows_of(
            tensors, "encoder.blocks.0.mlp.0.weight"
        ),  # the original ignores its mlp_ratio
        "layer_norm_eps": 1e-5,
        "layer_scale_init_value": float(number({"layer_scale_init_value": scale}, "layer_scale_init_value")),
        "use_mask_token": True,
        "use_mean_pooling": False,
        "hidden_dropout_prob": 0.0,
        "objective": objective,
    }
    return Data2VecVisionConfig(**fields), []


def to_cfg(config: PreTrainedConfig, objective: ObjectiveConfig) -> Values:
    masking: Any = objective.masking.to_dict()
    patches = (config.image_size // config.patch_size) ** 2
    if config.intermediate_size != 4 * config.hidden_size:
        raise ValueError(
            f"intermediate_size = {config.intermediate_size} cannot be written: the original's is always 4 times "
            f"hidden_size = {config.hidden_size}."
        )
    model = write_fields(config, FIELDS) | original.write_objective(objective)
    model |= {
        "_name": "data2vec_vision",
        "layer_scale_init_value": config.layer_scale_init_value,
        "num_mask_patches": int(masking["ratio"] * patches),
        "min_mask_patches_per_block": masking["min_patches"],
        "max_mask_patches_per_block": masking["max_patches"] or patches,
        "mlp_ratio": 4,
        "end_of_block_targets": objective.target_tap == "end_of_block",
        "ema_transformer_only": objective.ema_scope == "blocks",
    }
    return {"model": model, "task": {"_name": "image_pretraining", "data": "none", "input_size": config.image_size}}


def rows_back(objective: ObjectiveConfig) -> Rows:
    return STUDENT + (TEACHER if objective.ema_scope == "all" else TEACHER_BLOCKS)


def relative_position_index(side: int) -> Tensor:
    """`(1 + patches, 1 + patches)` int64: the row of the bias table for each pair, CLS first (as BEiT)."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = torch.stack((rows.flatten(), columns.flatten()))  # (2, patches)
    apart = place[:, :, None] - place[:, None, :] + side - 1  # (2, patches, patches)
    last = (2 * side - 1) ** 2 + 2
    index = torch.full((side**2 + 1, side**2 + 1), last, dtype=torch.int64)
    index[1:, 1:] = apart[0] * (2 * side - 1) + apart[1]
    index[0, 1:], index[1:, 0] = last - 2, last - 1
    return index


def position_indices(config: Any, names: list[str]) -> Tensors:
    index = relative_position_index(config.image_size // config.patch_size) if names else torch.empty(0)
    return {f"{name}relative_position_index": index for name in names}


def fixed(config: Any, tuned: bool) -> Tensors:
    teacher = "_ema.encoder." if config.objective["ema_scope"] == "all" else "_ema."
    stems = ("encoder.", teacher) if config.use_shared_relative_position_bias else ()
    return position_indices(config, [f"{stem}rel_pos_bias." for stem in stems])


def completed(originals: Tensors, config: Any) -> Tensors:
    """With the head that the original wants and does not use."""
    dim = config.hidden_size
    return {"final_proj.weight": torch.eye(dim), "final_proj.bias": torch.zeros(dim)} | originals


VISION = Source(
    words="data2vec 1 in vision (fairseq)",
    arxiv="2202.03555",
    is_source=lambda name, section, tensors: name == "data2vec_vision",
    is_ours=lambda config: config.model_type == "data2vec-vision" and config.objective["head_layers"] == 0,
    student="data2vec_vision.",
    rows=STUDENT + TEACHER_BLOCKS + TEACHER,
    encoder=partial(Data2VecVisionModel, add_pooling_layer=False),
    pretrained=Data2VecVisionForPreTraining,
    config=config,
    unused=r"(_ema\.)?final_proj\.(weight|bias)",
    fixed=fixed,
    to_cfg=to_cfg,
    rows_back=rows_back,
    completed=completed,
    epsilon=1e-5,
)
