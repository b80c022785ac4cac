"""The command lines of this layer: help, and what can be refused at once. Nothing here imports torch.

A command calls [`answer_early`] before it imports what does the work, which takes seconds.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import recipe as recipe_file
from .console.fields import fields_of
from .console.help import EXIT_CODES, EXIT_REFUSED, FINE_TUNING, command_parser, end
from .data.arguments import Source
from .data.hub_names import require_data
from .modalities.methods import BUILT_IN, OBJECTIVE


RECIPES = Path(__file__).parent / "recipes"
WHAT = """Pretrain data2vec 1 or 2.0 in speech, vision or language. A recipe is a YAML file with the sections model,
objective, data, training and, where the run ends with a report, report; one with modalities trains several together.
--field value overrides one field: --max_steps
100, --objective.top_k_layers 4 or, inside a field, --masking.length 5; values are YAML. The same command resumes an
interrupted run. On several GPUs: accelerate launch pretraining/run.py, with the same arguments."""
SECTIONS = ("model", "objective", "data", "training")
CLASSES = {  # section -> the class that holds its fields; those of other sections depend on the model type
    "training": ("data2vec.pretraining.shared_arguments", "PretrainingArguments"),
    "report": ("data2vec.pretraining.evaluation.report", "ReportArguments"),
    recipe_file.STAGES: ("data2vec.pretraining.stage_arguments", "StagesArguments"),
}
JOINT = ("data2vec.modeling.configuration_joint", "JointConfig")
SCHEDULE = ("data2vec.modeling.configuration_objective", "EmaSchedule")
PER_MODALITY = ("modalities", "objective")  # of JointConfig, sections of their own in a recipe
EVERY_DATA = fields_of("data2vec.pretraining.data.arguments", "DataArguments")
DRY_RUN = "--dry-run"
MODEL_TYPE = ("--model.model_type", "--model_type")
TRAINING = "fields of training, besides those of transformers' TrainingArguments"
SWEEP = "sweep"  # the section that a sweep's recipe has besides
SWEEP_SECTIONS = (*SECTIONS, SWEEP)
SWEEP_WHAT = """Try values of any fields of a recipe: of model, objective, data and training. The section sweep says
which (space), how many runs (trials) and what they are compared by (measure: an online probe, or a number that needs
no labels). Every trial is a run folder of its own, and best.yaml the recipe of the best one, which run.py takes as it
is. The same command resumes an interrupted sweep."""
SWEEP_EXAMPLE = """data2vec sweep demo_vision.yaml --output_dir runs/my_sweep --trials 20 \\
    --space '{objective.top_k_layers: {low: 1, high: 4}, learning_rate: {low: 5e-4, high: 8e-3, log: true}}'"""

SUGGEST_WHAT = """Print the recipe with settings for your own data, and the reasons. A pilot, a sweep over shorter runs
of it by successive halving, tries the layers averaged (K), the loss's beta, the share that is hidden and the teacher's
decay, or the fields of sweep.space, and compares by a number that needs no labels. The same command resumes an
interrupted pilot."""
SUGGEST_EXAMPLE = "data2vec suggest demo_vision.yaml --pilot_steps 500 > my_recipe.yaml"


def read_command(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """`RECIPE.yaml [--field value ...]`: the recipe as its file has it, and the words behind it.

    Raises:
        ValueError: the file is no recipe.
        FileNotFoundError: no such recipe.
    """
    parser = command_parser(
        "data2vec pretrain",
        WHAT,
        "data2vec pretrain demo_audio.yaml --sources '[{path: my_clips}]' \\\n"
        "    --output_dir runs/my_audio --probe null",
        page="docs/pretraining.md; docs/reference/modeling.md explains the fields of objective",
        usage="RECIPE.yaml [--dry-run] [--field value ...]",
        groups={
            "recipes that come with the package": _recipes(),
            "fields of model": "model_type, model_name_or_path (continue from an encoder), and those of the encoder's "
            "configuration",
            "fields of objective": fields_of(*OBJECTIVE),
            "fields of a modality in modalities, for joint runs (docs/joint.md)": "model, objective, data, weight, "
            "batch_size",
            "fields of stages, modality after modality (docs/stages.md)": fields_of(*CLASSES[recipe_file.STAGES]),
            "fields of data, every modality": EVERY_DATA,
            **{
                f"fields of data, {reads.name}": [f for f in fields_of(*reads.arguments) if f not in EVERY_DATA]
                for reads in dict.fromkeys(built.reads for built in BUILT_IN.values())
            },
            TRAINING: sorted(fields_of(*CLASSES["training"], inherited=False)),
            "fields of report": fields_of(*CLASSES["report"]),
        },
        codes=tuple(EXIT_CODES),
    )
    parser.add_argument(
        DRY_RUN, action="store_true", help="print parameters, batch, memory and hours, from a few steps; write nothing"
    )
    recipe, overrides = recipe_file.read_command(parser, argv, RECIPES, SECTIONS, recipe_file.OPTIONAL)
    _check_model_type(recipe["model"].get("model_type"), overrides)
    return recipe, overrides


def _check_model_type(model_type: Any, overrides: Sequence[str]) -> None:
    """Refuse `--model_type` of another method, whose fields the recipe lacks, and name that one's recipes."""
    words = [part for word in overrides for part in word.split("=", 1)]
    given = [value for field, value in zip(words, words[1:], strict=False) if field in MODEL_TYPE]
    if not given or given[-1] == model_type or given[-1] not in tuple(BUILT_IN):
        return
    said = re.compile(rf"^  model_type: {given[-1]}\b(?!-)", re.MULTILINE)
    fitting = [name for name in _recipes() if said.search((RECIPES / name).read_text(encoding="utf-8"))]
    fitting.sort(key=lambda name: not name.startswith("demo"))
    raise ValueError(
        f"--model.model_type {given[-1]} does not fit this recipe, whose fields are those of {model_type}: use one of "
        f"{', '.join(fitting)}."
    )


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
    if recipe_file.MODALITIES in recipe:
        trunk = [name for name in fields_of(*JOINT, inherited=False) if name not in PER_MODALITY]
        joint = {
            "model": [*trunk, "model_type", recipe_file.CHECKPOINT],
            "objective": fields_of(*SCHEDULE),
            recipe_file.MODALITIES: list(recipe[recipe_file.MODALITIES]),
        }
        return joint.get(section, [])
    model_type = model_type_of(recipe["model"])
    built = BUILT_IN[model_type]
    if section in ("objective", "data"):
        return fields_of(*(built.objective if section == "objective" else built.reads.arguments))
    return [*model_fields(model_type), *built.pretraining_fields, "model_type", recipe_file.CHECKPOINT]


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
    if model_type not in tuple(BUILT_IN):
        raise LookupError(f"{model_type!r} is a model type of another package")
    return str(model_type)


