"""Tables of text (csv, tsv, json, jsonl) -> rows whose strings are those of the file, letter for letter.

The readers of `datasets` guess: a csv cell `null`, `NA` or `None` becomes missing, `007` a number, `true` a truth
value, and JSON strings that look like dates become timestamps. Here a csv cell is a string, and a JSON value has the
type that it is written with.
"""

import csv
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from lzma import LZMAError
from typing import Any

import datasets
import fsspec
import pyarrow as pa

from .bad_examples import BadExample
from .folders import extension


# tsv as in Common Voice and GLUE: a quotation mark is a letter like any other
DIALECTS: dict[str, dict[str, Any]] = {
    ".csv": {"strict": True},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
JSON = (".json", ".jsonl", ".ndjson")
LARGEST_CELL = 64 << 20  # characters; a quotation mark that is never closed would take the rest of the file
CHUNK = 1000  # rows whose types are found together; a stream looks at no more
STRING = datasets.Value("string")


def read_tables(files: Sequence[str], streaming: bool) -> Any:
    """A dataset, or a stream, of the rows of all files, which are read again when they change.

    Raises:
        BadExample: a file is not such a table; the message names the file and the line.
    """
    features = _features(files, CHUNK if streaming else None)
    how: dict[str, Any] = {"files": list(files), "features": features}
    if streaming:
        return datasets.IterableDataset.from_generator(rows_of_tables, features=features, gen_kwargs=how)
    return datasets.Dataset.from_generator(
        rows_of_tables, features=features, gen_kwargs=how | {"stamps": repr([stamp(name) for name in files])}
    )


def rows_of_tables(files: list[str], features: datasets.Features, stamps: str = "") -> Iterator[dict[str, Any]]:
    """The rows of all files; `stamps` only tells `datasets`' cache one state of the files from another."""
    for name in files:
        for row in _rows(name):
            if _is_csv(name) and row.keys() != features.keys():
                raise BadExample(f"{name!r} has the columns {', '.join(row)}, the first file {', '.join(features)}.")
            yield {column: _converted(row.get(column), feature) for column, feature in features.items()}


def stamp(name: str) -> tuple[int, ...]:
    """Size and times of a file, by which a changed one is known, whatever time of writing it was given."""
    try:
        stat = os.stat(name)
    except OSError:
        return ()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_csv(name: str) -> bool:
    return _dialect(name) is not None


def _dialect(name: str) -> dict[str, Any] | None:
    """How its cells are separated and quoted; None: it is JSON. Raises BadExample for an archive."""
    ending = extension(os.path.basename(name))
    if ending not in (*DIALECTS, *JSON):
        raise BadExample(f"{name!r} ends in none of {', '.join((*DIALECTS, *JSON))}: unpack or rename it.")
    return DIALECTS.get(ending)


def _converted(value: Any, feature: Any) -> Any:
    if isinstance(feature, datasets.Json) or value is None:
        return value
    if feature == STRING:
        if isinstance(value, list | dict):
            raise BadExample(f"{value!r:.60} stands among strings: make it one, or remove its row.")
        return value if isinstance(value, str) else json.dumps(value)
    return value


# ---- rows ----


def _rows(name: str) -> Iterator[dict[str, Any]]:
    dialect = _dialect(name)
    try:
        with fsspec.open(name, "rb", compression="infer") as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="" if dialect is not None else None)
            yield from _json_rows(text, name) if dialect is None else _csv_rows(text, name, dialect)
    except UnicodeDecodeError as error:
        raise BadExample(f"{name!r} is not UTF-8 ({error.reason}): convert it.") from error
    except (EOFError, zlib.error, LZMAError) as error:
        raise BadExample(f"{name!r} ends early or is damaged ({error}): fetch it again.") from error


def _csv_rows(text: io.TextIOWrapper, name: str, dialect: dict[str, Any]) -> Iterator[dict[str, str]]:
    csv.field_size_limit(LARGEST_CELL)
    lines = csv.reader(text, **dialect)
    try:
        header = next((cells for cells in lines if cells), None)
        if header is None:
            raise BadExample(f"{name!r} is empty: it needs a first line with the names of its columns.")
        header = [column or f"Unnamed: {i}" for i, column in enumerate(header)]  # as pandas calls its index
        if len(set(header)) < len(header):
            raise BadExample(f"{name!r} has two columns of one name, {', '.join(header)}: rename one.")
        for cells in lines:
            if cells and len(cells) != len(header):
                raise BadExample(
                    f"{name!r}, line {lines.line_num}: the row has {len(cells)} cells, the header {len(header)}. "
                    "Put cells that hold the separator in quotation marks."
                )
            if cells:
                yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadExample(f"{name!r}, line {lines.line_num}: {error}. Is a quotation mark not closed?") from error


def _json_rows(text: io.TextIOWrapper, name: str) -> Iterator[dict[str, Any]]:
    numbered = ((number, line) for number, line in enumerate(text, 1) if not line.isspace())
    for number, line in numbered:
        try:
            found = json.loads(line + text.read() if number == 1 and line.lstrip().startswith("[") else line)
            if "\\ud" in line.lower():  # half a surrogate pair is no text
                json.dumps(found, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise BadExample(
                f"{name!r}, line {number} is not JSON ({error}): write one object per line, or an array of objects."
            ) from error
        for row in found if isinstance(found, list) else [found]:
            if not isinstance(row, dict):
                raise BadExample(f"{name!r}, line {number}: {row!r:.60} is not an object, {{column: value, ...}}.")
            yield row


# ---- types ----


def _features(files: Sequence[str], limit: int | None) -> datasets.Features:
    rows = (row for name in files for row in _rows(name))
    if _is_csv(files[0]):
        first = next(rows, None)
        if first is None:
            raise BadExample(f"{files[0]!r} has no rows.")
        return datasets.Features(dict.fromkeys(first, STRING))
    found: dict[str, Any] = {}
    looked_at = islice(rows, limit)
    while chunk := list(islice(looked_at, CHUNK)):
        for column in {column: None for row in chunk for column in row}:
            values = [row[column] for row in chunk if row.get(column) is not None]
            found[column] = _joined(found.get(column, pa.null()), _type_of_values(values))
    if not found:
        raise BadExample(f"{files[0]!r} has no rows.")
    return datasets.Features({column: _feature(kind) for column, kind in found.items()})


def _type_of_values(values: Sequence[Any]) -> pa.DataType | None:
    """The Arrow type of JSON values; None where lists or objects stand among others, which no type holds."""
    kinds = {type(value) for value in values}
    if kinds and not kinds & {list, dict} and (kinds > {str} or kinds > {bool}):
        return pa.string()
    try:
        return pa.array(values).type
    except OverflowError:
        return pa.string()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _joined(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
    """The type that holds the values of both, None where there is none."""
    if one is None or other is None or one == other:
        return None if one is None else other
    nested = [pa.types.is_nested(kind) for kind in (one, other) if kind != pa.null()]
    numbers = {one, other} <= {pa.int64(), pa.float64()}
    if len(nested) == 2 and not any(nested) and not numbers:
        return pa.string()
    try:
        schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _feature(kind: pa.DataType | None) -> Any:
    if kind is None:
        return datasets.Json()
    return STRING if kind == pa.null() else datasets.Features.from_arrow_schema(pa.schema([("x", kind)]))["x"]
