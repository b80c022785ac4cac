"""From a recipe and the command line to checked arguments, before anything is loaded.

A recipe is a YAML file with the sections `model`, `objective`, `data`, `training` and, where the run ends with a
report, `report`. `--field value` overrides one field: `--max_steps 100`, `--objective.top_k_layers 4` or, inside a
field, `--masking.length 5`. Values are YAML.
"""

import argparse
import copy
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import CONFIG_MAPPING, MODEL_FOR_PRETRAINING_MAPPING, AutoConfig, PreTrainedConfig

from ..modeling import ObjectiveConfig
from .data import DataArguments, modality_of
from .report import ReportArguments
from .trainer import PretrainingArguments


RECIPES = Path(__file__).parent / "recipes"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 5e-4 as text; here it is the number that everybody means."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


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
        ValueError: an unknown field or a value that is not possible; the message names both and the fix.
        FileNotFoundError: no such recipe.
    """
    parser = argparse.ArgumentParser(
        prog="pretraining/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Recipes that come with the package: {', '.join(sorted(p.name for p in RECIPES.glob('*.yaml')))}. "
        "The fields of `training` are those of transformers' TrainingArguments and, ours: "
        + ", ".join(sorted(_own_training_fields()))
        + ".",
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, or the name of a recipe that comes with the package")
    known, overrides = parser.parse_known_args(argv)
    return resolve(override(read_recipe(known.recipe), overrides))


def read_recipe(path: Path) -> dict[str, Any]:
    if not path.is_file() and (RECIPES / path.name).is_file():
        path = RECIPES / path.name
    if not path.is_file():
        names = ", ".join(sorted(p.name for p in RECIPES.glob("*.yaml")))
        raise FileNotFoundError(f"There is no recipe {str(path)!r}. Give a YAML file or one of: {names}.")
    recipe = parse_yaml(path.read_text(encoding="utf-8"))
    sections = ("model", "objective", "data", "training", "report")
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe holds the sections {', '.join(sections)}.")
    for name, section in recipe.items():
        if name not in sections or not isinstance(section, dict):
            raise ValueError(
                f"{path}: {name!r} is not a section. A recipe holds {', '.join(sections)}, each a mapping."
            )
    return {name: recipe.get(name, {}) for name in sections[:4]} | (
        {"report": recipe["report"]} if "report" in recipe else {}
    )


def override(recipe: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """`--field value` pairs, or `--field=value`, put into a copy of the recipe."""
    changed = copy.deepcopy(dict(recipe))
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(words) % 2 or not all(name.startswith("--") for name in words[::2]):
        raise ValueError(f"Cannot read {' '.join(arguments)!r} as --field value pairs.")
    for name, value in zip(words[::2], words[1::2], strict=True):
        path = _locate(name[2:].replace("-", "_"), changed)
        target = changed
        for key in path[:-1]:
            if target.setdefault(key, {}) is None or not isinstance(target[key], dict):
                raise ValueError(f"{name}: {key} holds {target[key]!r}, which has no fields inside.")
            target = target[key]
        target[path[-1]] = parse_yaml(value)
    return changed


def _locate(name: str, recipe: Mapping[str, Any]) -> list[str]:
    """The path of an override: with its section, or without where only one section has such a field."""
    path = name.split(".")
    if path[0] in recipe:
        return path
    fields = {section: _field_names(section, recipe) for section in recipe}
    homes = [section for section, names in fields.items() if path[0] in names]
    if len(homes) == 1:
        return homes + path
    if homes:
        raise ValueError(
            f"--{name} is a field of {' and '.join(homes)}: say --{homes[0]}.{name} or --{homes[1]}.{name}."
        )
    near = difflib.get_close_matches(path[0], [field for names in fields.values() for field in names], n=1)
    hint = f"Did you mean --{near[0]}?" if near else f"Say --SECTION.{name}, of {', '.join(recipe)}."
    raise ValueError(f"--{name} is not a field of this recipe. {hint}")


def _names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if field.init}


def _own_training_fields() -> set[str]:
    return set(PretrainingArguments.__annotations__)


def _config_class(model: Mapping[str, Any]) -> type[PreTrainedConfig]:
    if "model_name_or_path" in model:
        return type(AutoConfig.from_pretrained(model["model_name_or_path"]))
    kinds = sorted(config.model_type for config in MODEL_FOR_PRETRAINING_MAPPING if "data2vec" in config.model_type)
    if model.get("model_type") not in kinds:
        raise ValueError(
            f"model.model_type = {model.get('model_type')!r} is not possible: use one of {', '.join(kinds)}, or give "
            "model.model_name_or_path."
        )
    return CONFIG_MAPPING[model["model_type"]]


def _model_class(config_class: type[PreTrainedConfig]) -> Any:
    return MODEL_FOR_PRETRAINING_MAPPING[config_class]


def _field_names(section: str, recipe: Mapping[str, Any]) -> set[str]:
    if section == "model":
        config_class = _config_class(recipe["model"])
        ours = _model_class(config_class).config_fields
        return _names(config_class) | {"model_type", "model_name_or_path", *ours}
    if section == "data":
        return _names(modality_of(_config_class(recipe["model"])()).arguments_class)
    return _names({"objective": ObjectiveConfig, "training": PretrainingArguments, "report": ReportArguments}[section])


def resolve(recipe: Mapping[str, Any]) -> Run:
    """Build and check everything that a recipe says; loads no data and no weights."""
    for section in recipe:
        known = _field_names(section, recipe)
        for key in recipe[section]:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "see the documentation of the section."
                raise ValueError(f"{section}.{key} is not a field: {hint}")
    model = dict(recipe["model"])
    checkpoint = model.pop("model_name_or_path", None)
    config_class = _config_class(recipe["model"])
    model.pop("model_type", None)
    config = _build_config(config_class, checkpoint, model)
    model_class = _model_class(config_class)

    stored = getattr(config, "objective", None) or model_class.default_objective
    objective = ObjectiveConfig.from_dict({**stored, **recipe["objective"]})
    model_class.check_objective(config, objective)
    config.objective = objective.to_dict()

    modality = modality_of(config)
    data = modality.arguments_class.from_dict(recipe["data"])
    training = _build_training(recipe["training"])
    report = ReportArguments.from_dict(recipe["report"]) if "report" in recipe else None
    _check_lengths(objective, training)
    grid, because = modality.smallest_grid(data, config)
    try:
        objective.masking.check(grid)
    except ValueError as error:
        raise ValueError(f"objective.{error}. The smallest input of this run has {because}.") from error
    if data.probe is None:  # then there is nothing to probe and report with
        training.probe_steps, report = 0, None
    return Run(dict(recipe), model_class, config, checkpoint, objective, data, training, report)


def _build_config(config_class: type[PreTrainedConfig], checkpoint: str | None, values: dict) -> PreTrainedConfig:
    try:
        if checkpoint is not None:
            return AutoConfig.from_pretrained(checkpoint, **values)
        return config_class(**values)
    except Exception as error:  # the strict configurations raise types of their own, which are no ValueErrors
        raise ValueError(f"model: {error.__cause__ or error}") from error


def _build_training(values: Mapping[str, Any]) -> PretrainingArguments:
    if "output_dir" not in values:
        raise ValueError("training.output_dir is missing: name the run folder.")
    try:
        return PretrainingArguments(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"training: {error}") from error


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
