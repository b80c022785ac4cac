"""The command line of run.py: its help, and the recipe that it names. Nothing here imports torch.

Help and slips are answered at once ([`answer_early`]); importing what trains takes seconds.
"""

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import recipe as recipe_file
from .console.fields import fields_of
from .console.help import EXIT_CODES, EXIT_REFUSED, command_parser, end


RECIPES = Path(__file__).parent / "recipes"
WHAT = """Pretrain data2vec 1 or 2.0 in speech, vision or language. A recipe is a YAML file with the sections model,
objective, data, training and, where the run ends with a report, report. --field value overrides one field: --max_steps
100, --objective.top_k_layers 4 or, inside a field, --masking.length 5; values are YAML. The same command resumes an
interrupted run."""
SECTIONS = ("model", "objective", "data", "training")
CLASSES = {  # section -> the class that holds its fields; those of `model` and `data` depend on the model type
    "objective": ("data2vec.modeling.configuration_objective", "ObjectiveConfig"),
    "training": ("data2vec.pretraining.shared_arguments", "PretrainingArguments"),
    "report": ("data2vec.pretraining.evaluation.report", "ReportArguments"),
}
DATA = {
    "audio": ("data2vec.pretraining.data.audio", "AudioDataArguments"),
    "vision": ("data2vec.pretraining.data.image", "ImageDataArguments"),
    "text": ("data2vec.pretraining.data.text", "TextDataArguments"),
}
EVERY_DATA = fields_of("data2vec.pretraining.data.arguments", "DataArguments")
TRAINING = "fields of training, besides those of transformers' TrainingArguments"


def read_command(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """`RECIPE.yaml [--field value ...]`: the recipe as its file has it, and the words behind it.

    Raises:
        ValueError: the file is no recipe.
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
            "recipes that come with the package": sorted(path.name for path in RECIPES.glob("*.yaml")),
            "fields of model": "model_type, model_name_or_path (continue from an encoder), and those of the encoder's "
            "configuration",
            "fields of objective": fields_of(*CLASSES["objective"]),
            "fields of data, every modality": EVERY_DATA,
            **{
                f"fields of data, {name}": [field for field in fields_of(*home) if field not in EVERY_DATA]
                for name, home in DATA.items()
            },
            TRAINING: sorted(fields_of(*CLASSES["training"], inherited=False)),
            "fields of report": fields_of(*CLASSES["report"]),
        },
        codes=tuple(EXIT_CODES),
    )
    return recipe_file.read_command(parser, argv, RECIPES, SECTIONS, recipe_file.OPTIONAL)


def check_command(argv: Sequence[str] | None = None) -> None:
    """Refuse fields that no section of the recipe has, where its model is one of this package.

    Raises:
        ValueError, FileNotFoundError: as [`read_command`]; or the field, with the nearest that there is.
    """
    recipe, overrides = read_command(argv)
    check_names(recipe, overrides, field_names)


def check_names(
    recipe: dict[str, Any], overrides: Sequence[str], names: Callable[[str, Mapping[str, Any]], Collection[str]]
) -> None:
    """As [`recipe.check_fields`], as far as `names` knows the fields: it raises LookupError where it does not."""
    try:
        recipe_file.check_fields(recipe_file.override(recipe, overrides, names), names)
    except LookupError:
        return  # another model: what trains it knows its fields


def field_names(section: str, recipe: Mapping[str, Any]) -> list[str]:
    """The fields of a section. Raises LookupError for the model of another package."""
    if section in CLASSES:
        return fields_of(*CLASSES[section])
    model_type = model_type_of(recipe["model"])
    if section == "data":
        return fields_of(*DATA[model_type.rpartition("-")[2]])
    return [*model_fields(model_type), *fields_in_pretraining(model_type), "model_type", recipe_file.CHECKPOINT]


def model_type_of(model: Mapping[str, Any]) -> str:
    """What the section `model` names, itself or by a folder. Raises LookupError where that is not known here."""
    folder = model.get(recipe_file.CHECKPOINT)
    if folder is None:
        return _known(model.get("model_type"))
    try:
        config = json.loads((Path(str(folder)) / "config.json").read_text(encoding="utf-8"))
        return _known(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LookupError(f"{folder} is no folder with a configuration") from error


def _known(model_type: Any) -> str:
    if model_type not in {f"{family}-{name}" for family in ("data2vec", "data2vec2") for name in DATA}:
        raise LookupError(f"{model_type!r} is a model type of another package")
    return str(model_type)


def model_fields(model_type: str) -> list[str]:
    """The fields of a configuration."""
    family, _, modality = model_type.partition("-")
    if family == "data2vec2":
        return fields_of("data2vec.modeling.configuration_data2vec2", f"Data2Vec2{modality.title()}Config")
    return fields_of(
        f"transformers.models.data2vec.configuration_data2vec_{modality}", f"Data2Vec{modality.title()}Config"
    )


def fields_in_pretraining(model_type: str) -> list[str]:
    """Fields of the configuration that our pretraining model adds to one of `transformers`."""
    return {"data2vec-audio": ["deep_norm"], "data2vec-text": ["mask_token_id"]}.get(model_type, [])


def answer_early(check: Callable[[], object]) -> None:
    """End the process with help, or with what is wrong with its command line; else return."""
    try:
        check()
    except (ValueError, OSError) as error:
        sys.exit(end(EXIT_REFUSED, error))
