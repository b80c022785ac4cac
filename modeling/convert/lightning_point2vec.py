"""Lightning's checkpoints of Point2Vec: pretrained, data2vec-pc, and with the heads of its two tasks."""

from typing import Any

from torch import Tensor

from ..configuration_objective import ObjectiveConfig
from ..configuration_point2vec import Point2VecConfig
from ..feature_extraction_point2vec import Point2VecFeatureExtractor
from ..heads_point2vec import Point2VecForPartSegmentation, Point2VecForPointCloudClassification
from ..modeling_point2vec import Point2VecForPreTraining, Point2VecModel
from . import original
from .checkpoint import LIGHTNING
from .fairseq_multi_keys import BLOCK
from .keys import Rows, under
from .original import Fields, number, optional_part, read_fields
from .source import Configured, Source, Tensors, Tuned, Values


FIELDS: Fields = [
    ("encoder_dim", "hidden_size", 384),
    ("encoder_depth", "num_hidden_layers", 12),
    ("encoder_heads", "num_attention_heads", 6),
    ("tokenizer_num_groups", "num_groups", 64),
    ("tokenizer_group_size", "group_size", 32),
]
LOSSES = {"smooth_l1": 2.0, "mse": 0.0}
NORMS = (None, "instance", "layer", "batch", "group")
MASKINGS = {"rand": "random", "block": "neighbours"}
LAYER_PARTS = {"final": "end_of_block", "ffn": "ffn"}
POOLINGS = {
    "mean+max": "mean_max",
    "cls_token": "cls",
    "mean+max+cls_token": "cls_mean_max",
    "mean": "mean",
    "max": "max",
}

TOKENIZER: Rows = [
    ("tokenizer.embedding.first_conv.0.weight", "embeddings.first.weight"),
    *[
        (f"tokenizer.embedding.{theirs}.{buffer}", f"embeddings.{ours}.{buffer}")
        for theirs, ours in (("first_conv.1", "first_norm"), ("second_conv.1", "third_norm"))
        for buffer in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ],
    ("tokenizer.embedding.first_conv.3.", "embeddings.second."),
    ("tokenizer.embedding.second_conv.0.weight", "embeddings.third.weight"),
    ("tokenizer.embedding.second_conv.3.", "embeddings.projection."),
    ("positional_encoding.0.", "positions.inner."),
    ("positional_encoding.2.", "positions.output."),
]
BLOCKS: Rows = [*under("blocks.{n}.", "layers.{n}.", BLOCK), ("norm.", "final_norm.")]


def student_rows(prefix: str) -> Rows:
    return [*under("", prefix, TOKENIZER), *under("student.", f"{prefix}encoder.", BLOCKS)]


def with_statistics(theirs: str, ours: str) -> Rows:
    """A linear layer or a batch norm."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return [(theirs, ours), *((theirs + name, ours + name) for name in statistics)]


ROWS: Rows = [
    *student_rows("point2vec."),
    *under("teacher.ema_model.", "teacher.encoder.", BLOCKS),
    ("mask_token", "decoder.mask_token.weight"),
    *under("decoder.", "decoder.", BLOCKS),
    ("regressor.{n}.", "decoder.projection.{n}."),
    ("regressor.", "decoder.projection.0."),
]
CLASSIFIER: Rows = [
    ("cls_token", "cls_token.weight"),
    ("cls_pos", "cls_position.weight"),
    *with_statistics("cls_head.{n}.", "classifier.{n}."),
    ("cls_head.", "classifier.0."),
]
PARTS: Rows = [
    *with_statistics("label_embedding.{n}.", "categories.{n}."),
    ("upsampling.mlp_convs.0.weight", "upsampling.0.weight"),
    *with_statistics("upsampling.mlp_bns.0.", "upsampling.1."),
    ("upsampling.mlp_convs.1.weight", "upsampling.3.weight"),
    *with_statistics("upsampling.mlp_bns.1.", "upsampling.4."),
    *with_statistics("seg_head.{n}.", "classifier.{n}."),
]


def shaped(name: str, tensor: Tensor) -> Tensor:
    """A convolution of width 1 is a matrix; statistics that became NaN, as in some published files, start again."""
    if name.endswith(("running_mean", "running_var")) and tensor.isnan().any():
        return tensor.new_full(tensor.shape, float(name.endswith("var")))
    return tensor.squeeze(-1) if tensor.ndim == 3 else tensor


def rows_back(objective: ObjectiveConfig) -> Rows:
    """A regressor of one layer has no number."""
    left_out = "regressor.{n}." if objective.decoder else "regressor."
    return [row for row in ROWS if row[0] != left_out]


def shaped_back(name: str, tensor: Tensor) -> Tensor:
    """The tokenizer's matrices are convolutions of width 1."""
    return tensor.unsqueeze(-1) if ".embeddings." in name and tensor.ndim == 2 else tensor


