"""The section `model` of a recipe, in pretraining and fine-tuning: which configuration, and whether weights fit it."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from ..modeling.ranges import check_ranges
from .data.hub_names import require_hub_name


BLOCK = re.compile(r"\.\d+\.")  # in the name of a tensor that one of many layers holds


def open_config(
    checkpoint: Any, overrides: Mapping[str, Any] | None = None, config_class: Any = AutoConfig
) -> PreTrainedConfig:
    """The configuration of a run folder or a model on the Hub, with fields of the recipe on top.

    `config_class` reads it, by default as what it says that it is.

    Raises:
        ValueError: there is none, or it refuses a value.
    """
    where = f"model.model_name_or_path = {checkpoint!r}"
    if not isinstance(checkpoint, str) or not checkpoint.strip():
        raise ValueError(f"{where} is invalid: name the folder of a pretraining run, or a model on the Hub.")
    try:
        require_hub_name(checkpoint)
    except ValueError as error:
        raise ValueError(f"{where} cannot be opened. {error}") from error
    try:
        config = config_class.from_pretrained(checkpoint, trust_remote_code=False, **(overrides or {}))
        check_ranges(config)
    except OSError as error:  # also where nothing can be downloaded
        raise ValueError(
            f"{where} cannot be opened: name a folder with a config.json, a run's or its pretraining/, or a model on "
            f"the Hub. {error}"
        ) from error
    except Exception as error:  # the strict configurations raise types of their own, which are no ValueErrors
        raise ValueError(f"model: {error.__cause__ or error}") from error
    return config


def teacher_config(folder: Any) -> dict[str, Any]:
    """The configuration of `objective.teacher`.

    Raises:
        ValueError: it cannot be opened.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"objective.teacher = {folder!r} cannot be opened: name the folder of an encoder, or a model on the Hub. "
            f"{error}"
        ) from error
    return {name: value for name, value in config.to_dict().items() if name != "objective"}


def config_class_of(checkpoint: Any) -> type[PreTrainedConfig]:
    """The class of a checkpoint's configuration. Raises ValueError as `open_config` does."""
    return _class_of(checkpoint) if isinstance(checkpoint, str) else type(open_config(checkpoint))


@functools.cache
def _class_of(checkpoint: str) -> type[PreTrainedConfig]:  # a sweep asks thousands of times
    return type(open_config(checkpoint))


def build_config(config_class: type[PreTrainedConfig], values: Mapping[str, Any]) -> PreTrainedConfig:
    """A new configuration. Raises ValueError where it refuses a value."""
    try:
        config = config_class(**values)
        check_ranges(config)
    except Exception as error:  # as above
        raise ValueError(f"model: {error.__cause__ or error}") from error
    return config


def check_shapes(checkpoint: str, overrides: Mapping[str, Any], config_class: Any = AutoConfig) -> None:
    """Refuse fields of the recipe that give the encoder of a checkpoint other shapes, or other blocks, than it has.

    Raises:
        ValueError: names the field, both values and the fix.
    """
    if not overrides:
        return
    stored = open_config(checkpoint, config_class=config_class)
    differing = {name: value for name, value in overrides.items() if getattr(stored, name, value) != value}
    if not differing:
        return
    before = _shapes(stored)

    def fit(fields: Mapping[str, Any]) -> bool:
        try:
            now = _shapes(open_config(checkpoint, fields, config_class))
        except ValueError:  # a field does not even go with the other sizes
            now = {}
        blocks = [{key for key in shapes if BLOCK.search(key)} for shapes in (before, now)]
        return blocks[0] == blocks[1] and all(now[key] == before[key] for key in before.keys() & now.keys())

    if fit(differing):
        return
    for name, value in differing.items():
        if not fit({name: value}):
            raise ValueError(
                f"model.{name} = {value!r} contradicts the encoder in {checkpoint}, whose {name} is "
                f"{getattr(stored, name)!r}: leave out the fields of model that its weights decide, as "
                f"--model '{{model_name_or_path: {checkpoint}}}' does."
            )


def _shapes(config: PreTrainedConfig) -> dict[str, torch.Size]:
    """Name -> shape of the tensors of an encoder, which takes no memory."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in AutoModel.from_config(config).state_dict().items()}
