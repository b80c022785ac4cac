"""The original's configuration: how fields of a stranger's are read, and ours are written.

A field that both configurations have is one row of a table, which is read in both directions.
"""

import math
import re
from typing import Any

from ..configuration_objective import ObjectiveConfig
from .source import Tensors, Values


Fields = list[tuple[Any, ...]]  # (original, ours) of a field that has to be there, (original, ours, default) otherwise
MISSING = object()
MOST, MOST_PARTS = 2**31, 100  # of any number, and of layers, heads, tokens, views, patches in a row
PARTS = re.compile(r".*(layers|heads|tokens|views|num_conv_pos_embeddings|patches in a row)")


def number(values: Values, name: str, section: str = "model", default: Any = MISSING) -> Any:
    """A number of the original's configuration, `default` where there is none.

    Raises:
        ValueError: it is missing and has to be there, no number, or out of any reasonable range.
    """
    value = values.get(name)
    value = default if value is None else value
    if value is MISSING:
        raise ValueError(f"{section}.{name} is missing from the checkpoint's configuration.")
    if value is not default and not (isinstance(value, int | float) and abs(value) <= MOST):  # NaN fails as well
        raise ValueError(f"{section}.{name} = {value!r} is not supported: it must be a number up to {MOST}.")
    return value


def part_of(values: Values, name: str, section: str = "model") -> Values:
    """A section of the original's configuration that has to be there."""
    if not isinstance(values.get(name), dict):
        raise ValueError(f"{section}.{name} is missing from the checkpoint's configuration.")
    found: Values = values[name]
    return found


def optional_part(values: Values, name: str) -> Values:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def read_fields(values: Values, fields: Fields, section: str = "model") -> Values:
    return {ours: number(values, theirs, section, *default) for theirs, ours, *default in fields}


def write_fields(config: Any, fields: Fields) -> Values:
    return {theirs: config[ours] if isinstance(config, dict) else getattr(config, ours) for theirs, ours, *_ in fields}


def refuse_unless(values: Values, expected: Values, why: str, section: str = "model") -> None:
    """Raise a ValueError that names the first field with another value; a field that is not there is passed over."""
    for name, built in expected.items():
        if values.get(name, built) != built:
            raise ValueError(f"{section}.{name} = {values[name]!r} is not supported: {why}; only {built!r} is.")


def check_numbers(values: Values) -> None:
    """Refuse numbers that no model has, before anything of that size is built."""
    if "patch_size" in values:
        side = max(_listed(values.get("image_size", 0))) // min(_listed(values["patch_size"]))
        values = values | {"patches in a row": side}
    for name, value in values.items():
        if isinstance(value, dict):
            check_numbers(value)
            continue
        most = MOST_PARTS if PARTS.fullmatch(str(name)) else MOST
        for entry in _listed(value):
            if isinstance(entry, int | float) and not abs(entry) <= most:
                raise ValueError(f"{name} = {entry!r} is not supported: at most {most} is.")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def rows_of(tensors: Tensors, name: str) -> int:
    if name not in tensors:
        raise ValueError(f"the checkpoint has no tensor {name}.")
    return len(tensors[name])


CONV = r"[\[(](\d{1,5}),(\d{1,5}),(\d{1,5})[\])]"
CONVS = re.compile(rf"\[({CONV}(?:,{CONV})*),?\](?:\*(\d{{1,2}}))?")


def conv_layers(spec: Any) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution of a spec like "[(512, 10, 5)] + [(512, 3, 2)] * 4"."""
    layers: list[tuple[int, int, int]] = []
    for term in re.sub(r"\s", "", str(spec)).split("+"):
        found = CONVS.fullmatch(term)
        if found is None:
            raise ValueError(
                f"the convolutions {spec!r} cannot be read: expected [(channels, kernel, stride), ...] with whole "
                "numbers."
            )
        convs = [(int(c), int(k), int(s)) for c, k, s in re.findall(CONV, found[1])]
        layers += convs * int(found.groups()[-1] or 1)
    return layers


def conv_spec(config: Any) -> str:
    return str(list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)))


def conv_fields(spec: Any, width: int, depth: int) -> Values:
    """Of the front end, and of the positional convolutions that are `width` wide together."""
    channels, kernels, strides = zip(*conv_layers(spec), strict=True)
    fields: Values = {"conv_dim": list(channels), "conv_kernel": list(kernels), "conv_stride": list(strides)}
    return fields | {"conv_pos_kernel_size": max(3, width // depth)}


def labels_of(tensors: Tensors, name: str) -> Values:
    """One label is a regression (STS-B)."""
    labels = rows_of(tensors, name)
    return {"num_labels": labels, "problem_type": "regression" if labels == 1 else "single_label_classification"}


def text_head(head: Values, tensors: Tensors) -> Values:
    """RoBERTa's head of a classifier."""
    refuse_unless(head, {"pooler_activation_fn": "tanh"}, "the head has tanh")
    heads = sorted({name.split(".")[1] for name in tensors if name.startswith("classification_heads.")})
    if len(heads) != 1:
        raise ValueError(f"the checkpoint has {len(heads)} classification heads {heads}: only one can be converted.")
    labels = labels_of(tensors, f"classification_heads.{heads[0]}.out_proj.weight")
    return labels | {"classifier_dropout": number(head, "pooler_dropout", default=0.0)}


