"""The command lines of this layer: help, and what can be refused at once. Nothing here imports torch.

A command calls [`answer_early`] before it imports what does the work.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from ..finetune.command_line import DATA, source_of
from ..pretraining.console.help import command_parser
from ..pretraining.data.hub_names import require_data, require_hub_name
from .folder import open_folder, require_finished


MAIN = "main"  # the branch
FORMATS = ("torch", "onnx")
MapMethod = Literal["pca", "umap"]


# ---- render ----

# what argparse is told of the type of a field that is not a word
_OPTIONS: dict[Any, dict[str, Any]] = {
    list[str] | None: {"nargs": "+"},
    dict[str, str] | None: {"type": yaml.safe_load},
}


def render_parser(words: type[Any]) -> argparse.ArgumentParser:
    """`words` is the dataclass whose fields are options."""
    parser = command_parser(
        "data2vec card",
        "Render the model card of a finished run: README.md with the Hub's metadata, and curves.png, in the run "
        "folder. Its numbers are those of the folder's files; what a person says is kept in card.yaml there.",
        "data2vec card runs/my_speech --license apache-2.0 --language en",
        page="docs/publishing.md, the card",
    )
    parser.add_argument("run_folder", metavar="RUN_FOLDER", help="output_dir of a finished pretraining or fine-tuning")
    hints = get_type_hints(words)
    for field in fields(words):
        parser.add_argument(f"--{field.name}", help=field.metadata["help"], **_OPTIONS.get(hints[field.name], {}))
    return parser


def check_render(argv: Sequence[str], words: type[Any]) -> None:
    open_folder(render_parser(words).parse_args(argv).run_folder)


# ---- push ----


def push_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "data2vec push",
        "Publish a run folder on the Hugging Face Hub, with its card, in one commit; private unless --public is "
        "given. Interrupted, the same command continues. The token is that of `hf auth login` or HF_TOKEN.",
        "data2vec push runs/my_speech me/my-speech --dry-run",
        page="docs/publishing.md, push",
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="with its card: render it first")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; it is made where there is none")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded, and upload nothing")
    parser.add_argument("--public", action="store_true", help="everybody may see it (default: private)")
    parser.add_argument("--revision", default=MAIN, metavar="BRANCH", help="made from main where there is none")
    parser.add_argument("--tag", help="name of this version, such as v1.0")
    parser.add_argument(
        "--pretraining", action="store_true", help="also student, teacher and decoder, to continue from"
    )
    parser.add_argument("--include", nargs="+", default=[], metavar="PATTERN", help="further files: 'onnx/*'")
    parser.add_argument("--trust-code", action="store_true", help="code that is not this package's goes, too")
    parser.add_argument("--overwrite", action="store_true", help="in place of all that is there, another model too")
    parser.add_argument("--message", default="Upload model", help="of the commit")
    return parser


def check_push(argv: Sequence[str]) -> None:
    given = push_parser().parse_args(argv)
    require_finished(given.folder, given.pretraining)


# ---- report ----


def report_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "data2vec report",
        "See a run, or two side by side: write one HTML page that needs nothing outside itself, and its pictures as "
        "PNG files beside it. Health, curves, what the masks hide, a map of the features, attention, accuracy by "
        "layer; of a fine-tuned model, what it takes for what. What a folder lacks is named, with how to get it.",
        "data2vec report runs/my_run\ndata2vec report runs/my_run runs/my_other_run -o comparison.html",
        page="docs/reading_a_run.md",
    )
    parser.add_argument("run", metavar="RUN_FOLDER", help="the output_dir of a run")
    parser.add_argument("other", metavar="OTHER_RUN_FOLDER", nargs="?", help="a second run, to compare with")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PAGE", help="to write (default: report.html in the first run's folder)"
    )
    parser.add_argument("--layers", action="store_true", help="probe every layer on data.probe now; takes minutes")
    parser.add_argument(
        "--map", dest="method", choices=("pca", "umap"), default="pca", help="how features become a map (default: pca)"
    )
    return parser


def check_report(argv: Sequence[str]) -> None:
    given = report_parser().parse_args(argv)
    require_method(given.method)
    for folder in (given.run, given.other):
        if folder is not None:
            open_folder(folder)


def require_method(method: MapMethod) -> None:
    """Raises ValueError where the map's method is not installed."""
    if method == "umap" and find_spec("umap") is None:
        raise ValueError("--map umap is invalid: umap-learn is not installed. pip install umap-learn, or use pca.")


# ---- show ----


