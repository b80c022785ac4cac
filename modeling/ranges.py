"""Ranges of the numbers in a model's configuration, `transformers`' data2vec 1 included, and of indices in a batch."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig


# name of a field -> least value, greatest value, whether the greatest is excluded
SHARE = (0, 1, True)
PROBABILITY = (0, 1, False)
COUNT = (1, math.inf, True)
NOT_NEGATIVE = (0, math.inf, True)
RANGES: dict[str, tuple[float, float, bool]] = {
    **dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "classifier_dropout", "final_dropout")
        + ("feat_proj_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "layerdrop", "drop_path_rate"),
        SHARE,
    ),
    **dict.fromkeys(("mask_time_prob", "mask_feature_prob"), PROBABILITY),
    "label_smoothing": SHARE,
    **dict.fromkeys(
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
        + ("conv_dim", "conv_kernel", "conv_stride", "conv_pos_kernel_size", "num_conv_pos_embedding_groups")
        + ("mask_time_length", "mask_feature_length", "classifier_proj_size", "vocab_size")
        + (
            "image_size",
            "patch_size",
            "num_channels",
            "num_mel_bins",
            "num_stacked_frames",
            "resnet_width",
            "num_persons",
            "num_joints",
        )
        + ("num_groups", "group_size", "num_categories", "segmentation_proj_size"),
        COUNT,
    ),
    **dict.fromkeys(
        ("num_prenet_layers", "num_extra_tokens", "num_conv_pos_embeddings", "layer_norm_eps", "initializer_range")
        + ("layer_scale_init_value", "classifier_norm_eps"),
        NOT_NEGATIVE,
    ),
}


def check_ranges(config: PreTrainedConfig) -> None:
    """Raise a ValueError that names a number of `config` outside its range: NaN, infinite, too small or too large."""
    for name, (least, greatest, excluded) in RANGES.items():
        given = vars(config).get(name)  # not what a configuration computes from others
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is None or least <= value < greatest or (value == greatest and not excluded):
                continue
            limit = "finite" if greatest == math.inf else f"{'below' if excluded else 'at most'} {greatest}"
            raise ValueError(f"{name} = {given!r}: must be at least {least} and {limit}.")


def require(prefix: str, values: Any, checks: Mapping[str, tuple[bool, str]]) -> None:
    """Raise a ValueError for the first field of `values` that is not what it must be: field -> (holds, words)."""
    for name, (holds, words) in checks.items():
        if not holds:
            raise ValueError(f"{prefix}{name} = {getattr(values, name)!r}: must be {words}.")


def require_indices(
    name: str, values: Tensor, below: int, ignored: int | None = None, allowed: Tensor | None = None
) -> None:
    """Refuse indices outside 0 to `below - 1`: a ValueError with the first wrong one.

    A GPU, which nothing waits for, ends with the same words itself; what is compiled is not checked.

    Args:
        ignored: a value that may also be there.
        allowed: bool `(batch, below)`, which indices each row may hold, where these are not all.
    """
    if torch.compiler.is_compiling() or values.is_meta:
        return
    right = (values >= 0) & (values < below)
    words = f"must be 0 to {below - 1}" if ignored is None else f"must be 0 to {below - 1}, or {ignored}"
    if allowed is not None:
        rows = allowed.gather(1, values.clamp(0, below - 1).view(len(values), -1))
        right, words = right & rows.view_as(right), f"{words}, and not padding"
    if ignored is not None:
        right |= values == ignored
    if not values.is_cpu:
        torch._assert_async(right.all(), f"{name}: {words}.")
    elif not right.all():
        raise ValueError(f"{name} holds {int(values[~right][0])}: {words}.")
