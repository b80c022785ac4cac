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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.trainer_utils import IntervalStrategy

from ..pretraining import recipe as recipe_file
from ..pretraining.data.arguments import CheckedArguments
from ..pretraining.model_section import check_shapes, config_class_of, open_config
from ..pretraining.shared_arguments import build_training
from .command_line import MODEL_FIELDS, SECTIONS, TASK_NAME, read_command
from .data_arguments import FineTuneDataArguments
from .help_text import COMMANDS
from .training_arguments import FineTuneArguments


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
        ValueError: an unknown field or an invalid value; the message names both and the fix.
        FileNotFoundError: no such recipe.
    """
    recipe, overrides = read_command(task_class.script, argv)
    return resolve(recipe_file.override(recipe, overrides, field_names(task_class)), task_class)


def field_names(task_class: type[RecipeFields]) -> recipe_file.FieldNames:
    """The fields that a recipe of this task may hold, by section."""
    classes: dict[str, Any] = {
        "data": task_class.data_class,
        "task": task_class.arguments_class,
        "training": FineTuneArguments,
    }

    def names(section: str, recipe: recipe_file.Recipe) -> set[str]:
        if section == "model":
            config_class = config_class_of(recipe["model"].get(recipe_file.CHECKPOINT))
            return {*recipe_file.names_of(config_class), *MODEL_FIELDS}
        return set(recipe_file.names_of(classes[section]))

    return names


def resolve(recipe: Mapping[str, Any], task_class: type[RecipeFields]) -> FineTuneRun:
    """Build and check everything that a recipe says; loads a configuration, no data and no weights.

    Raises:
        ValueError: see [`parse`].
    """
    recipe = {section: dict(recipe.get(section, {})) for section in SECTIONS}
    named, own = recipe["task"].get("name"), COMMANDS[task_class.script].name
    if named not in (None, own):
        raise ValueError(f"{TASK_NAME} = {named!r}: {task_class.script} is for {own}. Use data2vec finetune RECIPE.")
    recipe_file.check_fields(recipe, field_names(task_class))
    overrides = dict(recipe["model"])
    checkpoint, from_scratch = overrides.pop(recipe_file.CHECKPOINT), overrides.pop("from_scratch", False)
    if not isinstance(from_scratch, bool):
        raise ValueError(f"model.from_scratch = {from_scratch!r}: must be true or false.")
    asked = overrides.pop("original_padding", None)
    if not from_scratch:
        check_shapes(checkpoint, overrides)
    run = FineTuneRun(
        recipe=recipe,
        checkpoint=checkpoint,
        from_scratch=from_scratch,
        config=open_config(checkpoint, overrides),
        config_overrides=overrides,
        original_padding=bool(asked),
        data=task_class.data_class.from_dict(recipe["data"]),
        task=task_class.arguments_class.from_dict(recipe["task"]),
        training=build_training(recipe["training"], FineTuneArguments),
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
            f"model.original_padding = {asked!r} is invalid: use true or false for a speech encoder, and leave "
            "it out for any other."
        )
    elif objective:
        config.objective = run.config_overrides["objective"] = {**objective, "original_padding": asked}


def _check_evaluation(run: FineTuneRun) -> None:
    """Choosing among checkpoints needs something to choose on."""
    held_out = run.data.validation is not None or run.data.validation_share > 0
    strategy = IntervalStrategy(run.training.eval_strategy)
    if not held_out and strategy != IntervalStrategy.NO:
        raise ValueError(
            f"training.eval_strategy = {strategy.value!r} does not work without data to evaluate "
            "on: set data.validation or data.validation_share, or eval_strategy: no."
        )
