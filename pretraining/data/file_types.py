"""What a file is by its first bytes, for the message about one that is not what its name says."""

import errno
import os
import stat
from collections.abc import Mapping
from typing import Any

from .bad_examples import BadExample


HEAD = 512  # bytes that are looked at
NOT_SAID = 0x7FFFF000  # what writes into a pipe does not know the length: 0xFFFFFFFF, or a little below 2^31

# (first bytes, what that is), more particular ones first
SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, whose content was not fetched"),
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"fLaC", "FLAC audio"),
    (b"OggS", "Ogg audio"),
    (b"ID3", "MP3 audio"),
    (b"\x7fELF", "a program"),
    (b"PAR1", "a Parquet table"),
)
MARKUP = ((b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<?xml", "XML"), (b"<svg", "an SVG"))
AUDIO_TYPES = {"FLAC audio", "Ogg audio", "MP3 audio", "WAV audio"}
IMAGE_TYPES = {"a JPEG image", "a PNG image", "a GIF image", "a WebP image"}


def kind_of(head: bytes) -> str | None:
    """What a file with these first bytes is, in words; None where that is not known."""
    for signature, kind in SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] in (b"RIFF", b"RIFX") and len(head) >= 12:
        return {b"WAVE": "WAV audio", b"WEBP": "a WebP image"}.get(head[8:12])
    start = head.lstrip().lower()
    for signature, kind in MARKUP:
        if start.startswith(signature):
            return kind
    return "text" if len(head) > 3 and _is_text(head) else None


def unopened(value: Any, name: str, wanted: str, own: set[str], error: Exception) -> BadExample:
    """The `BadExample` for a file that no decoder of `wanted` ("audio") opens; `own` are the types that it may be."""
    try:
        size, head = _head(value)
    except OSError as problem:
        fix = "rename it, its name is not UTF-8" if "\\x" in name else "correct the path or its rights"
        return BadExample(f"{name} cannot be opened ({problem.strerror}): {fix}.", "missing")
    except TypeError:
        return BadExample(f"{name} is no file, but {value!r:.60}: correct the source.", "unreadable")
    if size == 0:
        return BadExample(f"{name} has no bytes: fetch it again or remove it.", "empty")
    if empty_picture(head):
        return BadExample(f"{name} has no pixels: remove it.", "empty")
    if missing_bytes(value):
        return BadExample(
            f"{name} has {missing_bytes(value)} bytes fewer than its header says: repair it.", "truncated"
        )
    kind = kind_of(head)
    if kind is not None and kind not in own:
        return BadExample(f"{name} is {kind}, not {wanted}: fetch it again or remove it.", "wrong type")
    # libsndfile's own text, without the file's name once more
    reason = getattr(error, "error_string", error)
    return BadExample(f"{name} cannot be read as {wanted} ({reason}): repair or remove it.", "unreadable")


def content_of(value: Any) -> Any:
    """The bytes or the path of a row's value, which may be {"bytes", "path"}.

    Raises:
        OSError: the path leads to no file, or to something that never ends, such as a pipe.
    """
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str) and not stat.S_ISREG(os.stat(value).st_mode):
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, not a file", value)
    return value


def size_of(value: Any) -> int:
    """Bytes of a row's file."""
    content = content_of(value)
    return len(content) if isinstance(content, bytes) else os.path.getsize(content)


def missing_bytes(value: Any) -> int:
    """How many bytes a RIFF (wav, webp) or AIFF file is shorter than its header says; 0 for any other."""
    size, head = _head(value)
    order = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}.get(head[:4])
    if order is None or len(head) < 8:
        return 0
    said = int.from_bytes(head[4:8], "little" if order == "little" else "big")
    return max(said + 8 - size, 0) if said < NOT_SAID else 0


def empty_picture(head: bytes) -> bool:
    """Whether a PNG or GIF says that it is 0 pixels wide or high."""
    if head.startswith(b"\x89PNG") and len(head) >= 24:
        return not (any(head[16:20]) and any(head[20:24]))
    return head.startswith(b"GIF8") and len(head) >= 10 and not (any(head[6:8]) and any(head[8:10]))


def _head(value: Any) -> tuple[int, bytes]:
    content = content_of(value)
    if isinstance(content, bytes):
        return len(content), content[:HEAD]
    if not isinstance(content, str):
        raise TypeError
    with open(content, "rb") as file:
        return os.fstat(file.fileno()).st_size, file.read(HEAD)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a character that the end of the head cut
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