def ctc_head(head: Values, tensors: Tensors) -> Values:
    """The blank is token 0, `<s>` in the original's dictionary; frames and channels are masked in fine-tuning."""
    refuse_unless(head, {"blank_weight": 0}, "the head adds nothing to the blank")
    on = bool(head.get("apply_mask", False))
    return {
        "vocab_size": rows_of(tensors, "w2v_encoder.proj.weight"),
        "pad_token_id": 0,
        "final_dropout": number(head, "final_dropout", default=0.0),
        "mask_time_prob": number(head, "mask_prob", default=0.0) if on else 0.0,
        "mask_time_length": number(head, "mask_length", default=10),
        "mask_feature_prob": number(head, "mask_channel_prob", default=0.0) if on else 0.0,
        "mask_feature_length": number(head, "mask_channel_length", default=10),
    }


# ---- the objective ----

NORMS = ("instance", "layer", "batch")
OBJECTIVE: Fields = [
    ("average_top_k_layers", "top_k_layers"),
    ("loss_beta", "loss_beta", 0),
    ("ema_decay", "ema_decay"),
    ("ema_end_decay", "ema_end_decay"),
    ("ema_anneal_end_step", "ema_anneal_steps"),
]


def read_objective(m: Values) -> Values:
    """What data2vec 1 and 2.0 share. The original can stack several normalisations, which no recipe does."""
    refuse_unless(m, {"group_norm_target_layer": False}, "no recipe uses it")
    found = read_fields(m, OBJECTIVE)
    for ours, suffix in (("target_layer_norm", "_norm_target_layer"), ("target_norm", "_norm_targets")):
        names = [norm for norm in NORMS if m.get(norm + suffix)]
        if len(names) > 1:
            raise ValueError(
                f"model.{names[0]}{suffix} and model.{names[1]}{suffix} are both on: only one of them is supported."
            )
        found[ours] = names[0] if names else None
    scale = number(m, "loss_scale", default=0)
    return found | {
        "ema_anneal_steps": int(found["ema_anneal_steps"]),
        "loss_scale": scale if scale > 0 else None,
        "original_padding": True,  # the folder answers as the checkpoint did, in padded batches too
    }


def write_objective(objective: ObjectiveConfig) -> Values:
    for name, known in (("target_layer_norm", NORMS), ("target_norm", NORMS[:2])):
        if (norm := getattr(objective, name)) not in (None, *known):
            raise ValueError(f"objective.{name} = {norm!r} cannot be written: the original has no such switch.")
    return write_fields(objective, OBJECTIVE) | {
        "loss_scale": objective.loss_scale,
        **{f"{norm}_norm_target_layer": objective.target_layer_norm == norm for norm in NORMS},
        **{f"{norm}_norm_targets": objective.target_norm == norm for norm in NORMS[:2]},
    }


def check_expressible(objective: ObjectiveConfig, config: Any) -> None:
    """Raise a ValueError for an objective that the original code has no switches for."""
    ends = objective.target_tap == "end_of_block" and config.model_type not in ("data2vec-audio", "data2vec-text")
    if objective.target_tap != "ffn" and not ends:
        raise ValueError(
            f"objective.target_tap = {objective.target_tap!r} cannot be written: the original has no such target for "
            f"{config.model_type}."
        )
    if getattr(config, "hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act = {config.hidden_act!r} cannot be written: the original's is 'gelu'.")
    if objective.teacher_window is not None:
        raise ValueError(
            f"objective.teacher_window = {objective.teacher_window} cannot be written: the original's teacher sees "
            "everything; set it to null, which no weight depends on."
        )


def mask_ratio(hidden: int, patches: int) -> float:
    """The share of patches of which `int(ratio * patches)` is exactly `hidden`."""
    ratio = hidden / patches
    return ratio if int(ratio * patches) == hidden else math.nextafter(ratio, 1)
