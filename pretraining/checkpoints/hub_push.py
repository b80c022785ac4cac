"""What a run uploads while it trains (`push_to_hub`): what opens as a model, and nothing else of its folder.

`Trainer` uploads the whole run folder: logs, training_args.bin, names of files, folders of this machine in run.json.
"""

import fnmatch
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers.trainer


CARD, WHOLE = "README.md", "pretraining"  # the sub-folder holds student, teacher and head of a finished run
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
MODEL = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "chat_template.jinja", "*.spm", "sentencepiece*.model", "spiece.model", "alphabet.json",
)  # fmt: skip
LANGUAGE_MODEL = "language_model"  # the folder that Wav2Vec2ProcessorWithLM saves
LANGUAGE_MODEL_FILES = ("attrs.json", "unigrams.txt", "*.arpa", "*.bin", "*.binary", "*.klm")
KENLM = b"mmap lm http://kheafield.com"  # in front of a binary n-gram model, which is no pickle


def model_files(folder: Path) -> list[Path]:
    """Weights, configuration and processor of a model folder; no code."""
    files = [path for path in sorted(folder.glob("*")) if path.is_file() and matches(path.name, (*WEIGHTS, *MODEL))]
    return files + [path for path in sorted((folder / LANGUAGE_MODEL).glob("*")) if _is_language_model(path)]


def run_files(folder: Path) -> list[str]:
    """Paths in a run folder of the model with its code and card, of the whole in pretraining/ too; no links."""
    places = [place for place in (folder, folder / WHOLE) if place.is_dir()]
    found = [folder / CARD, *(path for place in places for path in [*model_files(place), *sorted(place.glob("*.py"))])]
    return [path.relative_to(folder).as_posix() for path in found if path.is_file() and lies_in(path, folder)]


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is there itself: neither it nor a folder on the way is a link, no `..` leads out."""
    return path.resolve() == folder.resolve() / path.relative_to(folder)


def _is_language_model(path: Path) -> bool:
    if not path.is_file() or not matches(path.name, LANGUAGE_MODEL_FILES):
        return False
    with path.open("rb") as file:
        return path.suffix in (".json", ".txt", ".arpa") or file.read(len(KENLM)) == KENLM


@contextmanager
def model_files_only() -> Iterator[None]:
    """Inside, `Trainer` uploads the model files of a run folder; checkpoints that it uploads stay whole."""
    trainer: Any = transformers.trainer
    original = trainer.hf_api
    trainer.hf_api = lambda: _ModelFilesOnly(original())
    try:
        yield
    finally:
        trainer.hf_api = original


class _ModelFilesOnly:
    def __init__(self, api: Any):
        self._api = api

    def upload_folder(self, *, folder_path: str, path_in_repo: str | None = None, **how: Any) -> Any:
        if path_in_repo is None:  # a checkpoint has a place of its own there
            how["allow_patterns"] = run_files(Path(folder_path))
        return self._api.upload_folder(folder_path=folder_path, path_in_repo=path_in_repo, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)