def show_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "data2vec show",
        "Draw what a frozen encoder makes of data: of images, its attention and the features of patches as colours; "
        "of sounds, spectrograms with the features as colours; with --neighbours, which examples have the most "
        "similar features (text: as a list). Other --field value pairs are those of a probe's recipe, such as "
        "--weights teacher, --max_examples 2000 or --seed 1 for other examples.",
        "data2vec show runs/my_vision my_photos --num 8\n"
        "data2vec show runs/my_speech '{path: my_clips.csv, label_column: word}' --neighbours 5 --output words.png",
        page="docs/pictures.md",
        usage="MODEL DATA [options] [--field value ...]",
    )
    parser.add_argument("model", metavar="MODEL", help="a run folder, or a model on the Hub")
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument("--num", type=int, default=6, help="examples that are shown (default: 6)")
    parser.add_argument("--neighbours", type=int, metavar="K", help="show the K nearest neighbours of each")
    parser.add_argument("--layer", default="last", help="last, average, or a number (default: last)")
    parser.add_argument("--output", type=Path, help="default: picture.png, or neighbours.png or neighbours.txt")
    return parser


def check_show(argv: Sequence[str]) -> None:
    given, _ = show_parser().parse_known_args(argv)
    for name in ("num", "neighbours"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} is invalid: use 1 or more.")
    require_hub_name(given.model)
    require_data(source_of(given.data)["path"])


# ---- export ----


def export_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "data2vec export",
        "Export an encoder or a fine-tuned model with torch.export or to ONNX, for any batch size and length; check "
        "it against PyTorch at lengths that it was not traced with; measure its size and speed.",
        "data2vec export runs/my_recogniser my_export --format onnx --int8\n"
        "data2vec export runs/my_classifier my_export --format onnx --int8 --calibration my_images",
        page="docs/downstream.md",
    )
    parser.add_argument("model", metavar="RUN_FOLDER_OR_HUB_ID", help="what AutoModel.from_pretrained opens")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write into")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["torch"], help="default: torch")
    parser.add_argument("--int8", action="store_true", help="also ONNX with int8 weights, and what that loses")
    parser.add_argument(
        "--calibration",
        metavar="DATA",
        help="with --int8: a folder or file of some examples, in whose ranges activations are quantised (static); "
        "without, they are quantised as they come (dynamic)",
    )
    return parser


def check_export(argv: Sequence[str]) -> None:
    given = export_parser().parse_args(argv)
    require_exportable(given.model, given.format, given.int8, given.calibration)


def require_exportable(name: str, formats: Sequence[str], int8: bool, calibration: str | None) -> None:
    """Raises ValueError: there is no such model, int8 without ONNX, or calibration without int8."""
    if int8 and "onnx" not in formats:
        raise ValueError("int8 = True is made of the ONNX file: add onnx to --format.")
    if calibration is not None and not int8:
        raise ValueError(f"calibration = {calibration!r} is for int8: add --int8.")
    require_hub_name(name)


# ---- space ----


def space_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "data2vec space",
        "Write a Gradio Space to try a model in: speak and read the transcript, drop a picture, or type a sentence "
        "and see the nearest ones. Run it here, or upload it.",
        "data2vec space runs/my_recogniser --launch",
        page="docs/downstream.md",
    )
    parser.add_argument("model", metavar="RUN_FOLDER_OR_HUB_ID", help="a fine-tuned model, or an encoder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the Space (default: space_NAME)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--launch", action="store_true", help="run it here until Ctrl-C")
    what.add_argument("--push", metavar="OWNER/NAME", help="upload it as this Space")
    parser.add_argument("--model_id", metavar="OWNER/NAME", help="where the model of the folder is on the Hub")
    parser.add_argument("--dry-run", action="store_true", help="with --push: list the files, and upload nothing")
    parser.add_argument("--public", action="store_true", help="with --push: everybody may see it (default: private)")
    parser.add_argument(
        "--trust-code", action="store_true", help="the app runs code with the model that is not this package's"
    )
    return parser


def check_space(argv: Sequence[str]) -> None:
    given = space_parser().parse_args(argv)
    opened_model(given)
    require_hub_name(given.model)


def opened_model(given: argparse.Namespace) -> str:
    """What the app opens. Raises ValueError where it is not said under which name the Hub has it."""
    if not Path(given.model).is_dir():
        return str(given.model)
    if not given.push:
        return str(Path(given.model).resolve())
    if given.model_id is None:
        raise ValueError(
            "--push needs --model_id OWNER/NAME: a Space opens its model from the Hub. Push the model first "
            "(data2vec push)."
        )
    return str(given.model_id)
