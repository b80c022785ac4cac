"""From a recipe and the command line to checked arguments, before anything is loaded.

A recipe is a YAML file with the sections `model`, `objective`, `data`, `training` and, where the run ends with a
report, `report`. `--field value` overrides one field: `--max_steps 100`, `--objective.top_k_layers 4` or, inside a
field, `--masking.length 5`. Values are YAML.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_PRETRAINING_MAPPING, AutoConfig, PreTrainedConfig

from ..modeling import ObjectiveConfig
from . import recipe as recipe_file
from .console.help import EXIT_CODES, RECIPE_HELP, command_parser
from .data.build import AudioDataArguments, DataArguments, ImageDataArguments, TextDataArguments, modality_of
from .evaluation.report import ReportArguments
from .shared_arguments import own_fields
from .trainer import PretrainingArguments


RECIPES = Path(__file__).parent / "recipes"
WHAT = """Pretrain data2vec 1 or 2.0 in speech, vision or language. A recipe is a YAML file with the sections model,
objective, data, training and, where the run ends with a report, report. --field value overrides one field: --max_steps
100, --objective.top_k_layers 4 or, inside a field, --masking.length 5; values are YAML. Started again with the same
command, an interrupted run continues."""
DATA_FIELDS = {"speech": AudioDataArguments, "images": ImageDataArguments, "text": TextDataArguments}


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
    parser = command_parser(
        "accelerate launch pretraining/run.py",
        WHAT,
        "accelerate launch pretraining/run.py demo_audio.yaml --sources '[{path: my_clips}]' \\\n"
        "    --output_dir runs/my_audio --probe null",
        page="docs/pretraining.md; docs/reference/modeling.md explains the fields of objective",
        usage="RECIPE.yaml [--field value ...]",
        groups={
            "recipes that come with the package": sorted(p.name for p in RECIPES.glob("*.yaml")),
            "fields of model": "model_type, model_name_or_path (continue from an encoder), and those of the encoder's "
            "configuration",
            "fields of objective": _listed(ObjectiveConfig),
            "fields of data, every modality": _listed(DataArguments),
            **{f"fields of data, {name}": _listed(kind, DataArguments) for name, kind in DATA_FIELDS.items()},
            "fields of training, besides those of transformers' TrainingArguments": own_fields(PretrainingArguments),
            "fields of report": _listed(ReportArguments),
        },
        codes=tuple(EXIT_CODES),
    )
    parser.add_argument("recipe", metavar="RECIPE.yaml", type=Path, help=RECIPE_HELP)
    known, overrides = parser.parse_known_args(argv)
    return resolve(override(read_recipe(known.recipe), overrides))


def read_recipe(path: Path) -> dict[str, Any]:
    """The sections of a recipe, see [`recipe.read_recipe`]."""
    return recipe_file.read_recipe(path, RECIPES, ("model", "objective", "data", "training"), recipe_file.OPTIONAL)


def override(recipe: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """`--field value` pairs put into a copy of the recipe, see [`recipe.override`]."""
    return recipe_file.override(recipe, arguments, field_names)


def _names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if field.init}


def _listed(cls: type, base: type | None = None) -> list[str]:
    """Names of fields in their order, without those of a base class."""
    shared = set() if base is None else _names(base)
    return [field.name for field in dataclasses.fields(cls) if field.init and field.name not in shared]


def _config_class(model: Mapping[str, Any]) -> type[PreTrainedConfig]:
    if "model_name_or_path" in model:
        name = model["model_name_or_path"]
        try:
            return type(AutoConfig.from_pretrained(name, trust_remote_code=False))
        except (OSError, ValueError) as error:  # an OSError here is no full disk
            raise ValueError(
                f"model.model_name_or_path = {name!r} cannot be opened: name a folder with a config.json, a run's or "
                f"its pretraining/, or a model on the Hub. {error}"
            ) from error
    kinds = sorted({config.model_type for config in MODEL_FOR_PRETRAINING_MAPPING if "data2vec" in config.model_type})
    if model.get("model_type") not in kinds:
        raise ValueError(
            f"model.model_type = {model.get('model_type')!r} is not possible: use one of {', '.join(kinds)}, or give "
            "model.model_name_or_path."
        )
    return CONFIG_MAPPING[model["model_type"]]


def _model_class(config_class: type[PreTrainedConfig]) -> Any:
    return MODEL_FOR_PRETRAINING_MAPPING[config_class]


def field_names(section: str, recipe: Mapping[str, Any]) -> set[str]:
    """The fields that a section of this recipe may hold."""
    if section == "model":
        config_class = _config_class(recipe["model"])
        ours = _model_class(config_class).config_fields
        return _names(config_class) | {"model_type", "model_name_or_path", *ours}
    if section == "data":
        return _names(modality_of(_config_class(recipe["model"])()).arguments_class)
    return _names({"objective": ObjectiveConfig, "training": PretrainingArguments, "report": ReportArguments}[section])


def resolve(recipe: Mapping[str, Any]) -> Run:
    """Build and check everything that a recipe says; loads no data and no weights."""
    recipe_file.check_fields(recipe, field_names)
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
            return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **values)
        return config_class(**values)
    except Exception as error:  # the strict configurations raise types of their own, which are no ValueErrors
        raise ValueError(f"model: {error.__cause__ or error}") from error


def _build_training(values: Mapping[str, Any]) -> PretrainingArguments:
    if "output_dir" not in values:
        raise ValueError("training.output_dir is missing: name the run folder.")
    recipe_file.check_numbers("training", values, PretrainingArguments)
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
