"""From what a recipe calls a source to a `datasets.Dataset` (or a stream) with the columns that a modality reads.

A source is, in this order: `builtin:NAME`, a folder written by `save_to_disk`, a folder or a list of plain files, a
data file, and else a Hugging Face dataset by folder or name. Nothing is decoded here: a row holds a path or the bytes
of the file, so that one decoder per modality (soundfile, Pillow, trimesh) meets every file whatever it came from.
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json

from .arguments import Source
from .builtin import load_builtin
from .decoded_arrays import Encode, encode_arrays
from .folders import extension, files_below, listed, with_ending
from .hub_names import files_named, require_data
from .paths import FILES, confine
from .row_choice import choose_rows
from .tables import read_tables
from .text_files import PROBLEM, WHERE, read_text_files


logger = logging.getLogger(__name__)

AnyDataset: TypeAlias = "datasets.Dataset | datasets.IterableDataset"
LABEL = "label"  # the name that the label column gets here

TABLES = {
    ".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
    ".arrow": "arrow",
}  # fmt: skip
LOADED = {*TABLES, ".tar", ".zip", ".lance", ".h5", ".hdf5", ".xml"}  # files that `datasets` finds in a folder
STREAM_SHARDS = 64  # of a local folder: the most ranks * workers that read it without skipping over each other's rows


@dataclass(frozen=True)
class MediaKind:
    """How a modality looks on disk and in a dataset."""

    column: str  # the name that its column gets here
    feature: type | None  # the `datasets` feature that marks it
    extensions: tuple[str, ...]  # of its files, lower case; () where none holds it
    known_columns: tuple[str, ...]  # where no feature marks it
    encode: Encode | None = None  # of a decoded array
    is_text: bool = False
    # What is read with it, such as the video of a sound: each in a column of the same row or, in a folder, in the file
    # of the same name with one of its own endings.
    beside: tuple["MediaKind", ...] = ()
    optional: bool = False  # beside another kind: a row may do without it

    @property
    def parts(self) -> tuple["MediaKind", ...]:
        return (self, *self.beside)


@dataclass(frozen=True)
class _Reading:
    """How a source is read, see `load_source`."""

    source: Source
    kind: MediaKind
    default_split: str
    streaming: bool
    labelled: bool
    sample_by: str

    @property
    def split(self) -> str:
        return self.source.split or self.default_split


def load_source(
    source: Source,
    kind: MediaKind,
    *,
    default_split: str = "train",
    streaming: bool = False,
    label_column: str | None = None,
    sample_by: str = "line",
) -> AnyDataset:
    """One source as a dataset with the column `kind.column`, those of `kind.beside` and, if asked for, `label`.

    `default_split` is read where the source names no split and has several; `sample_by` says what a document of a txt
    file is (line, paragraph or document). Raises ValueError where the source cannot be opened or has no such column.
    """
    how: dict[str, Any] = {"default_split": default_split, "streaming": streaming, "sample_by": sample_by}
    dataset = open_source(source, kind, labelled=label_column is not None, **how)
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
    for name in source.columns or ():
        if all(name != part.column for part in kind.beside):
            also = ", ".join(part.column for part in kind.beside) or "nothing"
            raise ValueError(
                f"data source {source.path!r}: columns = {source.columns!r} names {name!r}, but what is read beside "
                f"the {kind.column} is: {also}."
            )
    try:
        dataset = _open(_Reading(source, kind, default_split, streaming, labelled, sample_by))
    except (ValueError, OSError, KeyError, RuntimeError, ImportError, datasets.exceptions.DatasetsError) as error:
        cause: BaseException = error
        while isinstance(cause, datasets.exceptions.DatasetGenerationError) and cause.__cause__ is not None:
            cause = cause.__cause__  # what went wrong while `datasets` wrote its cache
        detail = f"{type(cause).__name__}: {cause}" if not isinstance(cause, ValueError) else str(cause)
        raise source.refusal(detail) from error
    if dataset.features is None:  # a stream that does not say; it reads a few rows to find out
        dataset = dataset._resolve_features()
    return choose_rows(dataset, source)


def load_sources(sources: Sequence[Source], kind: MediaKind, **how: Any) -> list[AnyDataset]:
    """`load_source` of each."""
    return [load_source(source, kind, **how) for source in sources]


def _open(reading: _Reading) -> AnyDataset:
    path, split, kind = reading.source.path, reading.source.split, reading.kind
    if path.startswith("builtin:"):
        builtin = load_builtin(path.removeprefix("builtin:"), reading.source.name, reading.split)
        return _maybe_stream(builtin, reading.streaming)

    local = Path(path).expanduser()
    if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
        try:
            saved = _one_split(datasets.load_from_disk(str(local)), split, reading.default_split)
        except IndexError as error:  # of `datasets`, for tables without one row
            raise ValueError("It holds no rows.") from error
        return _maybe_stream(_checked(saved, reading), reading.streaming)

    if local.is_dir():
        below = local / split if split and (local / split).is_dir() else local
        there = files_below(below)
        endings = [extension(name) for name in there]
        files = [name for name, ending in zip(there, endings, strict=True) if ending in kind.extensions]
        known = {ending for part in kind.parts for ending in part.extensions}
        others = Counter(ending or "no ending" for ending in endings if ending not in known)
        if not files and not any(ending in LOADED for ending in others):
            raise ValueError(
                f"Nothing in it can be read as {kind.column}, its files end in {listed(others) or 'nothing at all'}: "
                f"convert them to one of {', '.join(_readable(kind))}, or name another folder."
            )
        if not files:
            return _open_dataset(str(local), reading)
        if split and below == local:
            raise ValueError(
                f"It is a folder of files without a sub-folder {split!r}: drop split, or make the folder."
            )
        if others:
            logger.warning("data source %r: %d files are read, others are not: %s", path, len(files), listed(others))
        return _open_files(files, set(endings) & set(kind.extensions), reading, None)
    files = files_named(path)
    if files:
        return _open_files(files, {extension(name) for name in files}, reading, split)
    require_data(path)
    return _open_dataset(path, reading)


def _readable(kind: MediaKind) -> list[str]:
    """Endings of the files and tables that hold this kind."""
    tables = [ending for ending, table in TABLES.items() if table != "text" or kind.is_text]
    return list(dict.fromkeys((*kind.extensions, *tables)))


def _open_dataset(name: str, reading: _Reading) -> AnyDataset:
    """A dataset of the Hub, or a folder in its layout."""
    config, split = reading.source.name, reading.split
    builder = datasets.load_dataset_builder(name, config)
    how: dict[str, Any] = {}
    if isinstance(builder, Csv | Json) and builder.info.features is None:
        files = {str(part): list(map(str, found)) for part, found in builder.config.data_files.items()}
        return _checked(_one_part(files, split, reading), reading)
    if isinstance(builder, Csv):  # typed by the dataset's card; an empty cell alone is missing
        how = {"keep_default_na": False, "na_values": [""]}
    dataset = datasets.load_dataset(name, config, split=split, streaming=reading.streaming, **how)
    return _checked(dataset, reading)


def _one_part(files: Mapping[str, list[str]], split: str, reading: _Reading) -> AnyDataset:
    """Rows of tables for a split, which may be joined and cut: train[:90%]+validation."""
    parts = []
    for part in split.split("+"):
        name = part.partition("[")[0].strip()
        if name not in files:
            raise ValueError(f"It has no split {name!r}: set split to one of {', '.join(files)}.")
        rows = read_tables(files[name], reading.streaming)
        if name != part.strip():
            if reading.streaming:
                raise ValueError(f"A stream cannot be cut: drop {part.removeprefix(name)} from split.")
            (cut,) = datasets.ReadInstruction.from_spec(part.strip()).to_absolute({name: len(rows)})
            rows = rows.select(range(cut.from_ or 0, len(rows) if cut.to is None else cut.to))
        parts.append(rows)
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _checked(dataset: AnyDataset, reading: _Reading) -> AnyDataset:
    """A table of media whose paths were checked and whose arrays became files; a text has neither."""
    source, kind = reading.source, reading.kind
    for part in kind.parts:
        if part.is_text or not (part.feature or part.extensions):  # no file holds it
            continue
        if dataset.features is None:
            dataset = dataset._resolve_features()
        column = _column_of(part, kind, source, dataset.features)
        if column is None or column not in dataset.features:
            continue
        arrays = part.feature and encode_arrays(dataset, column, part.feature.__name__, part.encode)
        dataset = confine(dataset, column, source) if arrays is None else arrays
    return dataset


def _open_files(files: list[str], endings: set[str], reading: _Reading, split: str | None) -> AnyDataset:
    """Media files become a column of paths, tables and texts rows; `split` is that of a table, which has one."""
    kind = reading.kind
    if endings <= set(kind.extensions) and not kind.is_text:
        columns: dict[str, Any] = {kind.column: files} | {
            part.column: _partners(files, kind, part) for part in kind.beside
        }
        if reading.labelled:
            columns[LABEL] = [os.path.basename(os.path.dirname(name)) for name in files]
        return _maybe_stream(datasets.Dataset.from_dict(columns), reading.streaming)
    builders = {TABLES.get(ending) for ending in endings}
    (builder,) = builders if len(builders) == 1 else (None,)
    if builder is None or (builder == "text" and not kind.is_text):
        raise ValueError(
            f"Files ending in {', '.join(sorted(endings))} are not read as {kind.column}: convert them, or name a "
            f"folder or pattern of one format, of {', '.join(_readable(kind))}."
        )
    if builder == "text":
        if split not in (None, "train"):
            raise ValueError(f"Text files have no split {split!r}: drop split, or name other files.")
        return read_text_files(files, reading.sample_by, reading.streaming)
    if builder in ("csv", "json"):
        return _checked(_one_part({"train": files}, split or "train", reading), reading)
    table = datasets.load_dataset(builder, data_files=files, split=split or "train", streaming=reading.streaming)
    return _checked(table, reading)


def _partners(files: list[str], kind: MediaKind, part: MediaKind) -> list[str | None]:
    """For each file the one with the same name that holds `part`."""
    partners = [with_ending(name, part.extensions) for name in files]
    lacking = [name for name, partner in zip(files, partners, strict=True) if partner is None]
    if lacking and not part.optional:
        raise ValueError(
            f"{len(lacking)} of {len(files)} files of {kind.column}, first {lacking[0]!r}, have no "
            f"{part.column} beside them: add a file of the same name that ends in {' or '.join(part.extensions)}."
        )
    return partners


def _keep_columns(dataset: AnyDataset, source: Source, kind: MediaKind, label_column: str | None) -> AnyDataset:
    features = dataset.features
    kept: dict[str, str] = {}
    for part in kind.parts:
        column = _column_of(part, kind, source, features)
        if column is None and part.optional:
            continue
        if column is None or column not in features or column in kept:
            raise _no_column(column, part, kind, source, features)
        kept[column] = part.column
        if part.is_text:
            dataset = _as_text(dataset, column, source)
        if isinstance(features[column], FILES):
            dataset = dataset.cast_column(column, type(features[column])(decode=False))
    # What is wrong with a document of a text file comes with it.
    kept |= {extra: extra for extra in (PROBLEM, WHERE) if extra in features}
    if label_column is not None:
        if label_column not in features and LABEL not in features:
            raise ValueError(
                f"data source {source.path!r} has no column {label_column!r}: set data.probe.label_column to one of "
                f"{', '.join(features)}."
            )
        kept[label_column if label_column in features else LABEL] = LABEL
    dataset = dataset.select_columns(list(kept))
    renamed = {old: new for old, new in kept.items() if old != new}
    return dataset.rename_columns(renamed) if renamed else dataset


def _as_text(dataset: AnyDataset, column: str, source: Source) -> AnyDataset:
    feature = dataset.features[column]
    dtype = getattr(feature, "dtype", None)
    if isinstance(feature, datasets.Json) or dtype in ("string", "large_string", "null"):
        return dataset
    if isinstance(feature, datasets.Value) and "int" in feature.dtype:  # digits are text, too
        return dataset.cast_column(column, datasets.Value("string"))
    raise ValueError(
        f"data source {source.path!r}: the column {column!r} holds {str(feature):.60}, not text: set column to one of "
        f"{_described(dataset.features)}, or write its values as strings."
    )


def _column_of(part: MediaKind, kind: MediaKind, source: Source, features: datasets.Features) -> str | None:
    """Where a dataset holds `kind`, or a part of it: as the source says, or as it is found."""
    named = source.column if part is kind else (source.columns or {}).get(part.column)
    return named or _find_column(features, part)


def _no_column(
    column: str | None, part: MediaKind, kind: MediaKind, source: Source, features: datasets.Features
) -> ValueError:
    problem = f"no column, or no single one, that is clearly the {part.column}"
    if column is not None:
        problem = f"no column {column!r}" if column not in features else f"only one column, {column!r}, for two things"
    where = "column" if part is kind else f"columns: {{{part.column}: ...}}"
    also = "" if part is kind else f" (it is read beside the {kind.column})"
    return ValueError(
        f"data source {source.path!r} has {problem}{also}: set {where} to one of its columns, {_described(features)}."
    )


def _described(features: datasets.Features) -> str:
    """The columns, and which of them hold media."""
    kinds = {datasets.Audio: " (audio)", datasets.Image: " (images)", datasets.Video: " (video)"}
    shown = {name: feature for name, feature in features.items() if name not in (PROBLEM, WHERE)}
    return ", ".join(f"{name}{kinds.get(type(feature), '')}" for name, feature in shown.items())


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
