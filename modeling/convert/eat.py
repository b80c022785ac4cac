"""EAT: its fairseq checkpoints, which are data2vec 2.0's of images, and the folders that are published on the Hub."""

from dataclasses import replace
from typing import Any

from ..configuration_eat import EatConfig
from ..feature_extraction_eat import EatFeatureExtractor
from ..modeling_eat import EatForAudioClassification, EatForPreTraining, EatModel
from . import fairseq_multi as multi
from . import original
from .fairseq_multi_keys import BLOCK
from .keys import Rows, under
from .original import Fields, number, optional_part, part_of, read_fields
from .source import Configured, Source, Tensors, Tuned, Values


ARXIV = "2401.03497"
MEL_BINS = 128  # which the original cannot change
PATCH = 16  # of which the original's kernel can be another, and its stride cannot
POOLINGS = {"CLS_TOKEN": "cls_token", "MEAN_POOLING": "mean", "LIN_SOFTMAX": "lin_softmax"}
STATISTICS = {"esc50_eval": (-6.627, 5.359), "spcv2_eval": (-6.846, 5.565)}  # switch -> mean and deviation
TABLE = "fixed_positional_encoder.positions"


def of_network(values: Values, tensors: Tensors) -> Values:
    """Positions for as many rows as the checkpoint's table has."""
    original.refuse_unless(values, {"patch_size": PATCH, "stride": PATCH, "in_chans": 1}, "patches do not overlap")
    table = next((tensor for name, tensor in tensors.items() if name.endswith(TABLE)), None)
    if table is None or table.ndim != 3:
        raise ValueError(f"the checkpoint has no table of positions, {TABLE}.")
    return {"max_position_embeddings": table.shape[1] // (MEL_BINS // PATCH)}


def config(cfg: Values, tensors: Tensors) -> Configured:
    return _reading_padding_as_told(multi.config(cfg, tensors, KIND))


def tuned_config(cfg: Values, tensors: Tensors) -> Configured:
    head = cfg["model"]
    original.refuse_unless(head, {"use_fc_norm": True}, "our head has a norm")
    mode = str(head.get("prediction_mode", "MEAN_POOLING")).rpartition(".")[2]
    if mode not in POOLINGS:
        raise ValueError(f"model.prediction_mode = {mode} is not supported: only {', '.join(POOLINGS)} are.")
    fields = {
        "num_labels": original.rows_of(tensors, "head.weight"),
        "problem_type": "single_label_classification" if _data_set(cfg) else "multi_label_classification",
        "classifier_pooling": POOLINGS[mode],
        "drop_path_rate": number(head, "drop_path_rate", default=0.0),
    }
    inner = part_of(head, "pretrained_model_args")
    return _reading_padding_as_told(multi.config(inner, tensors, KIND, True, **fields))


def _reading_padding_as_told(found: Configured) -> Configured:
    """The original knows no padding; with an attention mask, which it does not have, padding is to change nothing."""
    found[0].objective["original_padding"] = False
    return found


def _data_set(cfg: Values) -> str | None:
    """Which data set's statistics it was trained with, where they are not AudioSet's."""
    sections = (cfg["model"], optional_part(cfg, "task"))
    return next((name for name in STATISTICS for section in sections if section.get(name)), None)


def processor(cfg: Values, config: Any, tuned: bool) -> EatFeatureExtractor:
    """As the original: clips are padded to its length, and padding is read."""
    data_set, sections = _data_set(cfg), (cfg["model"], optional_part(cfg, "task"))
    frames = next((length for section in sections if (length := number(section, "target_length", default=0))), 1024)
    statistics: Values = dict(zip(("mean", "std"), STATISTICS[data_set], strict=True)) if data_set else {}
    return EatFeatureExtractor(max_length=frames, padding="max_length", return_attention_mask=False, **statistics)


def to_section(config: Any, masks: Values) -> tuple[Values, Values]:
    if (config.num_mel_bins, config.patch_size) != (MEL_BINS, PATCH):
        raise ValueError(
            f"num_mel_bins = {config.num_mel_bins} and patch_size = {config.patch_size} cannot be written: the "
            f"original's are {MEL_BINS} and {PATCH}."
        )
    frames = 1024
    local = {"input_size": 224, "patch_size": PATCH, "in_chans": 1, "embed_dim": config.hidden_size}
    local |= {"fixed_positions": True, "target_length": frames, "max_length": config.max_position_embeddings}
    task = {"_name": "mae_image_pretraining", "data": "none", "audio_mae": True, "target_length": frames}
    return local, task | {"precompute_mask_config": {"patch_size": PATCH, **masks}}


KIND = multi.Kind("image", EatConfig, of_network, to_section, samples=12)
HEAD: Rows = [("fc_norm.", "norm."), ("head.", "classifier.")]
EAT = replace(
    multi.source(
        KIND,
        "EAT",
        EatModel,
        EatForPreTraining,
        Tuned(EatForAudioClassification, tuned_config, "model.", HEAD),
        multi.OLDER_IMAGE,
    ),
    arxiv=ARXIV,
    is_source=lambda name, section, tensors: (
        name == multi.NAME and "target_length" in optional_part(optional_part(section, "modalities"), "image")
    ),
    config=config,
    processor=processor,
)


# ---- the Hub's folders: student weights alone ----

HUB: Fields = [
    ("embed_dim", "hidden_size"),
    ("depth", "num_hidden_layers"),
    ("num_heads", "num_attention_heads"),
    ("norm_eps", "layer_norm_eps", 1e-6),
    ("drop_rate", "hidden_dropout", 0.0),
    ("attn_drop_rate", "attention_dropout", 0.0),
    ("activation_dropout", "activation_dropout", 0.0),
    ("end_drop_path_rate", "drop_path_rate", 0.0),
    ("mel_bins", "num_mel_bins", MEL_BINS),
]
HUB_SWITCHES = {"layer_norm_first": False, "norm_affine": True, "fixed_positions": True, "qkv_bias": True}
ENCODER: Rows = [
    ("local_encoder.proj.", "embeddings.projection."),
    ("extra_tokens", "encoder.extra_tokens"),
    (TABLE, "positions.table"),
    ("pre_norm.", "encoder.norm."),
    *under("blocks.{n}.", "encoder.layers.{n}.", BLOCK),
]


def hub_config(cfg: Values, tensors: Tensors) -> Configured:
    values = cfg["model"]
    original.refuse_unless(values, HUB_SWITCHES | {"mel_bins": MEL_BINS}, "no published model has it")
    found = read_fields(values, HUB)
    fields: Values = found | of_network(values, tensors)
    fields["intermediate_size"] = int(found["hidden_size"] * number(values, "mlp_ratio", default=4))
    fields["classifier_norm_eps"] = 1e-5  # in the code that lies with them
    if "model.head.weight" in tensors:
        fields |= {"num_labels": len(tensors["model.head.weight"]), "problem_type": "multi_label_classification"}
    fields["objective"] = EatConfig.default_objective
    return EatConfig(**fields), []


def hub_processor(cfg: Values, config: Any, tuned: bool) -> EatFeatureExtractor:
    size = cfg["model"].get("img_size")
    frames = number({"img_size": size[0] if isinstance(size, list) and size else None}, "img_size", default=1024)
    return processor({"model": {"target_length": frames}}, config, tuned)


EAT_HUB = Source(
    words="EAT (Hub)",
    arxiv=ARXIV,
    is_source=lambda name, section, tensors: name == "eat",
    student="eat.",
    rows=under("model.", "eat.", ENCODER),
    encoder=EatModel,
    pretrained=EatModel,
    config=hub_config,
    tuned=Tuned(EatForAudioClassification, hub_config, "", under("model.", "", HEAD)),
    processor=hub_processor,
)