def model_fields(model_type: str) -> list[str]:
    """The fields of a configuration."""
    return fields_of(*BUILT_IN[model_type].config)


def answer_early(check: Callable[[], object]) -> None:
    """End the process with help, or with what is wrong with its command line; else return."""
    try:
        check()
    except (ValueError, OSError) as error:
        sys.exit(end(EXIT_REFUSED, error))


def _recipes() -> list[str]:
    return sorted(path.name for path in RECIPES.glob("*.yaml"))


# ---- sweep ----


def read_sweep(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """As [`read_command`], with the section `sweep`."""
    return _read_sweep("sweep", SWEEP_WHAT, SWEEP_EXAMPLE, sweep_fields(), argv)


def read_suggest(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """As [`read_sweep`], of `data2vec suggest`."""
    return _read_sweep("suggest", SUGGEST_WHAT, SUGGEST_EXAMPLE, suggest_fields(), argv)


def _read_sweep(
    name: str, what: str, example: str, fields: list[str], argv: Sequence[str] | None
) -> tuple[dict[str, Any], list[str]]:
    parser = command_parser(
        f"data2vec {name}",
        what,
        example,
        page="docs/sweeping.md",
        usage="RECIPE.yaml [--field value ...]",
        groups={
            "recipes that come with the package": _recipes(),
            "fields of sweep": fields,
            "all other fields": "those of run.py, whose --help lists them",
        },
        codes=FINE_TUNING,
    )
    return recipe_file.read_command(parser, argv, RECIPES, SWEEP_SECTIONS, recipe_file.OPTIONAL)


def sweep_fields() -> list[str]:
    return fields_of("data2vec.pretraining.sweep.arguments", "SweepArguments")


def suggest_fields() -> list[str]:
    return fields_of("data2vec.pretraining.sweep.suggest", "SuggestArguments")


def check_sweep(argv: Sequence[str]) -> None:
    """As [`check_command`], and that Optuna is installed."""
    _check_sweep(*read_sweep(argv), sweep_fields())


def check_suggest(argv: Sequence[str]) -> None:
    """As [`check_sweep`], of `data2vec suggest`."""
    _check_sweep(*read_suggest(argv), suggest_fields())


def _check_sweep(recipe: dict[str, Any], overrides: Sequence[str], fields: list[str]) -> None:
    def names(section: str, recipe: Mapping[str, Any]) -> list[str]:
        return fields if section == SWEEP else field_names(section, recipe)

    check_names(recipe, overrides, names)
    require_optuna()


def require_optuna() -> None:
    if find_spec("optuna") is None:
        raise ValueError("A sweep needs Optuna: pip install data2vec[sweep].")


# ---- commands without a recipe ----


def add_texts(parser: argparse.ArgumentParser) -> None:
    """The options that name texts to read, see [`texts_of`]."""
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="txt, jsonl, csv or parquet files, folders, datasets, builtin:python-docs",
    )
    parser.add_argument("--split", help="split of a dataset (default: train)")
    parser.add_argument("--column", help="column of the text (default: found by its name)")


def texts_of(given: argparse.Namespace) -> list[Source]:
    """The sources that a command line names. Raises ValueError for one that is not there."""
    sources = [Source(path=path, split=given.split, column=given.column) for path in given.data]
    for source in sources:
        try:
            require_data(source.path)
        except ValueError as error:
            raise source.refusal(error) from error
    return sources


def tokenizer_parser() -> argparse.ArgumentParser:
    """Of train_tokenizer."""
    parser = command_parser(
        "data2vec tokenizer",
        "Train a byte-level BPE tokenizer, RoBERTa's kind, on your own text and save it where AutoTokenizer opens it.",
        "data2vec tokenizer --data corpus.txt more.jsonl --vocab_size 32000 my_tokenizer",
        page="docs/pretraining.md, text",
        usage="OUT_DIR --data DATA [DATA ...] --vocab_size N [options]",
    )
    add_texts(parser)
    parser.add_argument("--vocab_size", type=int, required=True, help="tokens, the five special ones included")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to save the tokenizer in")
    return parser


def check_tokenizer(argv: Sequence[str]) -> None:
    texts_of(tokenizer_parser().parse_args(argv))


def consolidate_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m data2vec.pretraining.consolidate",
        "Make a usable folder of a checkpoint, as the end of a run leaves it: the plain encoder at the top, student, "
        "teacher and head in pretraining/. For runs that did not end, and for checkpoints that FSDP2 wrote in shards. "
        "One process without a GPU does it.",
        "python -m data2vec.pretraining.consolidate runs/audio_base/checkpoint-20000 my_encoder",
        page="docs/scaling.md, checkpoints",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint-N of a run")
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="a new folder")
    return parser


def check_consolidate() -> None:
    require_checkpoint(**vars(consolidate_parser().parse_args()))


def require_checkpoint(checkpoint: Path, out: Path) -> None:
    """Raises ValueError: `checkpoint` is none, or `out` is not empty."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name a new folder.")
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{checkpoint} has no config.json: name a checkpoint-N folder of a run.")


def split_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "data2vec split",
        "Make a plain folder of each modality of a finished joint run: its encoder, what prepares its inputs, and "
        "student, teacher and decoder in pretraining/. Each opens as the folder of a run of that modality alone.",
        "data2vec split runs/joint_base encoders",
        page="docs/joint.md",
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="folder of a joint run")
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="a new folder")
    return parser


def check_split(argv: Sequence[str] | None = None) -> None:
    require_joint_run(**vars(split_parser().parse_args(argv)))


def require_joint_run(folder: Path, out: Path) -> None:
    """Raises ValueError: `folder` is none that has finished, or `out` is not empty."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name a new folder.")
    config = folder / "config.json"
    found = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if found.get("architectures") != ["JointModel"]:
        raise ValueError(
            f"{folder} is no finished joint run: its config.json names {found.get('architectures')}. Name the "
            "output_dir of one; of a checkpoint, consolidate makes such a folder."
        )
