"""Checkpoints of MedCoSS: one trunk, and what reports, images and volumes have of their own."""

import json
import math
import re
from pathlib import Path

from torch import Tensor
from transformers import BeitImageProcessorPil

from ..configuration_joint import JointConfig
from ..configuration_medcoss import MedCossImageConfig, MedCossTextConfig
from ..feature_extraction_medcoss import MedCossVolumeFeatureExtractor
from ..modeling_joint import JointForPreTraining, JointModel
from .checkpoint import Checkpoint
from .fairseq_multi_keys import BLOCK
from .keys import Rows, translated, under
from .original import number, refuse_unless, rows_of
from .source import Configured, Source, Tensors, Values


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


def shaped(name: str, tensor: Tensor) -> Tensor:
    """Vectors have axes of one in front, and of the embeddings of tasks the first is used."""
    if name.endswith("decoder.positions.weight"):
        return tensor.flatten(0, -2)
    if name.endswith("mask_token.weight"):
        return tensor.flatten()
    return tensor[0] if name.endswith("task_embedding") and tensor.ndim == 2 else tensor


# ---- the whole checkpoint: a joint model of the three ----

SHARED = re.compile(r"fused_encoder\.")
PUBLISHED = {"heads": 12, "decoder_heads": 16, "volume": [16, 192, 192]}  # constants of the original's code


def prepared(read: Checkpoint, file: Path | None) -> Checkpoint:
    """What images and volumes share of embeddings and decoder is each one's own here; constants come beside.

    The original keeps some numbers in its code: where they were changed, a `config.json` beside the file says so.
    """
    tensors = {name: tensor for name, tensor in read.tensors.items() if SHARED.match(name)}
    for modality, rows in OWN.items():
        for name, tensor in read.tensors.items():
            if not SHARED.match(name) and translated(name, rows) is not None:
                tensors[f"{modality}.{name}"] = tensor
    known = {name for rows in OWN.values() for name in read.tensors if translated(name, rows) is not None}
    tensors |= {name: t for name, t in read.tensors.items() if not SHARED.match(name) and name not in known}
    beside = read.path.parent / "config.json"
    given = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    cfg = read.cfg | {"model": read.cfg.get("model", {}) | {"constants": _constants(given)}}
    return Checkpoint(cfg, tensors, read.num_updates, read.path)


def _constants(given: Values) -> Values:
    sizes, decoder = given.get("sizes", {}), given.get("decoder", {})
    return {
        "heads": given.get("heads", PUBLISHED["heads"]),
        "decoder_heads": decoder.get("heads", PUBLISHED["decoder_heads"]),
        "image": sizes.get("now_2D_input_size"),
        "volume": sizes.get("now_3D_input_size", PUBLISHED["volume"]),
    }


def _own(embeddings: Rows, decoder: Rows) -> Rows:
    return [*under("", "embeddings:", embeddings), *under("", "decoder:", decoder)]


OWN: dict[str, Rows] = {
    "text": _own(TEXT, TEXT_DECODER),
    "image": _own(patches("embeddings", "2D"), patch_decoder("2D")),
    "volume": _own(patches("embeddings_3D", "3D"), patch_decoder("3D")),
}
ROWS: dict[str, Rows] = {  # of each modality's own model
    modality: [
        *under("", "data2vec2.", TRUNK),
        *((theirs, ours.replace("embeddings:", "data2vec2.").replace(":", ".")) for theirs, ours in rows),
    ]
    for modality, rows in OWN.items()
}
JOINT_ROWS: Rows = [
    *[(theirs, ours.replace("encoder.layers.", "joint.trunk.layers.")) for theirs, ours in TRUNK],
    *[
        (
            f"{modality}.{theirs}",
            ours.replace("embeddings:", f"joint.encoders.{modality}.").replace(
                "decoder:", f"modalities.{modality}.decoder."
            ),
        )
        for modality, rows in OWN.items()
        for theirs, ours in rows
    ],
]


