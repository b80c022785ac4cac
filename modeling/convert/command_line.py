"""The command line of the converter: help, and what can be refused at once. Nothing here imports torch."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


WHAT = """Turn a checkpoint of the original code, of data2vec 1 or 2.0, into a folder that from_pretrained opens,
and back. fairseq is not needed, and nothing of the checkpoint is run."""
ENDING = """example:
  data2vec convert audio_base_ls.pt my_model
  data2vec convert my_model back.pt --to-fairseq

exit codes:
  0  done
  1  a fault of the program or of a library: the traceback says where
  2  refused: one line says why, and nothing is written

documentation:
  docs/converting.md
"""
HUB_FILES = ("config.json", "model.safetensors")
LONGEST_LINE = 800  # letters of an error


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28, width=100)


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="data2vec convert", description=WHAT, epilog=ENDING, formatter_class=_Help, allow_abbrev=False
    )
    parser.add_argument(
        "source",
        metavar="CHECKPOINT",
        type=Path,
        help="a checkpoint, or a folder of EAT from the Hub; with --to-fairseq a folder of ours",
    )
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="the folder to write; with --to-fairseq a file")
    parser.add_argument("--encoder-only", action="store_true", help="leave teacher, predictor and head out")
    parser.add_argument(
        "--dict", metavar="FILE", type=Path, help="the dictionary of the letters, or of the tokens of text"
    )
    parser.add_argument(
        "--check", metavar="CASE", type=Path, help="a reference case: print the largest difference from it"
    )
    parser.add_argument("--to-fairseq", action="store_true", help="write a folder as a checkpoint for the original")
    return parser


def check_there(checkpoint: Path, folder: Path) -> None:
    """ValueError where there is no checkpoint, or something where the folder is to be."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already: give a new folder.")
    if not (checkpoint.is_file() or all((checkpoint / name).is_file() for name in HUB_FILES)):
        raise ValueError(f"{checkpoint} is not a file: give a checkpoint, or a folder with {' and '.join(HUB_FILES)}.")


def check_back(folder: Path, checkpoint: Path) -> None:
    """ValueError where there is no folder of a model, or something where the checkpoint is to be."""
    if checkpoint.exists():
        raise ValueError(f"{checkpoint} is there already: give a new file.")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: give a folder that save_pretrained wrote.")


def refuse(error: Exception) -> int:
    """Say on one line why nothing is written; returns the exit code."""
    words = " ".join(str(error).split())  # some of them a stranger's: no escapes for the terminal, no novels
    print("error: " + "".join(c if c.isprintable() else "?" for c in words)[:LONGEST_LINE], file=sys.stderr)
    return 2


def check_command(argv: Sequence[str] | None = None) -> None:
    """Raises ValueError where the command line names nothing to convert, or a place that is taken."""
    given = command_parser().parse_args(argv)
    (check_back if given.to_fairseq else check_there)(given.source, given.out)


def answer_early() -> None:
    """End the process with help, or with what is wrong with its command line; else return."""
    try:
        check_command()
    except (ValueError, OSError) as error:
        sys.exit(refuse(error))
