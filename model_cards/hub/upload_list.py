"""Which files of a run folder go to the Hub, and why the others stay: only what is known to belong to a model goes.

weights, configuration, processor        what the Auto classes and `pipeline` open
*.py                                     of a model of its own: the modules that auto_map names, and what they import
README.md and the pictures it shows      the card
recipe, run, report, results             the record of the run, without folders of this machine
pretraining/                             student, teacher and decoder, where asked for
"""

import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from ...pretraining.checkpoints.hub_push import lies_in, model_files
from ...pretraining.checkpoints.run_files import CARD, WHOLE
from ...pretraining.console.redact import mask_text
from ..card.facts import remote_classes
from ..card.usage import REPO_ID
from ..folder import CONFIG, require_finished
from ..strip_paths import without_places
from .own_code import foreign_code, is_own


RECORD = ("recipe.yaml", "run.json", "report.json", "report.md", "report.html", "results.json")
WITHOUT_PLACES = ("recipe.yaml", "run.json", "report.json", "report.md", "results.json")
# What is never uploaded, also when asked for: pattern of a name -> why.
NEVER = {
    "*.bin": "a pickle, which can run code where it is opened",
    "*.pt": "a pickle, which can run code where it is opened",
    "*.pth": "a pickle, which can run code where it is opened",
    "*.pkl": "a pickle, which can run code where it is opened",
    "*.ckpt": "a pickle, which can run code where it is opened",
    ".*": "a hidden file",
    "*token": "may hold a token",
    "*.env": "may hold a token",
    "*.pem": "a key",
    "*.key": "a key",
    "id_rsa*": "a key",
}
LEFT = {
    "checkpoint-*": "a checkpoint with the optimizer's state",
    "_*": "half written or set aside",
    "logs": "logs",
    "runs": "logs of TensorBoard",
    "events.out.tfevents.*": "logs of TensorBoard",
    "trainer_state.json": "the log; the card shows it as curves",
    "health.json": "the state of the run on this machine",
    "skipped*.jsonl": "names of your files",
    "predictions": "holds examples of your data",
    "card.yaml": "what you said; it is in the card",
    "emissions.csv": "is in the card",
    WHOLE: "student, teacher and decoder: --pretraining uploads it",
}
# ending -> what such files start with, of webp behind the container's name and size
PICTURES = {
    ".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff", ".gif": b"GIF8", ".webp": b"WEBP",
}  # fmt: skip
NAME_OR_PATH = re.compile(r'^\s*"_?name_or_path": "(?:/|~|\.\.|[A-Za-z]:)[^"]*",?\n', re.MULTILINE)


@dataclass(frozen=True)
class Upload:
    """A file to upload, from `source`, or with other `content` than it has there."""

    path: str  # in the repository
    source: Path
    content: bytes | None = None

    @property
    def size(self) -> int:
        return self.source.stat().st_size if self.content is None else len(self.content)

    def read(self) -> bytes:
        return self.source.read_bytes() if self.content is None else self.content


@dataclass
class UploadList:
    folder: Path
    trust_code: bool = False
    uploads: list[Upload] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)  # path -> why it stays

    @property
    def size(self) -> int:
        return sum(upload.size for upload in self.uploads)


def list_uploads(
    folder: Path, repo_id: str, *, pretraining: bool = False, include: Sequence[str] = (), trust_code: bool = False
) -> UploadList:
    """Everything that a push of this run folder uploads.

    Args:
        repo_id: put into the card's code.
        pretraining: the sub-folder with student, teacher and decoder, too.
        include: patterns of further paths, relative to the folder.
        trust_code: code of a model that is not this package's goes, too.

    Raises:
        ValueError: the folder holds no finished model or no card, a file of its code is missing, or a file that
            would be uploaded holds a token; the message names the file and the fix.
    """
    require_finished(folder, pretraining)
    found = UploadList(folder, trust_code)
    _add_model(folder, "", found)
    if pretraining:
        _add_model(folder / WHOLE, f"{WHOLE}/", found)
    card = (folder / CARD).read_text(encoding="utf-8")
    _add(found, CARD, folder / CARD, card.replace(REPO_ID, repo_id).encode())
    for picture in sorted(set(re.findall(r"!\[[^\]]*\]\(<?([^)>:\s]+)[>)\s]", card))):
        _check_picture(folder, picture)
        _add(found, picture, folder / picture)
    for name in RECORD:
        if (folder / name).is_file():
            text = (folder / name).read_bytes()
            cut = without_places(text.decode("utf-8")).encode() if name in WITHOUT_PLACES else None
            _add(found, name, folder / name, cut)
    known = {upload.path for upload in found.uploads}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in known:
            continue
        if any(fnmatch.fnmatch(name, pattern) for pattern in include):
            refused = next((why for part in name.split("/") if (why := _never(part))), None)
            if refused:
                raise ValueError(f"--include {name} is invalid: it is {refused}.")
            _add(found, name, path)
        else:
            found.left[name] = _why(name.removeprefix(f"{WHOLE}/") if pretraining else name)
    _refuse_secrets(found)
    return found


