"""Text files -> documents, read as bytes so that nothing is replaced in silence.

The rule: text is UTF-8 without NUL bytes. A document that is not, or that is larger than `LARGEST`, is left out whole
and named with its line and byte; a file that is no text at all is left out as one. A byte order mark is dropped, and
all kinds of line ends become one, as Python reads text.
"""

import io
import zlib
from collections.abc import Iterator, Sequence
from lzma import LZMAError
from typing import Any

import datasets
import fsspec

from .bad_examples import BadExample
from .file_types import HEAD, content_of, kind_of
from .tables import stamp


LARGEST = 16 << 20  # bytes of a document: a tokeniser needs many times its size at once
PROBLEM, WHERE = "_problem", "_where"  # columns beside `text`, which is None where they are set
FEATURES = datasets.Features({name: datasets.Value("string") for name in ("text", PROBLEM, WHERE)})
BUFFER = 1 << 20
BOM = b"\xef\xbb\xbf"


def read_text_files(files: Sequence[str], sample_by: str, streaming: bool) -> Any:
    """A dataset, or a stream, of the columns `text`, `_problem` and `_where`; changed files are read again.

    `sample_by`: a document is a "line", a "paragraph" (between empty lines) or the whole "document".
    """
    if streaming:
        how = {"files": list(files), "sample_by": sample_by}
        return datasets.IterableDataset.from_generator(rows_of_files, features=FEATURES, gen_kwargs=how)
    how = {"files": list(files), "sample_by": sample_by, "stamps": repr([stamp(name) for name in files])}
    return datasets.Dataset.from_generator(rows_of_files, features=FEATURES, gen_kwargs=how)


def rows_of_files(files: list[str], sample_by: str, stamps: str = "") -> Iterator[dict[str, str | None]]:
    """The rows of all files; `stamps` only tells `datasets`' cache one state of the files from another."""
    for name in files:
        try:
            content_of(name)
            with fsspec.open(name, "rb", compression="infer") as file:
                yield from _rows(io.BufferedReader(file, BUFFER), name, sample_by)
        except (EOFError, zlib.error, LZMAError) as error:
            yield _bad("truncated", f"{name!r} ends early or is damaged ({error}): fetch it again")
        except OSError as error:
            kind = "missing" if isinstance(error, FileNotFoundError | PermissionError) else "damaged"
            yield _bad(kind, f"{name!r} cannot be read ({error.strerror or error}): repair or remove it")


def problem_of(text: Any) -> tuple[str, str] | None:
    """(problem, what to do) of a text that a table holds, or None."""
    if not isinstance(text, str):
        return "wrong type", f"{text!r:.60} is no text: make it a string or remove it"
    if "\0" in text:
        return "binary", f"there is a NUL byte at character {text.index(chr(0))}: it is no text, or UTF-16"
    if len(text) > LARGEST // 4 and len(text.encode("utf-8", "replace")) > LARGEST:
        return "too large", f"it has more than {LARGEST} bytes: cut it into documents"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return "encoding", f"half a surrogate pair at character {error.start}: it was decoded wrongly"
    return None


def _rows(file: io.BufferedReader, name: str, sample_by: str) -> Iterator[dict[str, str | None]]:
    head = file.read(HEAD)
    kind = kind_of(head)
    if not head:
        yield _bad("empty", f"{name!r} has no bytes: fetch it again or remove it")
    elif kind not in (None, "text", "an HTML page", "XML", "an SVG"):
        yield _bad("wrong type", f"{name!r} is {kind}, not text: remove it")
    else:
        file.seek(0)
        read = False
        for line, offset, document in _documents(file, sample_by):
            read = True
            where = f"{name!r}, line {line}, byte {offset}"
            if isinstance(document, BadExample):
                yield _bad(document.problem, f"{where}: {document}")
                continue
            try:
                text = document.decode("utf-8")
            except UnicodeDecodeError as error:
                at = offset + error.start
                reason = f"invalid UTF-8 at byte {at} of the file (0x{document[error.start]:02x}, {error.reason})"
                yield _bad("encoding", f"{where}: {reason}: convert the file")
                continue
            found = problem_of(text) if "\0" in text else None
            if found is not None:
                yield _bad(found[0], f"{where}: {found[1]}")
            else:
                yield {"text": text.replace("\r\n", "\n").replace("\r", "\n"), PROBLEM: None, WHERE: None}
        if not read:
            yield _bad("empty", f"{name!r} holds empty lines alone: remove it")


def _documents(file: io.BufferedReader, sample_by: str) -> Iterator[tuple[int, int, bytes | BadExample]]:
    """(first line, first byte, content) of every document; lines may end in any of \\n, \\r\\n and \\r."""
    lines: list[bytes] = []
    first, start, size, was_blank = 1, 0, 0, False
    for number, offset, line in _lines(file):
        blank = not line.strip(b"\r\n")
        if blank and sample_by == "line":
            if not was_blank:  # those that follow each other are one empty document
                yield number, offset, b""
        elif blank and sample_by == "paragraph":
            if lines:
                yield first, start, _joined(lines, size, sample_by)
            lines = []
        else:
            if not lines:
                first, start, size = number, offset, 0
            size += len(line)
            if size <= LARGEST or not lines:
                lines.append(line)
            if sample_by == "line":
                yield first, start, _joined(lines, size, sample_by)
                lines = []
        was_blank = blank
    if lines:
        yield first, start, _joined(lines, size, sample_by)


def _joined(lines: list[bytes], size: int, sample_by: str) -> bytes | BadExample:
    if size > LARGEST:
        fix = "cut it into lines, or read it with sample_by: line or paragraph"
        return BadExample(f"a document of more than {LARGEST} bytes: {fix}", "too large")
    document = b"".join(lines)
    return document if sample_by == "document" else document.removesuffix(b"\n").removesuffix(b"\r")


def _lines(file: io.BufferedReader) -> Iterator[tuple[int, int, bytes]]:
    """(number, first byte, line with its end); empty lines behind each other come as one."""
    number, offset = 0, 0
    for line, size, count in _raw_lines(file):
        start, offset = offset, offset + size
        if start == 0 and line.startswith(BOM):
            line, start = line[len(BOM) :], len(BOM)
        if count > 1 or b"\r" not in line[:-2]:
            yield number + 1, start, line
            number += count
            continue
        for part in line.splitlines(keepends=True):  # old line ends; bytes split at \n, \r\n and \r alone
            number += 1
            yield number, start, part
            start += len(part)


def _raw_lines(file: io.BufferedReader) -> Iterator[tuple[bytes, int, int]]:
    """(content, its size, lines in it) up to a \\n; of more than `LARGEST` bytes a part, long enough to be refused."""
    line = file.readline(LARGEST + 1)
    while line:
        size, count = len(line), 1
        if not line.strip(b"\r\n"):
            while (head := file.peek()) and (empty := len(head) - len(head.lstrip(b"\r\n"))):  # there may be millions
                more = file.read(empty)
                size, count = size + empty, count + more.count(b"\n")
                line += more if len(line) <= LARGEST else b""
        while len(line) > LARGEST and not line.endswith(b"\n") and (more := file.readline(LARGEST)):
            size += len(more)
            if more.endswith(b"\n"):
                break
        yield line, size, count
        line = file.readline(LARGEST + 1)


def _bad(problem: str, where: str) -> dict[str, str | None]:
    return {"text": None, PROBLEM: problem, WHERE: where}
