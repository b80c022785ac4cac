"""Names and shapes of data2vec 2.0's tensors in fairseq's checkpoints."""

from torch import Tensor

from .keys import Rows, under


BLOCK: Rows = [
    ("norm1.", "attention_norm."),
    ("attn.qkv.", "attention.qkv."),
    ("attn.proj.", "attention.output."),
    ("mlp.fc1.", "intermediate."),
    ("mlp.fc2.", "output."),
    ("norm2.", "output_norm."),
]
LOCAL_ROWS: dict[str, Rows] = {  # what a modality has of its own
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


def rows_of_modality(
    modality: str, head_layers: int | None = None, scope: str | None = None, student: str = "data2vec2."
) -> Rows:
    """Of all layouts, or of the one of an objective; `student` is in front of our names of the encoder."""
    prefix = f"modality_encoders.{modality.upper()}."
    encoder = [
        *under(prefix, "", LOCAL_ROWS[modality]),
        (prefix + "extra_tokens", "encoder.extra_tokens"),
        (prefix + "context_encoder.norm.", "encoder.norm."),
        *under(prefix + "context_encoder.blocks.{n}.", "encoder.prenet.{n}.", BLOCK),
        *under("blocks.{n}.", "encoder.layers.{n}.", BLOCK),
    ]
    rows = [*under("", student, encoder), (prefix + "decoder.blocks.{n}.0.", "decoder.layers.{n}.conv.")]
    if scope != "blocks":
        rows += under("_ema.", "teacher.", encoder)
    if scope in ("blocks", None):
        rows += under("_ema.{n}.", "teacher.encoder.layers.{n}.", BLOCK)
    if head_layers != 1:
        rows.append((prefix + "decoder.proj.{n}.", "decoder.projection.{n}."))
    if head_layers in (1, None):  # a head of one layer has no number in the original
        rows.append((prefix + "decoder.proj.", "decoder.projection.0."))
    return rows


def shaped(name: str, tensor: Tensor) -> Tensor:
    """A 1-D convolution is a 2-D one of height 1, the first one a matrix, an ALiBi scale one number a head."""
    if name.endswith("first_conv.weight"):
        return tensor.squeeze(1)
    if name.endswith("alibi.scale"):
        return tensor.flatten()
    return tensor.unsqueeze(2) if tensor.ndim == 3 and name.endswith(".weight") else tensor


def shaped_back(name: str, tensor: Tensor, flat: bool) -> Tensor:
    """Args: `flat`, no image, whose convolutions are 2-D indeed."""
    if name.endswith("first_conv.weight"):
        return tensor.unsqueeze(1)
    if name.endswith("alibi.scale"):
        return tensor.view(1, 1, -1, 1, 1)
    return tensor.squeeze(2) if flat and tensor.ndim == 4 else tensor
