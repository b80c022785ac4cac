"""emotion2vec's checkpoints: fairseq's of data2vec 2.0 with utterance tokens, and those published for FunASR.

The latter (emotion2vec+) hold tensors alone: the encoder's, with `d2v_model.` in front, and the classifier's, `proj`.
Their labels are in a file beside them, `tokens.txt`; those that begin with "unuse" stand for nothing and are left out.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..configuration_emotion2vec import Emotion2vecConfig
from ..configuration_objective import ObjectiveConfig
from ..modeling_emotion2vec import Emotion2vecForPreTraining, Emotion2vecForSequenceClassification, Emotion2vecModel
from . import fairseq_multi as multi
from .checkpoint import FUNASR, Checkpoint
from .original import number, optional_part, part_of, rows_of
from .processors import feature_extractor, read_lines
from .source import Configured, Tensors, Tuned, Values


LABEL_FILE = "tokens.txt"
UNUSED = "unuse"  # what labels that stand for nothing begin with
# of emotion2vec+, where no file says them
LABELS = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")
POOLINGS = {"chunk": "tokens", "token": "last_token", "global": "mean"}  # cls_type -> ours
AUDIO = "modality_encoders.AUDIO."
TOKENS = f"{AUDIO}extra_tokens"
UNKNOWN_WEIGHT = (
    "the checkpoint's cls_loss, taken as relative to a mean, as the paper writes it. fairseq's is relative to the "
    "samples of a process times the views, and the checkpoint does not say how many there were."
)


def is_emotion2vec(name: str, section: Values, tensors: Tensors) -> bool:
    """Speech with a loss on utterance tokens, the first of which starts at zero, or FunASR's layout."""
    if FUNASR + TOKENS in tensors:
        return True
    if name != multi.NAME or TOKENS not in tensors or len(tensors[TOKENS].flatten(0, -2)) < 2:
        return False
    audio = optional_part(optional_part(section, "modalities"), "audio")
    return "cls_type" in section or (bool(section.get("cls_loss")) and bool(audio.get("init_extra_token_zero", True)))


def configuration(cfg: Values, tensors: Tensors) -> Configured:
    section = part_of(cfg, "model", "cfg")
    found, notes = multi.config({**cfg, "model": {**section, "cls_loss": 0}}, tensors, KIND)
    weight, pooling = number(section, "cls_loss", default=1.0), str(section.get("cls_type", "chunk"))
    if pooling not in POOLINGS:
        raise ValueError(f"model.cls_type = {pooling!r} is not supported: only {', '.join(POOLINGS)} are.")
    samples = number(optional_part(cfg, "dataset"), "batch_size", "dataset", 0)
    if samples:
        weight *= samples * number(section, "clone_batch", default=1)
    elif weight:
        notes = [*notes, f"objective.cls_loss_weight = {weight:g}: {UNKNOWN_WEIGHT}"]
    objective = {"cls_loss_weight": weight, "cls_pooling": POOLINGS[pooling]}
    return _one_clip_at_a_time((found, notes), objective)


def classifier(cfg: Values, tensors: Tensors) -> Configured:
    labels = cfg.get("labels") or [f"LABEL_{i}" for i in range(rows_of(tensors, "proj.weight"))]
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return _one_clip_at_a_time(multi.config(cfg, tensors, KIND, True, **names), {})


def _one_clip_at_a_time(found: Configured, objective: Values) -> Configured:
    """The original never pads; with padding as there, a clip of a batch would come out as no clip does alone."""
    config: Any = found[0]
    config.objective = ObjectiveConfig.from_dict(config.objective | objective | {"original_padding": False}).to_dict()
    return found


