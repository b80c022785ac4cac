"""The published weights open here: a checkpoint of the original code -> a folder for `from_pretrained`, and back.

    python -m data2vec.modeling.convert CHECKPOINT OUT_DIR [--encoder-only] [--dict DICT] [--check CASE]
    python -m data2vec.modeling.convert FOLDER OUT.pt --to-fairseq

fairseq is not needed, and nothing of the checkpoint is run: see `pickles`.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from huggingface_hub import load_state_dict_from_file, save_torch_state_dict
from huggingface_hub.utils.tqdm import tqdm
from torch import Tensor
from transformers import AutoConfig, AutoModelForPreTraining, PreTrainedModel
from transformers.utils import logging

from .check import differences
from .checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from .command_line import check_back, check_there, command_parser, refuse
from .export import exported
from .original import check_numbers
from .processors import save_processor
from .sources import source_of
from .weights import has_teacher, load


UNUSED_FILE = "fairseq_unused.safetensors"


def convert(
    checkpoint: Path, folder: Path, encoder_only: bool = False, dictionary: Path | None = None
) -> tuple[PreTrainedModel, str, list[str]]:
    """Write the folder, whole or not at all.

    Args:
        encoder_only: the student's encoder without teacher, predictor or a task's head.
        dictionary: the letters of a CTC model, or a text model's tokens; looked for beside the checkpoint if `None`.

    Returns:
        The model, what it is, and notes on what could not be carried over.

    Raises:
        ValueError: the checkpoint cannot be read or converted, or the folder is there already; nothing is written.
    """
    check_there(checkpoint, folder)
    with tqdm(desc=f"converting {checkpoint.name}", unit=" steps", total=3, delay=2, disable=None, leave=False) as bar:
        return _convert(checkpoint, folder, encoder_only, dictionary, bar)


def _convert(
    checkpoint: Path, folder: Path, encoder_only: bool, dictionary: Path | None, bar: Any
) -> tuple[PreTrainedModel, str, list[str]]:
    """In three steps: read, build and fill, write."""
    read = read_checkpoint(checkpoint)
    bar.update()
    source, tuned = source_of(read)
    words = f"{source.words}, {'fine-tuned' if tuned else 'pretrained'}"
    configure = source.tuned.config if tuned and source.tuned else source.config
    with _in_one_go(folder) as unfinished:
        try:
            read = source.prepared(read, dictionary)
            config, notes = configure(read.cfg, read.tensors)
            if source.teacherless and not (tuned or encoder_only or has_teacher(read.tensors, source)):
                encoder_only, notes = True, [*notes, "no teacher, as published: the encoder alone is here."]
            check_numbers(config.to_dict())
            config.num_updates = read.num_updates
            model, unused = load(read.tensors, source, tuned, config, encoder_only)
            bar.update()
            notes = notes + save_processor(source, tuned, read, model.config, dictionary, unfinished)
        except (ValueError, OSError):
            raise
        except Exception as error:  # values of another type or range than anything that the original wrote
            reason = f"{type(error).__name__}: {error.__cause__ or error}"
            raise ValueError(f"the checkpoint's configuration does not fit: {reason}") from error
        model.save_pretrained(unfinished)
        if unused and not encoder_only:
            save_torch_state_dict(unused, unfinished, filename_pattern=UNUSED_FILE)
        card = _card(read, f"{words}{', encoder only' if encoder_only else ''}", source.arxiv, notes)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
    return model, words, notes


def convert_back(folder: Path, checkpoint: Path) -> list[str]:
    """Write a folder of a `...ForPreTraining` model as a checkpoint for the original code.

    Returns:
        Notes on what the original will do a little differently.

    Raises:
        ValueError: no such folder, an encoder without teacher, or a model that the original cannot express.
    """
    check_back(folder, checkpoint)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        name = (getattr(config, "architectures", None) or ["?"])[0]
        if not name.endswith("ForPreTraining") or getattr(config, "objective", None) is None:
            raise ValueError(
                f"{folder} holds a {name}: only a ...ForPreTraining, which has the teacher, can be written."
            )
        check_numbers(config.to_dict())
        model = AutoModelForPreTraining.from_pretrained(folder, dtype="float32", trust_remote_code=False)
        unused = folder / UNUSED_FILE
        kept: dict[str, Tensor] = dict(load_state_dict_from_file(unused)) if unused.is_file() else {}
        content, notes = exported(model, kept, getattr(config, "num_updates", None) or 0)
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever a stranger's configuration or weights lead to
        reason = f"{type(error).__name__}: {error.__cause__ or error}"
        raise ValueError(f"{folder} cannot be written as a checkpoint: {reason}") from error
    write_checkpoint(content, checkpoint)
    return notes


@contextmanager
def _in_one_go(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one, which takes its place at the end and leaves nothing on an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        unfinished.chmod(0o777 & ~_umask())
        yield unfinished
        if folder.exists():
            folder.rmdir()  # an empty one
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _card(read: Checkpoint, words: str, arxiv: str | None, notes: list[str]) -> str:
    """A model card to start from, which names the source."""
    paper = "" if arxiv is None else f" (arXiv [{arxiv}](https://arxiv.org/abs/{arxiv}))"
    updates = "not recorded" if read.num_updates is None else str(read.num_updates)
    lines = [
        "---",
        "library_name: transformers",
        "tags: [data2vec]",
        "---",
        "",
        f"# {escape(read.path.stem)}",
        "",
        f"{words[0].upper()}{words[1:]}; converted with",
        f"`data2vec.modeling.convert` from the checkpoint `{escape(read.path.name)}` of the original code{paper}.",
        f"Updates: {updates}.",
        "",
        "The weights keep the licence of their source.",
    ]
    if notes:
        lines += ["", "## Differences from the checkpoint", "", *[f"- {note}" for note in notes]]
    return "\n".join(lines) + "\n"


def _check(model: PreTrainedModel, case: Path) -> list[str]:
    file = case / "io.safetensors"
    if not file.is_file():
        raise ValueError(f"{case} has no io.safetensors: give the folder of a reference case.")
    try:
        found = differences(model, dict(load_state_dict_from_file(file)))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{case} is no reference case of such a model: {error}") from error
    return [f"{name}: {apart:.1e}" for name, apart in found.items()] + [
        f"largest difference: {max(found.values()):.1e}"
    ]


def _run(given: argparse.Namespace) -> None:
    if given.to_fairseq:
        notes = convert_back(given.source, given.out)
        print("\n".join([f"wrote {given.out}", *[f"note: {note}" for note in notes]]))
        return
    model, words, notes = convert(given.source, given.out, given.encoder_only, given.dict)
    print(f"wrote {given.out}: {words}, {type(model).__name__}")
    for note in notes:
        print(f"note: {note}")
    if given.check is not None:
        print("\n".join(_check(model, given.check)))


def main(argv: Sequence[str] | None = None) -> int:
    logging.disable_progress_bar()
    try:
        _run(command_parser().parse_args(argv))
    except (ValueError, OSError) as error:
        return refuse(error)
    return 0
