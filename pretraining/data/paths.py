"""Paths that a table names stay below a folder that the user named.

A table (csv, jsonl, parquet, a saved dataset, a dataset of the Hub) was often written by somebody else. The paths in
it are relative to its own folder and must lead to a file below that folder, links followed. `root` of the source moves
that folder: `root: /data/speech` for paths of another place, `root: /` for any. A folder of files that the user names
is listed, and links in it are followed: that is how corpora are put together.
"""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
from datasets.fingerprint import Hasher

from .arguments import Source
from .bad_examples import BadExample
from .tables import stamp


FILES = datasets.Audio | datasets.Image | datasets.Video  # features of columns that hold files
REMOTE = ("hf://", "https://", "http://", "s3://", "gs://", "zip://", "gzip://")


class OutsideRoot(BadExample):
    """A table names a file that the user did not offer."""


def confine(dataset: Any, column: str, source: Source) -> Any:
    """`dataset` with absolute paths in `column`, each below the source's root; bytes are left as they are.

    Raises:
        ValueError: a path leads elsewhere, or the source's tables lie in several folders and it has no `root`. Of a
            stream the rows are checked as they come.
    """
    feature = dataset.features[column]
    by_name = isinstance(feature, datasets.Value) and "string" in feature.dtype
    media = isinstance(feature, FILES)
    if not (by_name or media or (isinstance(feature, Mapping) and "path" in feature)):
        return dataset
    how: dict[str, Any] = {"column": column, "roots": _roots(source), "told": source.path}
    if not by_name:
        if media:
            dataset = dataset.cast_column(column, type(feature)(decode=False))
        if isinstance(dataset, datasets.IterableDataset):
            return dataset.map(_resolve_files, fn_kwargs=how)
        return (
            dataset if _absolute(dataset, **how) else dataset.map(_resolve_files, fn_kwargs=how, desc="Checking paths")
        )
    if isinstance(dataset, datasets.IterableDataset):
        return dataset.map(_resolve_names, batched=True, fn_kwargs=how)
    names = dataset.select_columns([column])
    names = names.map(_resolve_names, batched=True, fn_kwargs=how, desc="Checking paths")
    others = dataset.remove_columns([column])
    return datasets.concatenate_datasets([names, others], axis=1) if others.column_names else names


def inside(name: str, roots: Sequence[str], told: str) -> str:
    """`name` made absolute below the first root. Raises `OutsideRoot` where it, links followed, is below none."""
    if name.startswith(REMOTE):
        return name
    path = os.path.normpath(os.path.join(roots[0], name))
    real = os.path.realpath(path) if os.path.islink(path) else os.path.join(*_real_folder(path))
    if any(real == root or real.startswith(root.rstrip("/") + "/") for root in map(_real, roots)):
        return path
    raise OutsideRoot(
        f"data source {told!r} names the file {name!r}, which is outside of {roots[0]!r}: if you trust it, set the "
        "source's root to a folder that holds its files (/ for any).",
        "missing",
    )


def _roots(source: Source) -> list[str]:
    """The folder that relative paths start from, first, and other folders that files may be in."""
    if source.root is not None:
        return [os.path.abspath(os.path.expanduser(source.root))]
    local = Path(source.path).expanduser()
    if local.is_dir():
        return [str(local.absolute())]
    files = [str(local)] if local.is_file() else glob.glob(str(local), recursive=True)
    folders = sorted({os.path.dirname(os.path.abspath(name)) for name in files})
    if len(folders) > 1:
        raise ValueError(
            f"data source {source.path!r} has tables in {len(folders)} folders, whose paths would start from "
            f"different ones: set its root."
        )
    # A dataset of the Hub: its files are where the libraries keep what they fetched.
    caches = (datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)
    return folders or [os.path.abspath(str(folder)) for folder in caches]


def _resolve_names(rows: dict[str, list[Any]], column: str, roots: list[str], told: str) -> dict[str, list[Any]]:
    return {column: [name and inside(name, roots, told) for name in rows[column]]}


def _resolve_files(row: dict[str, Any], column: str, roots: list[str], told: str) -> dict[str, Any]:
    value = row[column]
    if isinstance(value, dict) and value.get("bytes") is None and value.get("path"):
        value = value | {"path": inside(value["path"], roots, told)}
    return {column: value}


def _absolute(dataset: datasets.Dataset, column: str, roots: list[str], told: str) -> bool:
    """Checks all paths, without reading the bytes, which are most of such a table; whether none is relative."""
    absolute = True
    for path in _paths(dataset, column):
        absolute &= inside(path, roots, told) == path
    return absolute


def state_of(dataset: datasets.Dataset, column: str) -> str:
    """Names the rows and the state of the files that `column` names: another one as soon as one of them changes."""
    hasher = Hasher()
    hasher.update(dataset._fingerprint)
    paths = _paths(dataset, column)
    while some := list(islice(paths, 10_000)):
        hasher.update(repr([stamp(path) for path in some]))
    return hasher.hexdigest()


def _paths(dataset: datasets.Dataset, column: str) -> Iterator[str]:
    """The files that a column names, a few chosen rows or not; those in the table as bytes are not even read."""
    for values in dataset.data.column(column).chunks:
        if pa.types.is_struct(values.type):
            paths = values.field("path")
            values = paths.filter(values.field("bytes").is_null()) if "bytes" in values.type.names else paths
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            continue
        for first in range(0, len(values), 10_000):
            yield from values[first : first + 10_000].drop_null().to_pylist()


@lru_cache(maxsize=100_000)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _real_folder(path: str) -> tuple[str, str]:
    """Links in the folder's name followed, once for all its files."""
    folder, name = os.path.split(path)
    return _real(folder), name
