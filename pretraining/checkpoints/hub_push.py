"""What a run uploads while it trains (`push_to_hub`): what opens as a model, and nothing else of its folder.

`Trainer` uploads the whole run folder: logs, training_args.bin, names of files, folders of this machine in run.json.
"""

import fnmatch
from collections.abc import Iterator
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


def model_files(folder: Path) -> list[str]:
    """Paths in a run folder of weights, configuration, processor, code and card, of the whole in pretraining/ too."""
    found = [CARD] if (folder / CARD).is_file() else []
    for place in (folder, folder / WHOLE):
        files = [path for path in sorted(place.glob("*")) if path.is_file()]
        found += [
            path.relative_to(folder).as_posix()
            for path in [*files, *sorted((place / LANGUAGE_MODEL).glob("*"))]
            if path.parent.name == LANGUAGE_MODEL
            or any(fnmatch.fnmatch(path.name, pattern) for pattern in (*WEIGHTS, *MODEL, "*.py"))
        ]
    return found


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
            how["allow_patterns"] = model_files(Path(folder_path))
        return self._api.upload_folder(folder_path=folder_path, path_in_repo=path_in_repo, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)
