"""What a run uploads while it trains (`push_to_hub`): what opens as a model, and nothing else of its folder.

`Trainer` uploads the whole run folder: logs, training_args.bin, names of files, folders of this machine in run.json.
"""

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from .run_files import CARD, WHOLE


WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PROCESSOR = (
    "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
    "*.spm", "sentencepiece*.model", "spiece.model", "alphabet.json",
)  # fmt: skip
MODEL = ("config.json", "generation_config.json", *PROCESSOR)
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


def push_checkpoint(trainer: Any, checkpoint: Path) -> None:
    """Begin to upload the model in a complete checkpoint, and all of it where `hub_strategy` asks for that.

    Where the last upload has not ended this one is left out, unless `hub_always_push` is set.
    """
    args, going_on = trainer.args, trainer.push_in_progress
    busy = going_on is not None and not going_on.is_done()
    if args.hub_strategy == HubStrategy.END or (busy and not args.hub_always_push):
        return
    how: Any = {"folder_path": checkpoint, "commit_message": f"Training in progress, step {trainer.state.global_step}"}
    jobs: Any = [_upload(trainer, allow_patterns=run_files(checkpoint), run_as_future=True, **how)]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        name = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
        how["commit_message"] += ", checkpoint"
        jobs.append(_upload(trainer, path_in_repo=name, run_as_future=True, **how))
    jobs += going_on.jobs if busy else []
    trainer.push_in_progress = PushInProgress(jobs)


def push_finished(trainer: Any, commit_message: str, revision: str | None = None) -> Any:
    """Upload the model files of the run folder, behind an upload that still goes on."""
    if trainer.hub_model_id is None:
        trainer.init_hf_repo()
    if trainer.push_in_progress is not None:
        trainer.push_in_progress.wait_until_done()
    folder = Path(str(trainer.args.output_dir))
    patterns = run_files(folder)
    return _upload(
        trainer, folder_path=folder, allow_patterns=patterns, commit_message=commit_message, revision=revision
    )


def _upload(trainer: Any, **how: Any) -> Any:
    args = trainer.args
    how["revision"] = how.get("revision") or args.hub_revision
    return HfApi().upload_folder(repo_id=trainer.hub_model_id, token=args.hub_token, **how)
