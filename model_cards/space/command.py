"""A Space to try a model in: `data2vec space MODEL [--launch | --push OWNER/NAME [--dry-run]]`.

Writes a folder with app.py, requirements.txt, README.md and space.json, and runs it here or uploads it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from transformers import AutoConfig

import data2vec  # noqa: F401  registers the classes of 2.0
from data2vec.model_cards.card.facts import remote_classes
from data2vec.model_cards.command_line import opened_model, space_parser
from data2vec.model_cards.hub.errors import in_words, is_expected
from data2vec.model_cards.hub.own_code import foreign_code
from data2vec.pretraining.checkpoints.run_files import write_text
from data2vec.pretraining.console.help import EXIT_REFUSED
from data2vec.pretraining.data.hub_names import require_hub_name
from data2vec.pretraining.data.modality import Registry
from data2vec.pretraining.modalities.audio import AudioData
from data2vec.pretraining.modalities.build import modality_of
from data2vec.pretraining.modalities.image import ImageData
from data2vec.pretraining.modalities.spectrogram import SpectrogramData
from data2vec.pretraining.modalities.text import TextData


TEMPLATES = Path(__file__).with_name("templates")
FILES = ("app.py", "requirements.txt", "README.md")
CHOICE = "space.json"  # what app.py reads
# ending of the class that was saved -> template and task
SPACES: Registry[dict[str, tuple[str, str]]] = Registry(
    "Space",
    {
        AudioData: {
            "ForCTC": ("audio", "automatic-speech-recognition"),
            "ForSequenceClassification": ("audio", "audio-classification"),
        },
        SpectrogramData: {"ForAudioClassification": ("audio", "audio-classification")},
        ImageData: {
            "ForImageClassification": ("image", "image-classification"),
            "Model": ("image", "image-feature-extraction"),
        },
        TextData: {
            "Model": ("text", "feature-extraction"),
            "ForSequenceClassification": ("text", "feature-extraction"),
        },
    },
)
SENTENCES = [
    "The film was good.",
    "It is a bad film.",
    "They were at the house.",
    "The children play in the garden.",
    "This book is about the sea.",
]


def write_space(name: str, folder: Path, model: str | None = None, trust_code: bool = False) -> Path:
    """Write a Space for the model `name`, a run folder or a Hub id, into `folder`; returns it.

    Args:
        model: what the app opens; `name` itself by default.
        trust_code: the app may run the code that lies with the model, also where it is not this package's.

    Raises:
        ValueError: there is no Space for such a model, or it comes with somebody else's code.
    """
    require_hub_name(name)
    config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
    apps = SPACES[modality_of(config.model_type)]
    saved = (config.architectures or ["Model"])[0]
    found = next((app for end, app in apps.items() if saved.endswith(end)), None)
    if found is None:
        raise ValueError(
            f"There is no Space for {name!r}, a {saved}: the models to try are "
            f"{', '.join(apps)}. Fine-tune it first (docs/fine_tuning.md)."
        )
    template, task = found
    model = model or name
    title = model.rstrip("/").rpartition("/")[2]
    choice: dict[str, Any] = {"model": model, "task": task, "title": title}
    choice["trust_remote_code"] = bool(remote_classes(config.model_type))
    if choice["trust_remote_code"]:
        choice["revision"] = _checked_code(model, trust_code)
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        text = (TEMPLATES / template / file).read_text(encoding="utf-8")
        write_text(
            folder / file, text.replace("MODEL", model).replace("TITLE", title) if file == "README.md" else text
        )
    if template == "text":
        choice["sentences"] = SENTENCES
    write_text(folder / CHOICE, json.dumps(choice, indent=2) + "\n")
    return folder


def _checked_code(model: str, trust_code: bool) -> str | None:
    """The revision of a model on the Hub whose code was compared with this package's; `None` for a folder.

    Raises:
        ValueError: it is not the same.
    """
    local = Path(model).is_dir()
    place = Path(model if local else snapshot_download(model, allow_patterns=["*.py", "*.json"]))
    foreign = foreign_code(place)
    if foreign and not trust_code:
        raise ValueError(
            f"{model} comes with code that is not this version of data2vec's ({', '.join(foreign[:5])}), and the app "
            "would run it: read it, then pass --trust-code."
        )
    return None if local else place.name


def launch(folder: Path) -> int:
    """Run a written Space here until it is stopped; returns its exit code.

    Raises:
        ValueError: gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise ValueError("--launch needs gradio: pip install 'data2vec[space]'.")
    environment = {"GRADIO_ANALYTICS_ENABLED": "False"} | os.environ
    return subprocess.run([sys.executable, "app.py"], cwd=folder, env=environment, check=False).returncode


def push_space(folder: Path, repo_id: str, public: bool, api: HfApi) -> str:
    """Upload a written Space in one commit; returns its address. Raises ValueError, or an error of the Hub."""
    validate_repo_id(repo_id)
    _refuse_unrelated(repo_id, public, api)
    api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=not public, exist_ok=True)
    added = [CommitOperationAdd(name, str(folder / name)) for name in (*FILES, CHOICE)]
    commit = api.create_commit(repo_id, added, commit_message="Upload Space", repo_type="space")
    return commit.commit_url


def _refuse_unrelated(repo_id: str, public: bool, api: HfApi) -> None:
    """A Space that exists is written over only where this command made it, and shown only where that was asked for."""
    try:
        info = api.space_info(repo_id)
    except RepositoryNotFoundError:
        return
    if not info.private and not public:
        raise ValueError(f"The Space {repo_id} exists and is public: add --public, or give another name.")
    files = set(api.list_repo_files(repo_id, repo_type="space")) - {".gitattributes", "README.md"}
    if files and CHOICE not in files:
        raise ValueError(
            f"The Space {repo_id} holds other files ({', '.join(sorted(files)[:3])} ...): give another name, or "
            "delete it on the Hub first."
        )


def main(argv: Sequence[str] | None = None) -> int:
    args = space_parser().parse_args(argv)
    api = HfApi()
    try:
        model = opened_model(args)
        out = args.out or Path(f"space_{Path(args.model).name}")
        folder = write_space(args.model, out, model, args.trust_code)
        if args.launch:
            return launch(folder)
        if args.push:
            return _push(folder, args.push, args.public, args.dry_run, api)
    except KeyboardInterrupt:
        return 0
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"error: {in_words(error, api, args.push or args.model)}", file=sys.stderr)
        return EXIT_REFUSED
    print(f"{folder} is the Space. To run it here: python {folder / 'app.py'}")
    return 0


def _push(folder: Path, repo_id: str, public: bool, dry_run: bool, api: HfApi) -> int:
    where = f"{api.endpoint}/spaces/{repo_id} ({'public' if public else 'private'})"
    print(f"{'Would upload' if dry_run else 'Uploading'} to {where}:")
    for name in (*FILES, CHOICE):
        print(f"  {(folder / name).stat().st_size:>6,}  {name}")
    if not dry_run:
        print(f"Done: {push_space(folder, repo_id, public, api)}")
    return 0