def config(cfg: Values, tensors: Tensors) -> Configured:
    model = cfg["model"]
    refuse_unless(model, {"norm_pix_loss": True}, "the original runs with nothing else", "args")
    constants = model["constants"]
    blocks = _count(tensors, "fused_encoder.layers.")
    trunk: Values = {
        "hidden_size": tensors["fused_encoder.layers.0.norm1.weight"].shape[0],
        "num_hidden_layers": blocks,
        "num_attention_heads": constants["heads"],
        "intermediate_size": rows_of(tensors, "fused_encoder.layers.0.linear1.weight"),
        **{name: getattr(MedCossTextConfig, name) for name in KEPT},
    }
    text: Values = {
        "model_type": MedCossTextConfig.model_type,
        "vocab_size": rows_of(tensors, "text.token_embed.embeddings.weight"),
        "max_position_embeddings": rows_of(tensors, "text.token_embed.embeddings_pos.position_embeddings.weight"),
        "type_vocab_size": rows_of(tensors, "text.token_embed.embeddings_token_type.weight"),
        "is_causal": True,
    }
    text["mask_token_id"] = min(MedCossTextConfig.mask_token_id, text["vocab_size"] - 1)
    modalities = {"text": text}
    for name, axes, conv in (("image", "2D", "embeddings"), ("volume", "3D", "embeddings_3D")):
        kernel = tensors[f"{name}.video_embed.{conv}.weight"]
        patch = list(kernel.shape[2:])
        places = tensors[f"{name}.decoder_pos_embed_{axes}"].shape[1] - 1
        side = math.isqrt(places)
        size = constants[name] or [side * patch[0], side * patch[1]]
        decoder = dict(MedCossImageConfig.default_objective["decoder"]) | {
            "layers": _count(tensors, f"{name}.decoder_blocks."),
            "dim": rows_of(tensors, f"{name}.decoder_embed.weight"),
            "num_attention_heads": constants["decoder_heads"],
            "intermediate_size": rows_of(tensors, f"{name}.decoder_blocks.0.mlp.fc1.weight"),
        }
        masking = {"method": "random", "prob": number(model, "mask_ratio", "args", 0.75)}
        table = f"{name}.video_embed.embeddings_st_pos_{axes}"
        modalities[name] = {
            "model_type": f"medcoss-{name}",
            "image_size": list(size),
            "patch_size": patch,
            "num_channels": kernel.shape[1],
            "num_positions": rows_of(tensors, f"{table}.spatial_pos_embed.weight"),
            "num_temporal_positions": rows_of(tensors, f"{table}.temporal_pos_embed.weight"),
            "objective": {"masking": masking, "target": "input", "decoder": decoder, "top_k_layers": 1},
        }
    modalities["text"]["objective"] = dict(MedCossTextConfig.default_objective) | {"top_k_layers": 1}
    notes = [
        "Attention of text is causal, as the weights were trained, without the original's slip with padding.",
        "The tokenizer, emilyalsentzer/Bio_ClinicalBERT, is not in the checkpoint: save it into the folder text.",
        "Class token, norm of embeddings and decoder, which images and volumes shared, are each one's own.",
    ]
    return JointConfig(**trunk, modalities=modalities), notes


KEPT = ("layer_norm_first", "layer_scale_init_value", "hidden_dropout", "attention_dropout", "drop_path_rate")


def _count(tensors: Tensors, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _is_source(name: str, section: Values, tensors: Tensors) -> bool:
    return any(found.startswith("fused_encoder.layers.0.gamma_1") for found in tensors)


class Processors:
    """What prepares images and volumes, each in a folder of its own; the tokenizer is Bio_ClinicalBERT's."""

    def __init__(self, config: JointConfig):
        self.config = config

    def save_pretrained(self, folder: Path) -> None:
        size = self.config.of("image").sizes("image_size")
        BeitImageProcessorPil(
            size={"height": size[0], "width": size[1]}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ).save_pretrained(folder / "image")
        volume = self.config.of("volume")
        MedCossVolumeFeatureExtractor(volume.sizes("image_size")).save_pretrained(folder / "volume")


MEDCOSS = Source(
    words="MedCoSS",
    arxiv="2311.17597",
    is_source=_is_source,
    student="joint.",
    rows=JOINT_ROWS,
    encoder=JointModel,
    pretrained=JointForPreTraining,
    config=config,
    prepared=prepared,
    shaped=shaped,
    fresh_teacher=True,
    processor=lambda values, config, tuned: Processors(config),
    unused=r"video_embed\.embeddings_(pos\.position_embeddings|type)\.weight",
)
