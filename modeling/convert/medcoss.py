"""Checkpoints of MedCoSS: one trunk, and what reports, images and volumes have of their own."""

from torch import Tensor

from .fairseq_multi_keys import BLOCK
from .keys import Rows, under


TRUNK: Rows = under(
    "fused_encoder.layers.{n}.",
    "encoder.layers.{n}.",
    [
        *((f"self_attn.in_proj_{kind}", f"attention.qkv.{kind}") for kind in ("weight", "bias")),
        ("self_attn.out_proj.", "attention.output."),
        ("linear1.", "intermediate."),
        ("linear2.", "output."),
        ("norm1.", "attention_norm."),
        ("norm2.", "output_norm."),
        ("gamma_1", "attention_scale.weight"),
        ("gamma_2", "output_scale.weight"),
    ],
)
TEXT: Rows = [
    ("token_embed.embeddings.weight", "embeddings.word_embeddings.weight"),
    ("token_embed.embeddings_norm.", "embeddings.layer_norm."),
    ("token_embed.embeddings_pos.position_embeddings.weight", "embeddings.position_embeddings.weight"),
    ("token_embed.embeddings_token_type.weight", "embeddings.token_type_embeddings.weight"),
]
TEXT_DECODER: Rows = [
    ("decoder_pos_embed_1D.weight", "task_embedding"),
    ("mlm_head.transform.dense.", "projection.0."),
    ("mlm_head.transform.LayerNorm.", "projection.2."),
    ("mlm_head.decoder.weight", "projection.3.weight"),
    ("mlm_head.bias", "projection.3.bias"),
]


def patches(embedding: str, axes: str) -> Rows:
    """Embeddings of images ("2D") or volumes ("3D"), which have a norm and a class token in common."""
    return [
        ("cls_token", "encoder.extra_tokens"),
        (f"video_embed.{embedding}.", "embeddings.projection."),
        ("video_embed.embeddings_norm.", "embeddings.layer_norm."),
        *(
            (f"video_embed.embeddings_st_pos_{axes}.{kind}_pos_embed.weight", f"embeddings.{kind}_embeddings.weight")
            for kind in ("spatial", "temporal")
        ),
    ]


def patch_decoder(axes: str) -> Rows:
    return [
        ("decoder_embed.", "input_projection."),
        ("mask_token", "mask_token.weight"),
        (f"decoder_pos_embed_{axes}", "positions.weight"),
        *under("decoder_blocks.{n}.", "layers.{n}.", BLOCK),
        ("decoder_norm.", "final_norm."),
        (f"decoder_pred_{axes}.", "projection.0."),
    ]


def _rows(embeddings: Rows, decoder: Rows) -> Rows:
    return [*under("", "data2vec2.", [*TRUNK, *embeddings]), *under("", "decoder.", decoder)]


ROWS: dict[str, Rows] = {
    "text": _rows(TEXT, TEXT_DECODER),
    "image": _rows(patches("embeddings", "2D"), patch_decoder("2D")),
    "volume": _rows(patches("embeddings_3D", "3D"), patch_decoder("3D")),
}


def shaped(name: str, tensor: Tensor) -> Tensor:
    """Vectors have axes of one in front, and of the embeddings of tasks the first is used."""
    if name.endswith("decoder.positions.weight"):
        return tensor.flatten(0, -2)
    if name.endswith("mask_token.weight"):
        return tensor.flatten()
    return tensor[0] if name.endswith("task_embedding") and tensor.ndim == 2 else tensor
