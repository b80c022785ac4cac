"""What the original calls each tensor, and what we call it: one table a family, read in both directions.

A row is (original, ours). `{n}` stands for a number that both have, `{n+1}` in the original for one that is larger by
one; a row that ends in a dot stands for a weight and a bias.
"""

import re
from functools import cache

from torch import Tensor, cat


Rows = list[tuple[str, str]]


def under(original: str, ours: str, rows: Rows) -> Rows:
    return [(original + theirs, ours + own) for theirs, own in rows]


AUDIO_ENCODER: Rows = [
    ("pos_conv.{n}.0.", "pos_conv_embed.layers.{n}.conv."),
    ("layer_norm.", "layer_norm."),
    *under("layers.{n}.self_attn.", "layers.{n}.attention.", [(f"{x}_proj.",) * 2 for x in ("k", "v", "q", "out")]),
    ("layers.{n}.self_attn_layer_norm.", "layers.{n}.layer_norm."),
    ("layers.{n}.fc1.", "layers.{n}.feed_forward.intermediate_dense."),
    ("layers.{n}.fc2.", "layers.{n}.feed_forward.output_dense."),
    ("layers.{n}.final_layer_norm.", "layers.{n}.final_layer_norm."),
]
AUDIO: Rows = [
    ("mask_emb", "data2vec_audio.masked_spec_embed"),
    ("feature_extractor.conv_layers.{n}.0.", "data2vec_audio.feature_extractor.conv_layers.{n}.conv."),
    ("feature_extractor.conv_layers.{n}.2.1.", "data2vec_audio.feature_extractor.conv_layers.{n}.layer_norm."),
    ("post_extract_proj.", "data2vec_audio.feature_projection.projection."),
    ("layer_norm.", "data2vec_audio.feature_projection.layer_norm."),
    *under("encoder.", "data2vec_audio.encoder.", AUDIO_ENCODER),
    *under("_ema.", "teacher.encoder.", AUDIO_ENCODER),
    ("final_proj.", "head.0."),
]

TEXT_ENCODER: Rows = [
    ("embed_tokens.weight", "embeddings.word_embeddings.weight"),
    ("embed_positions.weight", "embeddings.position_embeddings.weight"),
    ("layernorm_embedding.", "embeddings.LayerNorm."),
    *under(
        "layers.{n}.",
        "encoder.layer.{n}.",
        [
            ("self_attn.q_proj.", "attention.self.query."),
            ("self_attn.k_proj.", "attention.self.key."),
            ("self_attn.v_proj.", "attention.self.value."),
            ("self_attn.out_proj.", "attention.output.dense."),
            ("self_attn_layer_norm.", "attention.output.LayerNorm."),
            ("fc1.", "intermediate.dense."),
            ("fc2.", "output.dense."),
            ("final_layer_norm.", "output.LayerNorm."),
        ],
    ),
]
TEXT: Rows = [
    *under("encoder.sentence_encoder.", "data2vec_text.", TEXT_ENCODER),
    *under("encoder._ema.", "teacher.", TEXT_ENCODER),
    ("encoder.regression_head.{n}.", "head.{n}."),
]

# the query, key and value of vision are one matrix in the original, see `split_qkv`
VISION_ATTENTION: Rows = [
    ("gamma_1", "lambda_1"),
    ("gamma_2", "lambda_2"),
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("attn.q_bias", "attention.attention.query.bias"),
    ("attn.v_bias", "attention.attention.value.bias"),
    ("attn.qkv.weight", "attention.attention.qkv.weight"),
    ("attn.proj.", "attention.output.dense."),
]
VISION_ENCODER: Rows = [
    ("rel_pos_bias.relative_position_bias_table", "encoder.relative_position_bias.relative_position_bias_table"),
    *under(
        "blocks.{n}.",
        "encoder.layer.{n}.",
        [*VISION_ATTENTION, ("mlp.0.", "intermediate.dense."), ("mlp.2.", "output.dense.")],
    ),
    ("norm.", "layernorm."),
]
VISION_EMBEDDINGS: Rows = [
    ("cls_emb", "embeddings.cls_token"),
    ("mask_emb", "embeddings.mask_token"),
    ("patch_embed.conv.", "embeddings.patch_embeddings.projection."),
]
VISION: Rows = [
    *under("", "data2vec_vision.", VISION_EMBEDDINGS),
    *under("encoder.", "data2vec_vision.", VISION_ENCODER),
    *under("_ema.", "teacher.", VISION_ENCODER),
]
VISION_WHOLE: Rows = [  # the teacher is an average of everything
    *under("_ema.", "teacher.", VISION_EMBEDDINGS),
    *under("_ema.encoder.", "teacher.", VISION_ENCODER),
]