def encoder_fields(m: Values, tensors: Tensors) -> tuple[Values, list[str]]:
    """What all checkpoints say of the encoder, and notes on what is another than theirs."""
    original.refuse_unless(
        m, {"encoder_dropout": 0, "decoder_dropout": 0, "encoder_qkv_bias": True}, "no recipe has it"
    )
    found = read_fields(m, FIELDS)
    radius = number(m, "tokenizer_group_radius", default=None)
    spoilt = [name for name, tensor in tensors.items() if "running_" in name and tensor.isnan().any()]
    notes = [f"{name} holds NaN, as in some published files: its statistics start again." for name in spoilt]
    return found | {
        "intermediate_size": 4 * found["hidden_size"],
        "group_radius": None if radius is None else float(radius),
        "attention_dropout": number(m, "encoder_attention_dropout", default=0.0),
        "drop_path_rate": number(m, "encoder_drop_path_rate", default=0.0),
        "add_positions_to_every_layer": bool(m.get("encoder_add_pos_at_every_layer", True)),
    }, notes


def config(cfg: Values, tensors: Tensors) -> Configured:
    m = cfg["model"]
    fields, notes = encoder_fields(m, tensors)
    rate = number(m, "decoder_attention_dropout", default=fields["attention_dropout"])
    if rate != fields["attention_dropout"]:
        notes.append(f"decoder_attention_dropout = {rate} is left out: encoder_attention_dropout takes its place.")
    steps, note = anneal_steps(m, optional_part(cfg, "trainer"))
    return Point2VecConfig(**fields, objective=objective(m, fields) | {"ema_anneal_steps": steps}), notes + note


def objective(m: Values, fields: Values) -> Values:
    part, loss = m.get("d2v_target_layer_part", "final"), m.get("loss", "smooth_l1")
    for name, value, known in (
        ("d2v_target_layer_part", part, LAYER_PARTS),
        ("loss", loss, LOSSES),
        ("d2v_target_layer_norm", m.get("d2v_target_layer_norm"), NORMS),
        ("d2v_target_norm", m.get("d2v_target_norm"), NORMS),
        ("d2v_masking_type", m.get("d2v_masking_type", "rand"), MASKINGS),
    ):
        if value not in known:
            raise ValueError(
                f"model.{name} = {value!r} is not supported: it must be one of {', '.join(map(str, known))}."
            )
    layers = m.get("d2v_target_layers", [6, 7, 8, 9, 10, 11])
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise ValueError(f"model.d2v_target_layers = {layers!r} is not supported: it must be numbers of blocks.")
    decoder = None
    if m.get("decoder", True):
        decoder = {
            "method": "transformer",
            "layers": number(m, "decoder_depth", default=4),
            "drop_path_rate": number(m, "decoder_drop_path_rate", default=0.0),
            "add_positions_to_every_layer": bool(m.get("decoder_add_pos_at_every_layer", True)),
        }
    return {
        "masking": masking(m, fields["num_groups"]),
        "top_k_layers": len(layers),
        "target_layers": layers,
        "target_tap": LAYER_PARTS[part],
        "target_layer_norm": m.get("d2v_target_layer_norm"),
        "target_norm": m.get("d2v_target_norm"),
        "loss_beta": LOSSES[loss],
        "loss_scale": 1 / fields["hidden_size"],
        "head_layers": 1 if decoder else 2,
        "decoder": decoder,
        "ema_decay": number(m, "d2v_ema_tau_min", default=0.0),
        "ema_end_decay": number(m, "d2v_ema_tau_max", default=1.0),
        "ema_delay": 1,
        "ema_scope": "blocks",
    }


