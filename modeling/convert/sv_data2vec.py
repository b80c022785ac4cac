"""Checkpoints of SV-data2vec. They hold no teacher: its blocks start as the student's."""

from torch import Tensor

from ..configuration_sv_data2vec import SvData2VecConfig
from ..feature_extraction_sv_data2vec import SvData2VecFeatureExtractor
from ..modeling_sv_data2vec import SvData2VecForPreTraining, SvData2VecModel
from .fairseq_multi_keys import BLOCK
from .keys import Rows, under
from .original import Fields, number, part_of, read_fields, refuse_unless, rows_of
from .source import Configured, Source, Tensors, Values


FIELDS: Fields = [
    ("dim_feat", "hidden_size"),
    ("depth", "num_hidden_layers"),
    ("num_heads", "num_attention_heads"),
    ("num_frames", "max_position_embeddings"),
    ("num_joints", "num_joints"),
    ("drop_rate", "hidden_dropout", 0.0),
    ("attn_drop_rate", "attention_dropout", 0.0),
    ("drop_path_rate", "drop_path_rate", 0.0),
]
NORMS = ("instance", "layer", "batch")
PUBLISHED = SvData2VecConfig.default_objective


def norm(theirs: str, ours: str) -> Rows:
    """Of a batch norm."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return [(theirs, ours), *((theirs + name, ours + name) for name in statistics)]


def _block(theirs: str, ours: str, number: int) -> Rows:
    """The parts of a residual block; the first of a stage has a shortcut of its own."""
    rows = [
        *((f"conv{n}.weight", f"conv{n}.weight") for n in (1, 2)),
        *((f"relu{n}.weight", f"activation{n}.weight") for n in (1, 2)),
        *norm("bn1.", "norm1."),
        *norm("bn2.", "norm2."),
    ]
    if number == 0:
        rows += [("downsample.0.weight", "shortcut.conv.weight"), *norm("downsample.1.", "shortcut.norm.")]
    return under(theirs, ours, rows)


VIDEO: Rows = [  # also AV-HuBERT's
    ("resnet.frontend3D.0.weight", "conv.weight"),
    *norm("resnet.frontend3D.1.", "norm."),
    ("resnet.frontend3D.2.weight", "activation.weight"),
    *(
        row
        for stage in range(4)
        for number in range(2)
        for row in _block(f"resnet.trunk.layer{stage + 1}.{number}.", f"stages.{stage}.{number}.", number)
    ),
    ("proj.", "projection."),
]
ENCODER: Rows = [
    *under("feature_extractor_video.", "embeddings.video.", VIDEO),
    ("joints_embed.proj.", "embeddings.skeleton.projection."),
    ("temp_embed", "positions.weight"),
    *under("blocks.{n}.", "encoder.layers.{n}.", BLOCK),
    ("norm.", "encoder.final_norm."),
]
ROWS: Rows = [
    *under("", "sv_data2vec.", ENCODER),
    ("decoder_embed.", "decoder.input_projection."),
    ("mask_token", "decoder.mask_token.weight"),
    ("decoder_temp_embed", "decoder.positions.weight"),
    *under("decoder_blocks.{n}.", "decoder.layers.{n}.", BLOCK),
    ("decoder_norm.", "decoder.final_norm."),
    ("decoder_pred.", "decoder.projection.0."),
]


def shaped(name: str, tensor: Tensor) -> Tensor:
    """Vectors have axes of one in front; a convolution over all joints of a frame is a matrix."""
    if name.endswith("skeleton.projection.weight"):
        return tensor.flatten(1)
    if name.endswith("positions.weight"):
        return tensor.flatten(0, -2)
    return tensor.flatten() if name.endswith("mask_token.weight") else tensor


def config(cfg: Values, tensors: Tensors) -> Configured:
    args = part_of(cfg["model"], "model_args", "args")
    built: Values = {"dim_in": 2, "t_patch_size": 1, "qkv_bias": True, "block_norm_first": True, "target_ffn": False}
    built |= {"patch_size": args.get("num_joints"), "decoder_dim_feat": args.get("dim_feat")}
    refuse_unless(args, built, "the original runs with nothing else", "args.model_args")
    fields = read_fields(args, FIELDS, "args.model_args")
    objective = dict(PUBLISHED) | {
        "top_k_layers": number(args, "num_layers_for_target", "args.model_args"),
        "loss_scale": 1 / fields["hidden_size"],  # a plain mean over the channels
        "decoder": dict(PUBLISHED["decoder"]) | {"layers": number(args, "decoder_depth", "args.model_args")},
        "ema_decay": number(args, "ema_decay", "args.model_args"),
        "ema_end_decay": number(args, "ema_end_decay", "args.model_args"),
        "ema_anneal_steps": number(args, "ema_anneal_end_step", "args.model_args"),
    }
    for ours, suffix in (("target_layer_norm", "_norm_target_layer"), ("target_norm", "_norm_targets")):
        found = [kind for kind in NORMS if args.get(kind + suffix)]
        if len(found) > 1:
            raise ValueError(
                f"args.model_args.{found[0]}{suffix} and {found[1]}{suffix} are both on: only one can be."
            )
        objective[ours] = found[0] if found else None
    if args.get("target_both") or cfg["model"].get("target_both"):
        objective["teacher_streams"] = {}
    return SvData2VecConfig(
        **fields,
        intermediate_size=rows_of(tensors, "blocks.0.mlp.fc1.weight"),
        num_channels=_axis(tensors, "feature_extractor_video.resnet.frontend3D.0.weight"),
        resnet_width=rows_of(tensors, "feature_extractor_video.resnet.frontend3D.0.weight"),
        num_persons=_axis(tensors, "joints_embed.proj.weight") // 2,
        objective=objective,
    ), ["The checkpoint holds no teacher: its blocks start as the student's."]


def _axis(tensors: Tensors, name: str) -> int:
    """Channels that a convolution reads."""
    rows_of(tensors, name)
    return tensors[name].shape[1] if tensors[name].ndim > 1 else 0


def _is_source(name: str, section: Values, tensors: Tensors) -> bool:
    return "joints_embed.proj.weight" in tensors and "feature_extractor_video.proj.weight" in tensors


SV_DATA2VEC = Source(
    words="SV-data2vec",
    arxiv=None,
    is_source=_is_source,
    student="sv_data2vec.",
    rows=ROWS,
    encoder=SvData2VecModel,
    pretrained=SvData2VecForPreTraining,
    config=config,
    shaped=shaped,
    fresh_teacher=True,
    processor=lambda values, config, tuned: SvData2VecFeatureExtractor.of(config),
)
