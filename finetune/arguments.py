"""From a recipe and the command line to a checked run, before any data or weight is loaded.

A recipe is a YAML file with the sections `model`, `data`, `task` and `training`. `--field value` overrides one field:
`--learning_rate 1e-3`, `--model.hidden_dropout 0.1` or, inside a field, `--train.split train`. Values are YAML.

    model      model_name_or_path: the folder of a pretraining run, or a Hub id; from_scratch: true for its shape with
               random weights; original_padding, of speech: let padding change the frames beside it, as the original
               does; any other field is one of the model's configuration and overrides it
    data       train, validation and test, and the task's fields
    task       how the task is trained and measured
    training   transformers' TrainingArguments and those of FineTuneArguments
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.trainer_utils import IntervalStrategy

from ..pretraining import recipe as recipe_file
from ..pretraining.console.help import FINE_TUNING, ORDINARY, RECIPE_HELP, command_parser
from ..pretraining.data.arguments import CheckedArguments
from ..pretraining.shared_arguments import own_fields
from .data_arguments import FineTuneDataArguments
from .help_text import COMMANDS, RECIPE_WORDS, RECIPES, recipes_of
from .training_arguments import FineTuneArguments


SECTIONS = ("model", "data", "task", "training")
MODEL_FIELDS = ("model_name_or_path", "from_scratch", "original_padding")


class RecipeFields(Protocol):
    """What a recipe's sections `data` and `task` hold, and the script that reads it; a [`Task`] says it."""

    script: ClassVar[str]
    data_class: ClassVar[type[FineTuneDataArguments]]
    arguments_class: ClassVar[type[CheckedArguments]]


@dataclass
class FineTuneRun:
    """A checked recipe.

    Attributes:
        recipe: the sections with every override applied, as written into the run folder.
        checkpoint: folder or Hub id of the pretrained encoder.
        from_scratch: take the shape of `checkpoint` and random weights.
        config: that of the checkpoint, with the recipe's overrides.
        config_overrides: the fields of `model` that override the checkpoint's configuration.
        original_padding: what `model` says, else the checkpoint's objective, else False.
        data, task: of the task's `data_class` and `arguments_class`.
    """

    recipe: dict[str, Any]
    checkpoint: str
    from_scratch: bool
    config: PreTrainedConfig
    config_overrides: dict[str, Any]
    original_padding: bool
    data: Any
    task: Any
    training: FineTuneArguments

    @property
    def folder(self) -> Path:
        return Path(str(self.training.output_dir))

    def set_padding(self, model: PreTrainedModel) -> PreTrainedModel:
        """Keep padding out of real frames, unless `original_padding`; data2vec 2.0 reads its configuration."""
        if self.config.model_type == "data2vec-audio" and not self.original_padding:
            from ..modeling.modeling_data2vec_audio import make_padding_independent

            make_padding_independent(model)
        return model


def parse(argv: Sequence[str] | None, task_class: type[RecipeFields]) -> FineTuneRun:
    """Read `RECIPE.yaml [--field value ...]`.

    Raises:
        ValueError: an unknown field or a value that is not possible; the message names both and the fix.
        FileNotFoundError: no such recipe.
    """
    recipe, overrides = read_command(argv, task_class)
    return resolve(recipe_file.override(recipe, overrides, field_names(task_class)), task_class)


def read_command(argv: Sequence[str] | None, task_class: type[RecipeFields]) -> tuple[dict[str, Any], list[str]]:
    """The recipe as its file has it, on the encoder of the command line, and the other `--field value` words."""
    parser = command_parser(
        f"accelerate launch finetune/{task_class.script}",
        COMMANDS[task_class.script].what + " " + RECIPE_WORDS,
        f"accelerate launch finetune/{task_class.script} " + COMMANDS[task_class.script].example,
        page=COMMANDS[task_class.script].page,
        usage="RECIPE.yaml [--field value ...]",
        groups={
            "recipes that come with the package": recipes_of(task_class.script),
            "fields of model": ", ".join(MODEL_FIELDS) + " and those of the encoder's configuration",
            "fields of data": _names(task_class.data_class),
            "fields of task": _names(task_class.arguments_class),
            "fields of training, besides those of transformers' TrainingArguments": own_fields(FineTuneArguments),
        },
        codes=ORDINARY if task_class.script == "run_probe.py" else FINE_TUNING,
    )
    parser.add_argument("recipe", metavar="RECIPE.yaml", type=Path, help=RECIPE_HELP)
    # read before the other fields: it says which fields a model has, and the recipe's own need not be there
    parser.add_argument(
        "--model_name_or_path",
        "--model.model_name_or_path",
        dest="checkpoint",
        metavar="FOLDER",
        help="the folder of a pretraining run, or a model on the Hub, in place of the recipe's",
    )
    known, overrides = parser.parse_known_args(argv)
    recipe = recipe_file.read_recipe(known.recipe, RECIPES, SECTIONS)
    if known.checkpoint is not None:
        recipe["model"] = {**recipe["model"], "model_name_or_path": known.checkpoint}
    return recipe, overrides