def prepared(read: Checkpoint, labels: Path | None) -> Checkpoint:
    """With the configuration that FunASR's tensors imply, and without the labels that are not used."""
    if not any(name.startswith(FUNASR) for name in read.tensors):
        return read
    cfg: Values = {**read.cfg, "model": implied(read.tensors)}
    tensors = dict(read.tensors)
    count = rows_of(tensors, "proj.weight")
    file = labels or read.path.parent / LABEL_FILE
    if labels is not None or file.is_file():
        lines = [line.strip() for line in read_lines(file) if line.strip()]
        if len(lines) != count:
            raise ValueError(f"{file} has {len(lines)} labels, the checkpoint {count}: it is another model's.")
        kept = [i for i, line in enumerate(lines) if not line.startswith(UNUSED)]
        cfg["labels"] = [_english(lines[i]) for i in kept]
        tensors |= {name: tensors[name][kept] for name in ("proj.weight", "proj.bias") if name in tensors}
    elif count == len(LABELS):
        cfg["labels"] = list(LABELS)
    return replace(read, cfg=cfg, tensors=tensors)


def _english(line: str) -> str:
    """Of a label in Chinese and in English, with a slash between them."""
    label = line.rpartition("/")[2]
    return "unknown" if label == "<unk>" else label


def implied(tensors: Tensors) -> Values:
    """fairseq's configuration of a network whose tensors are these. Strides, which no tensor tells, are published."""

    def shape(name: str) -> tuple[int, ...]:
        if FUNASR + name not in tensors:
            raise ValueError(f"the checkpoint has no tensor {FUNASR}{name}.")
        return tuple(tensors[FUNASR + name].shape)

    def blocks(stem: str, rest: str) -> int:
        pattern = re.compile(re.escape(FUNASR + stem) + r"(\d{1,3})" + re.escape(rest))
        return sum(bool(pattern.fullmatch(name)) for name in tensors)

    _, extra, dim = shape(TOKENS)
    convolutions, positions = "local_encoder.conv_layers.", "relative_positional_encoder."
    convs = [shape(f"{AUDIO}{convolutions}{i}.0.weight") for i in range(blocks(AUDIO + convolutions, ".0.weight"))]
    depth = blocks(AUDIO + positions, ".0.weight")
    _, group, width = shape(f"{AUDIO}{positions}1.0.weight")
    audio = {
        "prenet_depth": blocks(f"{AUDIO}context_encoder.blocks.", ".norm1.weight"),
        "num_extra_tokens": extra,
        "feature_encoder_spec": str([(conv[0], conv[2], 2 if i else 5) for i, conv in enumerate(convs)]),
        "conv_pos_depth": depth,
        "conv_pos_width": width * depth,
        "conv_pos_groups": dim // group,
    }
    return {
        "_name": "data2vec_multi",
        "embed_dim": dim,
        "depth": blocks("blocks.", ".norm1.weight"),
        "num_heads": shape(f"{AUDIO}alibi_scale")[2],
        "mlp_ratio": shape("blocks.0.mlp.fc1.weight")[0] / dim,
        "norm_eps": 1e-5,
        "modalities": {"audio": audio},
    }


def to_cfg(config: Any, objective: ObjectiveConfig) -> Values:
    cfg = multi.to_cfg(config, objective, KIND)
    cfg["model"]["cls_type"] = {ours: theirs for theirs, ours in POOLINGS.items()}[objective.cls_pooling]
    return cfg


KIND = replace(multi.AUDIO_KIND, config_class=Emotion2vecConfig)
EMOTION2VEC = replace(
    multi.source(
        KIND,
        "emotion2vec",
        Emotion2vecModel,
        Emotion2vecForPreTraining,
        Tuned(Emotion2vecForSequenceClassification, classifier, FUNASR, [("proj.", "classifier.")]),
    ),
    arxiv="2312.15185",
    is_source=is_emotion2vec,
    config=configuration,
    prepared=prepared,
    teacherless=True,
    processor=lambda cfg, config, tuned: feature_extractor(optional_part(cfg, "task")),
    to_cfg=to_cfg,
)
