"""From a recipe and the command line to checked arguments, before anything is loaded.

A recipe is a YAML file with the sections `model`, `objective`, `data`, `training` and, where the run ends with a
report, `report`. With `modalities` it is a joint run: each of them has sections of its own, `model` holds the blocks
that all share and `objective` the teacher's schedule. `--field value` overrides one field: `--max_steps 100`,
`--objective.top_k_layers 4` or, inside a field, `--masking.length 5`. Values are YAML.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_PRETRAINING_MAPPING, PreTrainedConfig

from ..modeling import JointConfig, JointForPreTraining
from ..modeling.configuration_joint import TRUNK, own_fields
from ..modeling.configuration_objective import EmaSchedule, objective_class_of
from ..modeling.target_kinds import TARGET_KINDS
from . import recipe as recipe_file
from .checkpoints.run_files import RESERVED
from .command_line import RECIPES, SECTIONS, read_command
from .command_line import field_names as joint_field_names
from .evaluation.raw_features import RAW_FEATURES
from .evaluation.report import ReportArguments
from .modalities.build import MODEL_TYPES, modality_of
from .model_section import build_config, check_shapes, config_class_of, open_config, teacher_config
from .recipe import typed
from .shared_arguments import build_training
from .stage_arguments import StagesArguments
from .trainer import PretrainingArguments


@dataclass
class Part:
    """What is built and what it is trained on.

    Attributes:
        model_class, config: what is built, with `config.objective` set.
        checkpoint: folder or Hub id to continue from; `None` starts from random weights.
        data: `None` in a joint run, whose modalities have their own.
        weight, batch_size: of a modality in a joint run: its share of the updates, relative to the others', and most
            examples of a device, `training.per_device_train_batch_size` if `None`.
    """

    model_class: Any
    config: Any
    checkpoint: str | None
    objective: Any
    data: Any
    weight: float | None = None
    batch_size: int | None = None


@dataclass(kw_only=True)
class Run(Part):
    """A checked recipe.

    Attributes:
        recipe: the sections with every override applied, as written into the run folder.
        modalities: of a joint run, by name.
    """

    recipe: dict[str, Any]
    training: PretrainingArguments
    report: ReportArguments | None
    modalities: dict[str, Part]

    @property
    def parts(self) -> dict[str, Part]:
        """Each modality of a joint run; else the run under no name."""
        return self.modalities or {"": self}

    @property
    def folder(self) -> Path:
        return Path(str(self.training.output_dir))


def parse_arguments(argv: Sequence[str] | None = None) -> Run:
    """Read `RECIPE.yaml [--field value ...]`.

    Raises:
        ValueError: an unknown field or an invalid value; the message names both and the fix.
        FileNotFoundError: no such recipe.
    """
    return resolve(read_arguments(argv))


def read_arguments(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The recipe of a command line, with every override applied. Raises as [`parse_arguments`]."""
    recipe, overrides = read_command(argv)
    return override(recipe, overrides)


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
    if recipe_file.MODALITIES in recipe:
        return set(joint_field_names(section, recipe))
    if section == "model":
        config_class = _config_class(recipe["model"])
        model_class: Any = MODEL_FOR_PRETRAINING_MAPPING[config_class]
        return {*recipe_file.names_of(config_class), "model_type", recipe_file.CHECKPOINT, *model_class.config_fields}
    if section == "data":
        return set(recipe_file.names_of(modality_of(_config_class(recipe["model"]).model_type).arguments_class))
    objective = objective_class_of(_config_class(recipe["model"]))
    classes = {
        "objective": objective,
        "training": PretrainingArguments,
        "report": ReportArguments,
        recipe_file.STAGES: StagesArguments,
    }
    return set(recipe_file.names_of(classes[section]))


def resolve(recipe: Mapping[str, Any]) -> Run:
    """Build and check everything that a recipe says; loads no data and no weights."""
    joint = recipe_file.MODALITIES in recipe
    recipe = _complete(recipe) if joint else recipe
    recipe_file.check_fields(recipe, field_names)
    parts = _resolve_modalities(recipe) if joint else {}
    part = _resolve_joint(recipe, parts) if joint else _resolve_part(recipe)
    training = build_training(recipe["training"], PretrainingArguments)
    report = ReportArguments.from_dict(recipe["report"]) if "report" in recipe else None
    _check_lengths(part.objective, training)
    run = Run(**vars(part), recipe=dict(recipe), training=training, report=report, modalities=parts)
    probed = [own for own in run.parts.values() if own.data.probe is not None]
    if report is not None:
        for own in probed:
            RAW_FEATURES[modality_of(own.config)]  # what the report compares with: known to be there before the run
    best = training.metric_for_best_model
    if "probe/" in str(best) and not (probed and training.probe_steps):
        raise ValueError(
            f"training.metric_for_best_model = {best!r} is the online probe's: set data.probe and "
            "training.probe_steps, at most training.eval_steps."
        )
    if not probed:  # then there is nothing to probe and report with
        training.probe_steps, run.report = 0, None
    return run


def _resolve_part(recipe: Mapping[str, Any]) -> Part:
    """One modality."""
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
    values = {**stored, **recipe["objective"]}
    teacher = values.get("teacher")
    if teacher is not None and "target" not in recipe["objective"]:  # naming one is asking to be taught by it
        values |= {"target": "other_model", **TARGET_KINDS["other_model"].needs}
    values["teacher_config"] = None if teacher is None else teacher_config(teacher)
    objective = objective_class_of(config_class).from_dict(values)
    model_class.check_objective(config, objective)
    config.objective = objective.to_dict()

    modality = modality_of(config)
    data = modality.arguments_class.from_dict(recipe["data"])
    grid, because = modality.smallest_grid(data, config)
    try:
        objective.masking.check(grid)
    except ValueError as error:
        raise ValueError(f"objective.{error}. The smallest input of this run has {because}.") from error
    return Part(model_class, config, checkpoint, objective, data)