def _check_picture(folder: Path, picture: str) -> None:
    """A card may name any file as a picture: only one that lies in the folder goes with it.

    Raises:
        ValueError: it is not there, elsewhere, in a folder that stays here, or no picture.
    """
    path, parts = folder / picture, picture.split("/")
    shown = f"{folder / CARD} shows {picture}, which "
    if ".." in parts or picture.startswith("/"):
        raise ValueError(f"{shown}is outside of the folder: put the picture into it.")
    if not path.is_file():
        raise ValueError(f"{shown}is not there: render the card again.")
    stays = next((why for part in parts if (why := _left(part) or _never(part))), None)
    if stays is not None:
        raise ValueError(f"{shown}stays here ({stays}): take it out of the card.")
    with path.open("rb") as file:
        start = file.read(12)
    if not start.removeprefix(b"RIFF" + start[4:8]).startswith(PICTURES.get(path.suffix.lower(), b"no picture")):
        raise ValueError(f"{shown}is no {', '.join(PICTURES)}: take it out of the card.")


def _add_model(folder: Path, prefix: str, found: UploadList) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    auto_map = remote_classes(str(config.get("model_type")))
    for path in model_files(folder):
        text = None
        if path.name == CONFIG and auto_map:
            text = json.dumps(config | {"auto_map": auto_map}, indent=2, sort_keys=True) + "\n"
        elif path.name in ("tokenizer_config.json", CONFIG):
            text = path.read_text(encoding="utf-8")
        content = None if text is None else NAME_OR_PATH.sub("", text).encode()
        _add(found, prefix + path.relative_to(folder).as_posix(), path, content)
    if auto_map:
        code = sorted(_code(folder, auto_map))
        foreign = {*foreign_code(folder), *(path.name for path in code if not is_own(path))}
        if foreign and not found.trust_code:
            raise ValueError(
                f"{folder} holds code that is not this version of data2vec's ({', '.join(sorted(foreign)[:5])}), and "
                "whoever opens the model would run it: save the model again with save_pretrained, or read the code "
                "and pass --trust-code."
            )
        for path in code:
            _add(found, prefix + path.name, path)


def _code(folder: Path, auto_map: dict[str, str]) -> set[Path]:
    """The modules that auto_map names and all that they import."""
    modules = {folder / f"{place.split('.')[0]}.py" for place in auto_map.values()}
    code: set[Path] = set()
    for module in modules:
        try:
            code |= {module, *map(Path, get_relative_import_files(module))}
        except FileNotFoundError as error:
            raise ValueError(
                f"{error.filename} is missing, and without it nobody can open this model: save it again with "
                "save_pretrained, which writes its code."
            ) from error
    return code


def _add(found: UploadList, path: str, source: Path, content: bytes | None = None) -> None:
    if not lies_in(source, found.folder):
        raise ValueError(
            f"{source} is a link, or in a folder that is one: put the file itself there, so that what is uploaded is "
            "what lies there."
        )
    if content is not None and content == source.read_bytes():
        content = None
    if all(upload.path != path for upload in found.uploads):
        found.uploads.append(Upload(path, source, content))


def _never(name: str) -> str | None:
    return next((why for pattern, why in NEVER.items() if fnmatch.fnmatch(name.lower(), pattern)), None)


def _left(name: str) -> str | None:
    return next((why for pattern, why in LEFT.items() if fnmatch.fnmatch(name, pattern)), None)


def _why(path: str) -> str:
    first, last = path.split("/")[0], path.rpartition("/")[2]
    return _left(first) or _left(last) or _never(last) or "no part of a model: --include uploads it"


def _refuse_secrets(found: UploadList) -> None:
    for upload in found.uploads:
        if upload.path.endswith((".safetensors", "tokenizer.json")):
            continue
        text = upload.read().decode("utf-8", errors="replace")
        if mask_text(text) != text:
            raise ValueError(f"{upload.source} holds what looks like a token or a password: take it out first.")