def field_names(task_class: type[RecipeFields]) -> recipe_file.FieldNames:
    """The fields that a recipe of this task may hold, by section."""
    classes: dict[str, Any] = {
        "data": task_class.data_class,
        "task": task_class.arguments_class,
        "training": FineTuneArguments,
    }

    def names(section: str, recipe: recipe_file.Recipe) -> set[str]:
        if section == "model":
            checkpoint = _checked_checkpoint(recipe["model"].get("model_name_or_path"))
            return {*_config_fields(checkpoint), *MODEL_FIELDS}
        return set(_names(classes[section]))

    return names


def resolve(recipe: Mapping[str, Any], task_class: type[RecipeFields]) -> FineTuneRun:
    """Build and check everything that a recipe says; loads a configuration, no data and no weights.

    Raises:
        ValueError: see [`parse`].
    """
    recipe = {section: dict(recipe.get(section) or {}) for section in SECTIONS}
    recipe_file.check_fields(recipe, field_names(task_class))
    overrides = dict(recipe["model"])
    checkpoint, from_scratch = overrides.pop("model_name_or_path"), overrides.pop("from_scratch", False)
    if not isinstance(from_scratch, bool):
        raise ValueError(f"model.from_scratch = {from_scratch!r} is not possible: use true or false.")
    asked = overrides.pop("original_padding", None)
    run = FineTuneRun(
        recipe=recipe,
        checkpoint=checkpoint,
        from_scratch=from_scratch,
        config=load_config(checkpoint, **overrides),
        config_overrides=overrides,
        original_padding=bool(asked),
        data=task_class.data_class.from_dict(recipe["data"]),
        task=task_class.arguments_class.from_dict(recipe["task"]),
        training=_build_training(recipe["training"]),
    )
    _choose_padding(run, asked)
    _check_evaluation(run)
    return run


def _choose_padding(run: FineTuneRun, asked: Any) -> None:
    config: Any = run.config
    objective = getattr(config, "objective", None) or {}
    if asked is None:
        run.original_padding = objective.get("original_padding", False)
    elif not isinstance(asked, bool) or not hasattr(config, "conv_stride"):
        raise ValueError(
            f"model.original_padding = {asked!r} is not possible: use true or false for a speech encoder, and leave "
            "it out for any other."
        )
    elif objective:
        config.objective = run.config_overrides["objective"] = {**objective, "original_padding": asked}


def load_config(checkpoint: str, **overrides: Any) -> PreTrainedConfig:
    """The configuration of a run folder or Hub id, a ValueError where there is none or it refuses a value."""
    try:
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **overrides)
    except OSError as error:
        raise ValueError(
            f"model.model_name_or_path = {checkpoint!r} cannot be opened: name a folder with a config.json, as a "
            f"pretraining run leaves it, or a model on the Hub. {error}"
        ) from error
    except Exception as error:  # the strict configurations raise types of their own, which are no ValueErrors
        raise ValueError(f"model: {error.__cause__ or error}") from error


def _checked_checkpoint(checkpoint: Any) -> str:
    if not isinstance(checkpoint, str) or not checkpoint:
        raise ValueError(
            f"model.model_name_or_path = {checkpoint!r} is not possible: name the folder of a pretraining run, or a "
            "model on the Hub."
        )
    return checkpoint


@functools.cache
def _config_fields(checkpoint: str) -> tuple[str, ...]:
    return tuple(_names(type(load_config(checkpoint))))


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _build_training(values: Mapping[str, Any]) -> FineTuneArguments:
    if "output_dir" not in values:
        raise ValueError("training.output_dir is missing: name the run folder.")
    # YAML reads eval_strategy: no as false
    values = {name: "no" if name.endswith("_strategy") and value is False else value for name, value in values.items()}
    recipe_file.check_numbers("training", values, FineTuneArguments)
    try:
        return FineTuneArguments(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"training: {error}") from error


def _check_evaluation(run: FineTuneRun) -> None:
    """Choosing among checkpoints needs something to choose on."""
    held_out = run.data.validation is not None or run.data.validation_share > 0
    strategy = IntervalStrategy(run.training.eval_strategy)
    if not held_out and strategy != IntervalStrategy.NO:
        raise ValueError(
            f"training.eval_strategy = {strategy.value!r} is not possible without data to evaluate "
            "on: set data.validation or data.validation_share, or eval_strategy: no."
        )