BEIT_ENCODER: Rows = [
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("rel_pos_bias.relative_position_bias_table", "encoder.relative_position_bias.relative_position_bias_table"),
    *under(
        "blocks.{n}.",
        "encoder.layer.{n}.",
        [
            *VISION_ATTENTION,
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
BEIT: Rows = [
    *under("", "data2vec_vision.", BEIT_ENCODER),
    *under("_ema.", "teacher.", BEIT_ENCODER),
    ("lm_head.", "head.0."),
]

BLOCK2: Rows = [
    ("norm1.", "attention_norm."),
    ("attn.qkv.", "attention.qkv."),
    ("attn.proj.", "attention.output."),
    ("mlp.fc1.", "intermediate."),
    ("mlp.fc2.", "output."),
    ("norm2.", "output_norm."),
]
LOCAL2: dict[str, Rows] = {  # what a modality has of its own
    "audio": [
        ("local_encoder.conv_layers.0.0.", "embeddings.first_conv."),
        ("local_encoder.conv_layers.{n+1}.0.", "embeddings.convs.{n}."),
        ("local_encoder.conv_layers.{n}.2.1.", "embeddings.conv_norms.{n}."),
        ("project_features.1.", "embeddings.layer_norm."),
        ("project_features.2.", "embeddings.projection."),
        ("relative_positional_encoder.{n+1}.0.", "positions.layers.{n}.conv."),
        ("alibi_scale", "encoder.alibi.scale"),
    ],
    "image": [
        ("local_encoder.proj.", "embeddings.projection."),
        ("fixed_positional_encoder.positions", "positions.table"),
    ],
    "text": [
        ("local_encoder.embed_tokens.weight", "embeddings.word_embeddings.weight"),
        ("local_encoder.embed_positions.weight", "embeddings.position_embeddings.weight"),
        ("local_encoder.layernorm_embedding.", "embeddings.layer_norm."),
    ],
}


def _family2(modality: str) -> Rows:
    prefix = f"modality_encoders.{modality.upper()}."
    encoder = [
        *under(prefix, "", LOCAL2[modality]),
        (prefix + "extra_tokens", "encoder.extra_tokens"),
        (prefix + "context_encoder.norm.", "encoder.norm."),
        *under(prefix + "context_encoder.blocks.{n}.", "encoder.prenet.{n}.", BLOCK2),
        *under("blocks.{n}.", "encoder.layers.{n}.", BLOCK2),
    ]
    return [
        *under("", "data2vec2.", encoder),
        *under("_ema.", "teacher.", encoder),
        (prefix + "decoder.blocks.{n}.0.", "decoder.layers.{n}.conv."),
        (prefix + "decoder.proj.{n}.", "decoder.projection.{n}."),
    ]


def _single2(modality: str) -> Rows:
    """A head of one layer has no number in the original."""
    return [(f"modality_encoders.{modality.upper()}.decoder.proj.", "decoder.projection.0.")]


TEACHER_BLOCKS2: Rows = under("_ema.{n}.", "teacher.encoder.layers.{n}.", BLOCK2)
MODALITIES2 = {"audio2": "audio", "text2": "text", "vision2": "image"}
FAMILIES: dict[str, Rows] = {
    "audio": AUDIO,
    "text": TEXT,
    "vision": VISION + VISION_WHOLE,
    "beit": BEIT,
    **{f: _family2(m) + _single2(m) + TEACHER_BLOCKS2 for f, m in MODALITIES2.items()},
}
STUDENTS = {
    "audio": "data2vec_audio.",
    "text": "data2vec_text.",
    "vision": "data2vec_vision.",
    "beit": "data2vec_vision.",
}
STUDENTS |= dict.fromkeys(MODALITIES2, "data2vec2.")
# a fine-tuned model: what is in front of the encoder's names, and the rows of its head
TUNED: dict[str, tuple[str, Rows]] = {
    "audio": ("w2v_encoder.w2v_model.", [("w2v_encoder.proj.", "lm_head.")]),
    "audio2": ("w2v_encoder.w2v_model.", [("w2v_encoder.proj.", "lm_head.")]),
    "text": (
        "",
        [
            ("classification_heads.{name}.dense.", "classifier.dense."),
            ("classification_heads.{name}.out_proj.", "classifier.out_proj."),
        ],
    ),
    "text2": (
        "model.",
        [
            ("classification_heads.{name}.dense.", "dense."),
            ("classification_heads.{name}.out_proj.", "classifier."),
        ],
    ),
    "vision2": ("model.", [("fc_norm.", "norm."), ("head.", "classifier.")]),
    "beit": ("", [("fc_norm.", "data2vec_vision.pooler.layernorm."), ("head.", "classifier.")]),
}


def original_rows(family: str, head_layers: int, ema_scope: str) -> Rows:
    """The rows for writing a checkpoint, where each of our names has one in the original."""
    if family == "vision":
        student = [row for row in VISION if row[1].startswith("data2vec_vision.")]
        return student + VISION_WHOLE if ema_scope == "all" else VISION
    if family not in MODALITIES2:
        return FAMILIES[family]
    modality = MODALITIES2[family]
    rows = _family2(modality)
    if head_layers == 1:
        rows = [row for row in rows if not row[1].startswith("decoder.projection.")] + _single2(modality)
    if ema_scope == "blocks":
        rows = [row for row in rows if not row[1].startswith("teacher.")] + TEACHER_BLOCKS2
    return rows


def tuned_rows(family: str) -> Rows:
    """The rows of a fine-tuned model: the student's encoder and the head."""
    wrapper, head = TUNED[family]
    rows = [(wrapper + theirs, own) for theirs, own in FAMILIES[family] if own.startswith(STUDENTS[family])]
    return rows + head


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for mark, group in (("{n+1}", r"(?P<larger>[1-9]\d*)"), ("{n}", r"(?P<n>\d+)"), ("{name}", r"\w+")):
        pattern = pattern.replace(re.escape(mark), group)
    return re.compile(pattern + ("(?P<kind>weight|bias)" if template.endswith(".") else ""))


def translated(name: str, rows: Rows, back: bool = False) -> str | None:
    """Our name of an original's tensor, or with `back` the original's of ours; `None` if no row has it."""
    for row in rows:
        source, target = reversed(row) if back else row
        if found := _pattern(source).fullmatch(name):
            groups = found.groupdict()
            number = int(groups.get("n") or 0) if "larger" not in groups else int(groups["larger"]) - 1
            named = target.replace("{n+1}", str(number + 1)).replace("{n}", str(number))
            return named + (groups.get("kind") or "")
    return None


def split_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The one matrix of vision's query, key and value becomes three."""
    result = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix("qkv.weight")
        if stem.endswith("attention.attention."):
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            result.update({f"{stem}{part}.weight": chunk for part, chunk in parts})
        else:
            result[name] = tensor
    return result


def join_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The other way round."""
    result = {}
    for name, tensor in tensors.items():
        stem = re.sub(r"(query|key|value)\.weight$", "", name)
        if stem == name or not stem.endswith("attention.attention."):
            result[name] = tensor
        elif name.endswith("query.weight"):
            parts = [tensors[f"{stem}{part}.weight"] for part in ("query", "key", "value")]
            result[f"{stem}qkv.weight"] = cat(parts)
    return result


def reshaped(name: str, tensor: Tensor) -> Tensor:
    """2.0: a 1-D convolution is a 2-D one of height 1, the first one a matrix, an ALiBi scale one number a head."""
    if name.endswith("first_conv.weight"):
        return tensor.squeeze(1)
    if name.endswith("alibi.scale"):
        return tensor.flatten()
    return tensor.unsqueeze(2) if tensor.ndim == 3 and name.endswith(".weight") else tensor


def shaped_back(name: str, tensor: Tensor, modality: str) -> Tensor:
    """`reshaped` undone, under our names."""
    if name.endswith("first_conv.weight"):
        return tensor.unsqueeze(1)
    if name.endswith("alibi.scale"):
        return tensor.view(1, 1, -1, 1, 1)
    return tensor.squeeze(2) if tensor.ndim == 4 and modality != "image" else tensor


def to_ours(tensors: dict[str, Tensor], family: str, rows: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under our names and in our shapes, and those that no row has, under the original's."""
    ours, left = {}, {}
    for name, tensor in tensors.items():
        own = translated(name, rows)
        if own is None:
            left[name] = tensor
        else:
            ours[own] = reshaped(own, tensor) if family in MODALITIES2 else tensor
    return split_qkv(ours), left


def to_original(tensors: dict[str, Tensor], family: str, rows: Rows) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under the original's names and in its shapes, and our names that the original has nothing for."""
    originals, left = {}, []
    for own, tensor in join_qkv(tensors).items():
        name = translated(own, rows, back=True)
        if name is None:
            left.append(own)
        else:
            originals[name] = shaped_back(own, tensor, MODALITIES2[family]) if family in MODALITIES2 else tensor
    return originals, left
