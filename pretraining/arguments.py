"""From a recipe and the command line to checked arguments, before anything is loaded.

A recipe is a YAML file with the sections `model`, `objective`, `data`, `training` and, where the run ends with a
report, `report`. `--field value` overrides one field: `--max_steps 100`, `--objective.top_k_layers 4` or, inside a
field, `--masking.length 5`. Values are YAML.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_PRETRAINING_MAPPING, PreTrainedConfig

from ..modeling import ObjectiveConfig
from ..modeling.configuration_objective import objective_class_of
from . import recipe as recipe_file
from .command_line import RECIPES, SECTIONS, read_command
from .data.build import MODEL_TYPES, DataArguments, modality_of
from .evaluation.raw_features import RAW_FEATURES
from .evaluation.report import ReportArguments
from .model_section import build_config, check_shapes, config_class_of, open_config
from .shared_arguments import build_training
from .trainer import PretrainingArguments


@dataclass
class Run:
    """A checked recipe.

    Attributes:
        recipe: the sections with every override applied, as written into the run folder.
        model_class, config: what is built, with `config.objective` set.
        checkpoint: folder or Hub id to continue from; `None` starts from random weights.
    """

    recipe: dict[str, Any]
    model_class: Any
    config: Any
    checkpoint: str | None
    objective: ObjectiveConfig
    data: DataArguments
    training: PretrainingArguments
    report: ReportArguments | None

    @property
    def folder(self) -> Path:
        return Path(str(self.training.output_dir))


def parse_arguments(argv: Sequence[str] | None = None) -> Run:
    """Read `RECIPE.yaml [--field value ...]`.

    Raises:
        ValueError: an unknown field or an invalid value; the message names both and the fix.
        FileNotFoundError: no such recipe.
    """
    recipe, overrides = read_command(argv)
    return resolve(override(recipe, overrides))


def read_recipe(path: Path) -> dict[str, Any]:
    """The sections of a recipe, see [`recipe.read_recipe`]."""
    return recipe_file.read_recipe(path, RECIPES, SECTIONS, recipe_file.OPTIONAL)


def override(recipe: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """`--field value` pairs put into a copy of the recipe, see [`recipe.override`]."""
    return recipe_file.override(recipe, arguments, field_names)


def _config_class(model: Mapping[str, Any]) -> type[PreTrainedConfig]:
    """The type that the recipe names, else the checkpoint's; a method may start from another's weights."""
    checkpoint = model.get(recipe_file.CHECKPOINT)
    config_class = config_class_of(checkpoint) if recipe_file.CHECKPOINT in model else None
    if config_class is not None and model.get("model_type") in tuple(MODEL_TYPES):
        named: Any = CONFIG_MAPPING[str(model["model_type"])]
        if config_class.model_type in getattr(named, "starts_from", ()):
            return named
    found = model.get("model_type") if config_class is None else config_class.model_type
    if found not in tuple(MODEL_TYPES):
        where = "model.model_type =" if config_class is None else f"model.model_name_or_path = {checkpoint!r} holds"
        raise ValueError(
            f"{where} {found!r}, which cannot be pretrained here: use one of {', '.join(sorted(MODEL_TYPES))}, or "
            "give model.model_name_or_path."
        )
    return config_class or CONFIG_MAPPING[str(found)]


def field_names(section: str, recipe: Mapping[str, Any]) -> set[str]:
    """The fields that a section of this recipe may hold."""
    if section == "model":
        config_class = _config_class(recipe["model"])
        model_class: Any = MODEL_FOR_PRETRAINING_MAPPING[config_class]
        return {*recipe_file.names_of(config_class), "model_type", recipe_file.CHECKPOINT, *model_class.config_fields}
    if section == "data":
        return set(recipe_file.names_of(modality_of(_config_class(recipe["model"]).model_type).arguments_class))
    objective = objective_class_of(_config_class(recipe["model"]))
    classes = {"objective": objective, "training": PretrainingArguments, "report": ReportArguments}
    return set(recipe_file.names_of(classes[section]))


def resolve(recipe: Mapping[str, Any]) -> Run:
    """Build and check everything that a recipe says; loads no data and no weights."""
    recipe_file.check_fields(recipe, field_names)
    model = dict(recipe["model"])
    checkpoint = model.pop(recipe_file.CHECKPOINT, None)
    config_class = _config_class(recipe["model"])
    named = model.pop("model_type", config_class.model_type)
    if checkpoint is None:
        config = build_config(config_class, model)
    else:
        if named != config_class.model_type:
            raise ValueError(
                f"model.model_type = {named!r} contradicts the encoder in {checkpoint}, which is "
                f"{config_class.model_type!r}: use a recipe of its modality and family."
            )
        check_shapes(checkpoint, model, config_class)
        config = open_config(checkpoint, model, config_class)
    model_class: Any = MODEL_FOR_PRETRAINING_MAPPING[config_class]

    stored = getattr(config, "objective", None) or model_class.default_objective
    objective = objective_class_of(config_class).from_dict({**stored, **recipe["objective"]})
    model_class.check_objective(config, objective)
    config.objective = objective.to_dict()

    modality = modality_of(config)
    data = modality.arguments_class.from_dict(recipe["data"])
    training = build_training(recipe["training"], PretrainingArguments)
    report = ReportArguments.from_dict(recipe["report"]) if "report" in recipe else None
    _check_lengths(objective, training)
    grid, because = modality.smallest_grid(data, config)
    try:
        objective.masking.check(grid)
    except ValueError as error:
        raise ValueError(f"objective.{error}. The smallest input of this run has {because}.") from error
    if report is not None:
        RAW_FEATURES[modality]  # what the report compares with: known to be there before the run
    if "probe/" in str(training.metric_for_best_model) and (data.probe is None or not training.probe_steps):
        raise ValueError(
            f"training.metric_for_best_model = {training.metric_for_best_model!r} is the online probe's: set "
            "data.probe and training.probe_steps, at most training.eval_steps."
        )
    if data.probe is None:  # then there is nothing to probe and report with
        training.probe_steps, report = 0, None
    return Run(dict(recipe), model_class, config, checkpoint, objective, data, training, report)


def _check_lengths(objective: ObjectiveConfig, training: PretrainingArguments) -> None:
    """Schedules that would end after the run are slips, and ruin it quietly."""
    steps = training.max_steps
    if steps <= 0:
        return
    if objective.ema_anneal_steps > steps:
        raise ValueError(
            f"objective.ema_anneal_steps = {objective.ema_anneal_steps} is beyond the run's training.max_steps = "
            f"{steps}: anneal within the run, or run longer."
        )
    if training.warmup_steps > steps:
        raise ValueError(
            f"training.warmup_steps = {training.warmup_steps:g} is beyond the run's training.max_steps = {steps}: "
            "warm up within the run, or run longer."
        )
