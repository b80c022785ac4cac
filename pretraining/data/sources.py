"""From what a recipe calls a source to a `datasets.Dataset` (or a stream) with one column of audio, images or text.

A source is, in this order: `builtin:NAME`, a folder written by `save_to_disk`, a folder or a list of plain files, a
data file, and else a Hugging Face dataset by folder or name. Nothing is decoded here: a row holds a path or the bytes
of the file, so that one decoder per modality (soundfile, Pillow) meets every file whatever it came from.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from ..console.progress import progress
from .arguments import Source
from .builtin import load_builtin
from .paths import confine
from .text_files import PROBLEM, WHERE, read_text_files


AnyDataset: TypeAlias = "datasets.Dataset | datasets.IterableDataset"
LABEL = "label"  # the name that the label column gets here

TABLES = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
STREAM_SHARDS = 64  # of a local folder: the most ranks * workers that read it without skipping over each other's rows


@dataclass(frozen=True)
class MediaKind:
    """How a modality looks on disk and in a dataset."""

    column: str  # the name that its column gets here
    feature: type | None  # the `datasets` feature that marks it
    extensions: tuple[str, ...]  # of its files, lower case
    known_columns: tuple[str, ...]  # where no feature marks it


def load_source(
    source: Source,
    kind: MediaKind,
    *,
    default_split: str = "train",
    streaming: bool = False,
    label_column: str | None = None,
    sample_by: str = "line",
) -> AnyDataset:
    """One source as a dataset with the column `kind.column` and, if asked for, `label`.

    `default_split` is read where the source names no split and has several; `sample_by` says what a document of a txt
    file is (line, paragraph or document). Raises ValueError where the source cannot be opened or has no such column.
    """
    dataset = open_source(
        source,
        kind,
        default_split=default_split,
        streaming=streaming,
        labelled=label_column is not None,
        sample_by=sample_by,
    )
    return _keep_columns(dataset, source, kind, label_column)


def open_source(
    source: Source,
    kind: MediaKind,
    *,
    default_split: str = "train",
    streaming: bool = False,
    labelled: bool = False,
    sample_by: str = "line",
) -> AnyDataset:
    """The rows of a source with all their columns; see `load_source`, which keeps those that are asked for."""
    try:
        dataset = _open(source, kind, default_split, streaming, labelled, sample_by)
    except (ValueError, OSError, KeyError, RuntimeError, ImportError, datasets.exceptions.DatasetsError) as error:
        detail = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise ValueError(
            f"data source {source.path!r} (name={source.name!r}, split={source.split!r}) cannot be opened. {detail}"
        ) from error
    if dataset.features is None:  # a stream that does not say; it reads a few rows to find out
        dataset = dataset._resolve_features()
    return _choose_rows(dataset, source)


def load_sources(sources: Sequence[Source], kind: MediaKind, **how: Any) -> list[AnyDataset]:
    """`load_source` of each."""
    return [load_source(source, kind, **how) for source in sources]


def _open(
    source: Source, kind: MediaKind, default_split: str, streaming: bool, labelled: bool, sample_by: str
) -> AnyDataset:
    path, split = source.path, source.split
    if path.startswith("builtin:"):
        return _maybe_stream(
            load_builtin(path.removeprefix("builtin:"), source.name, split or default_split), streaming
        )

    local = Path(path).expanduser()
    if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
        saved = _one_split(datasets.load_from_disk(str(local)), split, default_split)
        return _maybe_stream(_confined(saved, source, kind), streaming)

    if local.is_dir():
        files = _files_below(local / split if split and (local / split).is_dir() else local, kind.extensions)
        if files and split and not (local / split).is_dir():
            raise ValueError(
                f"It is a folder of files without a sub-folder {split!r}: drop split, or make the folder."
            )
    else:
        files = [str(local)] if local.is_file() else sorted(glob.glob(str(local), recursive=True))
        files = [name for name in files if os.path.isfile(name)]
        if not files and (glob.has_magic(path) or local.is_absolute() or path.startswith((".", "~"))):
            raise ValueError("There is no such file or folder: correct the path.")
    if files:
        chosen = split if not local.is_dir() else None
        return _open_files(files, source, kind, chosen, streaming, labelled, sample_by)
    dataset = datasets.load_dataset(
        str(local) if local.is_dir() else path, source.name, split=split or default_split, streaming=streaming
    )
    return _confined(dataset, source, kind)


def _confined(dataset: AnyDataset, source: Source, kind: MediaKind) -> AnyDataset:
    """A table whose paths were checked; a text has none."""
    if kind.feature is None:
        return dataset
    if dataset.features is None:
        dataset = dataset._resolve_features()
    column = source.column or _find_column(dataset.features, kind)
    return confine(dataset, column, source) if column is not None and column in dataset.features else dataset


def _open_files(
    files: list[str],
    source: Source,
    kind: MediaKind,
    split: str | None,
    streaming: bool,
    labelled: bool,
    sample_by: str,
) -> AnyDataset:
    """Media files become a column of paths; tables and texts go through their `datasets` builder."""
    endings = {_extension(name) for name in files}
    if endings <= set(kind.extensions) - set(TABLES):
        columns = {kind.column: files}
        if labelled:
            columns[LABEL] = [os.path.basename(os.path.dirname(name)) for name in files]
        return _maybe_stream(datasets.Dataset.from_dict(columns), streaming)
    builders = {TABLES.get(ending) for ending in endings}
    if len(builders) != 1 or None in builders:
        raise ValueError(
            f"Files ending in {', '.join(sorted(endings))} cannot be read together as {kind.column}: name a folder or "
            f"pattern of one format, of {', '.join((*kind.extensions, *TABLES))}."
        )
    (builder,) = builders
    if builder == "text":
        if split not in (None, "train"):
            raise ValueError(f"Text files have no split {split!r}: drop split, or name other files.")
        return read_text_files(files, sample_by, streaming)
    table = datasets.load_dataset(builder, data_files=files, split=split or "train", streaming=streaming)
    return _confined(table, source, kind)


def _keep_columns(dataset: AnyDataset, source: Source, kind: MediaKind, label_column: str | None) -> AnyDataset:
    features = dataset.features
    column = source.column or _find_column(features, kind)
    if column not in features:
        problem = (
            f"no column {column!r}" if column else f"no column, or no single one, that is clearly the {kind.column}"
        )
        raise ValueError(
            f"data source {source.path!r} has {problem}: set column to one of its columns, {', '.join(features)}."
        )
    # What is wrong with a document of a text file comes with it.
    kept = {column: kind.column} | {extra: extra for extra in (PROBLEM, WHERE) if extra in features}
    if label_column is not None:
        if label_column not in features and LABEL not in features:
            raise ValueError(
                f"data source {source.path!r} has no column {label_column!r}: set data.probe.label_column to one of "
                f"{', '.join(features)}."
            )
        kept[label_column if label_column in features else LABEL] = LABEL
    feature = features[column]
    if isinstance(feature, datasets.Audio | datasets.Image):
        dataset = dataset.cast_column(column, type(feature)(decode=False))
    dataset = dataset.select_columns(list(kept))
    renamed = {old: new for old, new in kept.items() if old != new}
    return dataset.rename_columns(renamed) if renamed else dataset


def _choose_rows(dataset: AnyDataset, source: Source) -> AnyDataset:
    if isinstance(dataset, datasets.IterableDataset) and (source.keep or source.drop):
        fix = "leave them out with data.streaming = true"
        raise ValueError(f"data source {source.path!r}: keep and drop cannot be applied to a stream: {fix}.")
    for name, values in (source.keep or {}).items():
        dataset = _rows_with(dataset, source, "keep", name, values, True)
    for name, values in (source.drop or {}).items():
        dataset = _rows_with(dataset, source, "drop", name, values, False)
    return dataset


def _rows_with(
    dataset: datasets.Dataset, source: Source, field: str, column: str, values: list[Any], wanted: bool
) -> datasets.Dataset:
    """The rows whose `column` has (or, with `wanted` False, has not) one of `values`; a class may go by its name."""
    features = dataset.features
    if column not in features:
        raise ValueError(
            f"data source {source.path!r}: {field} names no column {column!r}: use one of {', '.join(features)}."
        )
    feature = features[column]
    if isinstance(feature, datasets.ClassLabel):
        unknown = [value for value in values if isinstance(value, str) and value not in feature.names]
        if unknown:
            raise ValueError(
                f"data source {source.path!r}: {field}.{column} holds {unknown[0]!r}: use {', '.join(feature.names)}."
            )
        values = [feature.str2int(value) if isinstance(value, str) else value for value in values]
    present = set(dataset.unique(column))
    missing = [value for value in values if value not in present]
    if missing:  # a slip in a speaker's name would put that speaker into both sets
        some = ", ".join(sorted(map(repr, present))[:20])
        raise ValueError(
            f"data source {source.path!r}: {field}.{column} holds {missing[0]!r}, which no row has: use values of "
            f"{some}."
        )
    chosen = set(values)
    return dataset.filter(lambda value: (value in chosen) == wanted, input_columns=[column])


def _find_column(features: datasets.Features, kind: MediaKind) -> str | None:
    marked = [name for name, feature in features.items() if kind.feature and isinstance(feature, kind.feature)]
    if len(marked) == 1:
        return marked[0]
    return next((name for name in kind.known_columns if name in features), None) if not marked else None


def _one_split(dataset: Any, split: str | None, default_split: str) -> datasets.Dataset:
    if not isinstance(dataset, datasets.DatasetDict):
        if split is not None:
            raise ValueError("It holds one dataset without splits: drop split, or save a DatasetDict.")
        return dataset
    chosen = split or default_split
    if chosen not in dataset:
        raise ValueError(f"It has no split {chosen!r}: set split to one of {', '.join(dataset)}.")
    return dataset[chosen]


def _maybe_stream(dataset: datasets.Dataset, streaming: bool) -> AnyDataset:
    if not streaming:
        return dataset
    return dataset.to_iterable_dataset(num_shards=max(1, min(len(dataset), STREAM_SHARDS)))


def _extension(name: str) -> str:
    stem, ending = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if ending in COMPRESSED else ending


def _files_below(folder: Path, extensions: Sequence[str]) -> list[str]:
    """All files of these kinds, through links too, in one order on every machine; hidden ones are left out."""
    found = progress(_walk(folder, set()), title=f"looking through {folder}", unit=" files")
    return sorted(name for name in found if _extension(name) in extensions)


def _walk(folder: Path, seen: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a link to a folder above
        return
    seen.add(real)
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), seen)
        elif entry.is_file() or entry.is_symlink():  # one that leads nowhere is reported when it is read
            yield entry.path