def to_cfg(ours: Any, objective: ObjectiveConfig) -> Values:
    """Hyper-parameters, which say the same when they are read.

    Raises:
        ValueError: something of the configuration that the original has no parameter for.
    """
    said, groups = objective.to_dict(), ours.num_groups
    decoder, share = said["decoder"], said["masking"]["prob"]
    layers = sorted(objective.averaged_layers(ours.num_hidden_layers))
    hidden = int(groups * share) if objective.masking.uses_coordinates else groups - int(groups * (1 - share))
    cfg = original.write_fields(ours, FIELDS) | {
        "tokenizer_group_radius": ours.group_radius,
        "encoder_dropout": ours.hidden_dropout,
        "encoder_attention_dropout": ours.attention_dropout,
        "encoder_drop_path_rate": ours.drop_path_rate,
        "encoder_add_pos_at_every_layer": ours.add_positions_to_every_layer,
        "decoder": decoder is not None,
        "decoder_attention_dropout": ours.attention_dropout,
        "d2v_masking_ratio": original.mask_ratio(hidden, groups),
        "d2v_masking_type": _key(MASKINGS, objective.masking.method),
        "d2v_target_layers": layers,
        "d2v_target_layer_part": _key(LAYER_PARTS, objective.target_tap),
        "d2v_target_layer_norm": objective.target_layer_norm,
        "d2v_target_norm": objective.target_norm,
        "d2v_ema_tau_min": objective.ema_decay,
        "d2v_ema_tau_max": objective.ema_end_decay,
        "loss": _key(LOSSES, objective.loss_beta),
        "train_transformations": ["subsample", "scale", "center", "unit_sphere", "rotate"],
        "val_transformations": ["subsample", "center", "unit_sphere"],
        "transformation_subsample_points": 1024,
        "transformation_rotate_dims": [1],
    }
    if decoder is not None:
        cfg |= {
            "decoder_depth": decoder.get("layers", 4),
            "decoder_drop_path_rate": decoder.get("drop_path_rate", 0.0),
            "decoder_add_pos_at_every_layer": decoder.get("add_positions_to_every_layer", True),
        }
    again, _ = config({"model": cfg}, {})
    found = ObjectiveConfig.from_dict(again.objective).to_dict()
    # what the file says in another way, or of epochs
    found |= {name: said[name] for name in ("target_layers", "ema_anneal_steps")}
    found["masking"] |= {"prob": share}
    pairs = {f"objective.{name}": (value, found[name]) for name, value in said.items()}
    for name in ("intermediate_size", "num_prenet_layers", "layer_norm_first", "activation_dropout", "layerdrop"):
        pairs[name] = (getattr(ours, name), getattr(again, name))
    for name, (value, other) in pairs.items():
        if value != other:
            raise ValueError(f"{name} = {value!r} cannot be written: in the original it is {other!r}.")
    return cfg


def _key(table: Values, value: Any) -> Any:
    return next((name for name, found in table.items() if found == value), value)


def masking(m: Values, groups: int) -> Values:
    """The original hides int(ratio * groups); ours keeps int(groups * (1 - prob)) where tokens are drawn alone."""
    method, ratio = MASKINGS[m.get("d2v_masking_type", "rand")], number(m, "d2v_masking_ratio", default=0.65)
    return {"method": method, "prob": ratio if method == "neighbours" else (int(ratio * groups) - 0.5) / groups}


