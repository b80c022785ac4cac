"""The command lines of the scripts in this folder: help, and the recipe that they name. Nothing imports torch."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..pretraining import recipe as recipe_file
from ..pretraining.command_line import TRAINING, add_texts, check_names, model_fields, model_type_of, texts_of
from ..pretraining.console.fields import fields_of
from ..pretraining.console.help import FINE_TUNING, ORDINARY, command_parser
from ..pretraining.data.hub_names import require_data, require_hub_name
from .help_text import COMMANDS, RECIPE_WORDS, RECIPES, recipes_of
from .normalisation import CASES, PUNCTUATION


SECTIONS = ("model", "data", "task", "training")
MODEL_FIELDS = ("model_name_or_path", "from_scratch", "original_padding")
TASK_NAME = "task.name"
DATA = "a folder, file or dataset, or fields of a source: '{path: my_photos.csv, label_column: species}'"
ARGUMENTS = ("data2vec.finetune.training_arguments", "FineTuneArguments")


def read_command(script: str, argv: Sequence[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """`RECIPE.yaml [--field value ...]`: the recipe as its file has it, and the words behind it.

    Raises:
        ValueError: the file is no recipe.
        FileNotFoundError: no such recipe.
    """
    command = COMMANDS[script]
    probes = script == "run_probe.py"
    name = "data2vec probe" if probes else "data2vec finetune"
    parser = command_parser(
        name,
        f"{command.what} {RECIPE_WORDS} On several GPUs: accelerate launch finetune/{script}, same arguments.",
        f"{name} {command.example}",
        page=command.page,
        usage="RECIPE.yaml [--field value ...]",
        groups={
            "recipes that come with the package": recipes_of(script),
            "fields of model": ", ".join(MODEL_FIELDS) + " and those of the encoder's configuration",
            "fields of data": fields_of(*command.data),
            "fields of task": fields_of(*command.task),
            TRAINING: sorted(fields_of(*ARGUMENTS, inherited=False)),
        },
        codes=ORDINARY if probes else FINE_TUNING,
    )
    return recipe_file.read_command(parser, argv, RECIPES, SECTIONS)


def check_command(script: str, argv: Sequence[str] | None = None) -> None:
    """What a script refuses before anything heavy is imported, see [`answer_early`]."""
    classes = {"data": COMMANDS[script].data, "task": COMMANDS[script].task, "training": ARGUMENTS}

    def names(section: str, recipe: Mapping[str, Any]) -> list[str]:
        if section in classes:
            return fields_of(*classes[section])
        return [*model_fields(model_type_of(recipe["model"])), *MODEL_FIELDS]

    check_names(*read_command(script, argv), names)


def script_of(argv: Sequence[str]) -> str:
    """The script for the task of a recipe: what the recipe says as `task.name`, or `--task.name` behind it.

    Raises:
        ValueError: neither says one, or it is no task.
        FileNotFoundError: no such recipe.
    """
    parser = command_parser(
        "data2vec finetune",
        f"Fine-tune an encoder and evaluate it. The recipe says for which task. {RECIPE_WORDS}",
        f"data2vec finetune {COMMANDS['run_image_classification.py'].example}",
        page="docs/fine_tuning.md",
        usage="RECIPE.yaml [--field value ...]",
        groups={
            **{f"recipes for {words.name}": recipes_of(script) for script, words in COMMANDS.items()},
            "fields": "data2vec finetune RECIPE.yaml --help lists those of its task",
        },
        codes=FINE_TUNING,
    )
    recipe, overrides = recipe_file.read_command(parser, argv, RECIPES, SECTIONS)
    words = [part for word in overrides for part in word.split("=", 1)]
    given = [value for field, value in zip(words, words[1:], strict=False) if field == f"--{TASK_NAME}"]
    name = given[-1] if given else recipe["task"].get("name")
    scripts = {words.name: script for script, words in COMMANDS.items()}
    if name not in scripts:
        raise ValueError(f"{TASK_NAME} = {name!r}: the recipe must say its task, one of {', '.join(scripts)}.")
    return scripts[name]


def check_finetune(argv: Sequence[str]) -> None:
    """What `data2vec finetune` refuses before anything heavy is imported."""
    of_task = bool(argv) and not argv[0].startswith("-")  # then --help is that of the recipe's task
    script = script_of([word for word in argv if not (of_task and word in ("-h", "--help"))])
    check_command(script, argv)


def embed_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "data2vec embed",
        "Write the features of a frozen encoder for a folder, file or dataset to a parquet file: a row an example. "
        "Other --field value pairs are those of a probe's recipe, such as --max_seconds 10 or --weights teacher.",
        "data2vec embed runs/my_vision my_photos --layer average --output features.parquet",
        page="docs/downstream.md",
        usage="MODEL DATA [options] [--field value ...]",
    )
    parser.add_argument("model", metavar="MODEL", help="a run folder, or a model on the Hub")
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument("--layer", default="last", help="last, average, all, or a number (default: last)")
    parser.add_argument("--output", type=Path, default=Path("features.parquet"), help="default: features.parquet")
    parser.add_argument("--per_token", action="store_true", help="a vector for every token instead of their mean")
    parser.add_argument("--batch_size", type=int, default=32, help="examples that are read at once (default: 32)")
    return parser


def check_embed(argv: Sequence[str]) -> None:
    given, _ = embed_parser().parse_known_args(argv)
    require_hub_name(given.model)
    require_data(source_of(given.data)["path"])


def source_of(data: str) -> dict[str, Any]:
    """DATA of a command line as the fields of a source.

    Raises:
        ValueError: a mapping without a path.
    """
    if not data.startswith("{"):
        return {"path": data}
    source = recipe_file.parse_yaml(data, "DATA")
    if not isinstance(source.get("path"), str):
        raise ValueError(f"DATA = {data} has no path: use '{{path: my_photos, split: test}}'.")
    found: dict[str, Any] = source
    return found


def ngram_parser() -> argparse.ArgumentParser:
    """Of train_ngram."""
    parser = command_parser(
        "python -m data2vec.finetune.train_ngram",
        "Train a small n-gram language model on text and save it as an ARPA file, for task.language_model. "
        "Interpolated Kneser-Ney smoothing in plain Python: good for some million words; for more, KenLM's lmplz is "
        "faster and needs less memory. Sentences are normalised as transcripts are.",
        "python -m data2vec.finetune.train_ngram --data transcripts.txt --order 3 lm.arpa",
        page="docs/tasks/speech_recognition.md",
        usage="OUT_FILE --data DATA [DATA ...] [--order N] [options]",
    )
    add_texts(parser)
    parser.add_argument("--order", type=int, default=3, help="words of the longest n-gram (default: 3)")
    parser.add_argument("--letter_case", choices=CASES, default="upper", help="as task.letter_case (default: upper)")
    parser.add_argument("--removed_characters", default=PUNCTUATION, help="as task.removed_characters")
    parser.add_argument("out_file", metavar="OUT_FILE", type=Path, help="the ARPA file to write")
    return parser


def check_ngram() -> None:
    texts_of(ngram_parser().parse_args())