# ---- joint runs ----


def _complete(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe, in which every modality of the joint run that it starts from has its type.

    Raises:
        ValueError: it has no modality, or one that cannot be called so; or it starts from something else.
    """
    if not recipe[recipe_file.MODALITIES]:
        raise ValueError("modalities is empty: name at least one, with its model, objective and data.")
    if (named := recipe["model"].get("model_type", JointConfig.model_type)) != JointConfig.model_type:
        raise ValueError(f"model.model_type = {named!r}: must be {JointConfig.model_type!r} in a joint run.")
    for name in recipe[recipe_file.MODALITIES]:
        if name in RESERVED:
            raise ValueError(f"modalities names {name!r}, which is a folder of every run: use another name.")
    checkpoint = recipe["model"].get(recipe_file.CHECKPOINT)
    if checkpoint is None:
        return dict(recipe)
    if config_class_of(checkpoint) is not JointConfig:
        raise ValueError(
            f"model.model_name_or_path = {checkpoint!r} is no joint model: say it in the section model of the "
            "modality that it is of."
        )
    complete, known = copy.deepcopy(dict(recipe)), open_config(checkpoint).modalities
    for name, part in complete[recipe_file.MODALITIES].items():
        model = part.setdefault("model", {}) if isinstance(part, dict) else None
        if name in known and isinstance(model, dict) and recipe_file.CHECKPOINT not in model:
            model.setdefault("model_type", known[name]["model_type"])
    return complete


def _stored(recipe: Mapping[str, Any]) -> Any:
    """The configuration that a joint run starts from: of a joint run, or of a modality; `None`: from nothing."""
    places = [recipe, *recipe[recipe_file.MODALITIES].values()]
    checkpoints = [place.get("model", {}).get(recipe_file.CHECKPOINT) for place in places]
    found = next((checkpoint for checkpoint in checkpoints if checkpoint is not None), None)
    return None if found is None else open_config(found)


def _resolve_modalities(recipe: Mapping[str, Any]) -> dict[str, Part]:
    """The modalities, each as if it were trained alone, with the trunk of all."""
    stored, parts = _stored(recipe), {}
    start = JointConfig() if stored is None else stored
    known = getattr(stored, "modalities", None) or {}
    for name in recipe[recipe_file.MODALITIES]:
        own = recipe_file.part_of(recipe, name, field_names)
        before = dict(known.get(name, {}))
        trunk = {field: getattr(start, field, getattr(JointConfig, field)) for field in TRUNK}
        schedule = EmaSchedule().to_dict()
        objective = before.pop("objective", {})
        whole = {
            "model": before | trunk | own["model"],
            "objective": objective | schedule | own["objective"],
            "data": own["data"],
        }
        try:
            part = parts[name] = _resolve_part(whole)
            part.weight = typed("weight", recipe[recipe_file.MODALITIES][name].get("weight"), float | None)
            part.batch_size = typed("batch_size", recipe[recipe_file.MODALITIES][name].get("batch_size"), int | None)
            for field, value in (("weight", part.weight), ("batch_size", part.batch_size)):
                if value is not None and value <= 0:
                    raise ValueError(f"{field} = {value!r} is invalid: it must be above 0, or the modality left out.")
        except ValueError as error:
            raise ValueError(f"{recipe_file.MODALITIES}.{name}: {error}") from error
    return parts


def _resolve_joint(recipe: Mapping[str, Any], parts: Mapping[str, Part]) -> Part:
    """The model of all modalities."""
    trunk = {field: getattr(next(iter(parts.values())).config, field) for field in TRUNK}
    values = {"modalities": {name: own_fields(part.config) for name, part in parts.items()}}
    values[recipe_file.SHARED_FRONT_ENDS] = recipe["model"].get(
        recipe_file.SHARED_FRONT_ENDS, _shared_before(_stored(recipe), parts)
    )
    config: Any = build_config(JointConfig, {**trunk, **values, "objective": recipe["objective"]})
    checkpoint = recipe["model"].get(recipe_file.CHECKPOINT)
    return Part(JointForPreTraining, config, checkpoint, EmaSchedule.from_dict(config.objective), None)


def _shared_before(stored: Any, parts: Mapping[str, Part]) -> list[list[str]] | None:
    """The front ends that modalities of this run shared in the model that it starts from.

    Raises:
        ValueError: one that others go on with is named after a modality that this run does not have.
    """
    groups = getattr(stored, recipe_file.SHARED_FRONT_ENDS, None) or []
    for first, *others in groups:
        if first not in parts and (left := [name for name in others if name in parts]):
            raise ValueError(f"modalities.{left[0]} shares the front end of {first}, which must be in the run, too.")
    return [group for group in ([name for name in group if name in parts] for group in groups) if group] or None


def _check_lengths(objective: EmaSchedule, training: PretrainingArguments) -> None:
    """Schedules that would end after the run are slips, and ruin it quietly."""
    steps = training.max_steps
    if steps <= 0:
        return
    if objective.ema_anneal_steps > steps and getattr(objective, "ema_scope", None) != "frozen":
        raise ValueError(
            f"objective.ema_anneal_steps = {objective.ema_anneal_steps} is beyond the run's training.max_steps = "
            f"{steps}: anneal within the run, or run longer."
        )
    if training.warmup_steps > steps:
        raise ValueError(
            f"training.warmup_steps = {training.warmup_steps:g} is beyond the run's training.max_steps = {steps}: "
            "warm up within the run, or run longer."
        )
