"""A name may be a folder here or a repository of the Hub: a mistyped path is refused before the network is asked."""

import functools
import glob
import os
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]


FILE_ENDINGS = (
    ".arrow", ".bin", ".ckpt", ".csv", ".flac", ".gz", ".jpeg", ".jpg", ".json", ".jsonl", ".m4a", ".mkv", ".mp3",
    ".mp4", ".npy", ".npz", ".obj", ".off", ".ogg", ".parquet", ".pcd", ".ply", ".png", ".pt", ".pth", ".safetensors",
    ".stl", ".tar", ".tsv", ".txt", ".wav", ".xyz", ".yaml", ".yml", ".zip",
)  # fmt: skip
SECONDS = 5.0  # that the Hub has to answer


def require_hub_name(name: str, kind: str = "model") -> None:
    """Refuse a `name` that is neither there nor can be a "model" or "dataset" of the Hub.

    Raises:
        ValueError: it looks like a path, or it is not in the cache and the Hub does not answer.
    """
    if Path(name).expanduser().exists():
        return
    looks_like_path = (
        name.startswith((".", "~", os.sep))
        or name.count("/") > 1
        or name.endswith("/")
        or "\\" in name
        or name.lower().endswith(FILE_ENDINGS)
    )
    if looks_like_path:
        raise ValueError(f"There is no file or folder {name!r}: correct the path.")
    if not _is_cached(name, kind) and not _hub_answers():
        raise ValueError(
            f"There is no file or folder {name!r}, and the Hub, which might have such a {kind}, does not answer: "
            "correct the path, or go online."
        )


def require_data(path: str) -> None:
    """Refuse the path of a source that is neither built in, nor there, nor can be a dataset of the Hub.

    Raises:
        ValueError: as [`require_hub_name`], or no file fits a pattern.
    """
    if path.startswith("builtin:") or Path(path).expanduser().is_dir() or files_named(path):
        return
    if glob.has_magic(path):
        raise ValueError("No file has such a name: correct the pattern.")
    require_hub_name(path, "dataset")


def files_named(path: str) -> list[str]:
    """The files of a path or a pattern."""
    local = Path(path).expanduser()
    names = [str(local)] if local.is_file() else sorted(glob.glob(str(local), recursive=True))
    return [name for name in names if os.path.isfile(name)]


def _is_cached(name: str, kind: str) -> bool:
    prepared = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    folders = [Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"]
    folders += [prepared / name.replace("/", "___")] if kind == "dataset" else []
    return any(folder.is_dir() for folder in folders)


@functools.cache
def _hub_answers() -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # whatever the HTTP library raises, there was no answer
        return False
    return True