def anneal_steps(m: Values, trainer: Values) -> tuple[int, list[str]]:
    """Updates in which the decay rises, from epochs; the file does not say how many updates an epoch has."""
    epochs, updates, passed = (
        number(values, name, section, default=0)
        for values, name, section in (
            (m, "d2v_ema_tau_epochs", "model"),
            (trainer, "global_step", "trainer"),
            (trainer, "epoch", "trainer"),
        )
    )
    if updates and passed:
        return round(epochs * updates / passed), []
    steps: int = Point2VecConfig.default_objective["ema_anneal_steps"]
    return steps, [
        f"the checkpoint does not say how many updates its {epochs} epochs of rising decay have: ema_anneal_steps = "
        f"{steps}, the published recipe's, takes their place."
    ]


def tuned_config(cfg: Values, tensors: Tensors, **head: Any) -> Configured:
    fields, notes = encoder_fields(cfg["model"], tensors)
    blocks = fields["num_hidden_layers"]
    base = Point2VecConfig.default_objective
    base = base | {"top_k_layers": min(base["top_k_layers"], blocks), "loss_scale": 1 / fields["hidden_size"]}
    return Point2VecConfig(**fields | head, objective=base, problem_type="single_label_classification"), notes


def classifier_config(cfg: Values, tensors: Tensors) -> Configured:
    m = cfg["model"]
    pooling, head = m.get("cls_head_pooling", "mean+max"), m.get("cls_head", "mlp")
    if pooling not in POOLINGS or head not in ("mlp", "linear"):
        raise ValueError(f"model.cls_head = {head!r} with cls_head_pooling = {pooling!r} is not supported.")
    mlp = head == "mlp"
    return tuned_config(
        cfg,
        tensors,
        num_labels=original.rows_of(tensors, "cls_head.8.weight" if mlp else "cls_head.weight"),
        classifier_pooling=POOLINGS[pooling],
        classifier_proj_size=number(m, "cls_head_dim", default=256) if mlp else None,
        classifier_dropout=number(m, "cls_head_dropout", default=0.5),
        label_smoothing=number(m, "loss_label_smoothing", default=0.2),
    )


def parts_config(cfg: Values, tensors: Tensors) -> Configured:
    m = cfg["model"]
    categories = "label_embedding.0.weight"
    original.rows_of(tensors, categories)
    return tuned_config(
        cfg,
        tensors,
        num_labels=original.rows_of(tensors, "seg_head.7.weight"),
        num_categories=tensors[categories].shape[-1],
        segmentation_layers=m.get("seg_head_fetch_layers", [3, 7, 11]),
        segmentation_proj_size=number(m, "seg_head_dim", default=512),
        classifier_dropout=number(m, "seg_head_dropout", default=0.5),
    )


def feature_extractor(cfg: Values, config: Any, tuned: bool) -> Point2VecFeatureExtractor:
    """Part segmentation reads clouds as they are, of 2048 points."""
    m = cfg["model"]
    points = next((m[name] for name in ("num_points", "transformation_subsample_points") if m.get(name)), 2048)
    wanted = m.get("val_transformations") or []
    return Point2VecFeatureExtractor(
        num_points=number({"num_points": points}, "num_points"), do_normalize={"center", "unit_sphere"} <= {*wanted}
    )


def _source(words: str, parts: bool, tuned: Tuned) -> Source:
    return Source(
        words=words,
        arxiv="2303.16570",
        is_source=lambda name, section, tensors: (
            name == LIGHTNING and parts == any(n.startswith("seg_head.") for n in tensors)
        ),
        student="point2vec.",
        rows=ROWS,
        encoder=Point2VecModel,
        pretrained=Point2VecForPreTraining,
        config=config,
        tuned=tuned,
        older=((r"^encoder\.", "student."),),  # what fine-tuning calls it
        shaped=shaped,
        processor=feature_extractor,
        is_ours=lambda config: config.model_type == Point2VecConfig.model_type,
        to_cfg=to_cfg,
        rows_back=rows_back,
        shaped_back=shaped_back,
        teacher="teacher.ema_model.",
        layout="lightning",
        epsilon=1e-5,
    )


POINT2VEC = _source("Point2Vec", False, Tuned(Point2VecForPointCloudClassification, classifier_config, "", CLASSIFIER))
POINT2VEC_PARTS = _source(
    "Point2Vec with part segmentation", True, Tuned(Point2VecForPartSegmentation, parts_config, "", PARTS)
)
