"""The files below a folder that the user named."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..console.progress import progress


COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}


def files_below(folder: Path) -> list[str]:
    """All files, through links too, in one order on every machine; hidden ones are left out.

    A name that is no UTF-8 cannot stand in a dataset: it is written with \\x.., and the file counted as missing.
    """
    found = progress(_walk(folder, set()), title=f"looking through {folder}", unit=" files")
    return sorted(os.fsencode(name).decode("utf-8", "backslashreplace") for name in found)


def _walk(folder: Path, seen: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a link to a folder above
        return
    seen.add(real)
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_folder:
            yield from _walk(Path(entry.path), seen)
        elif is_file or entry.is_symlink():  # one that leads nowhere is reported when it is read
            yield entry.path


def listed(endings: Counter[str]) -> str:
    """The most frequent endings and their numbers."""
    return ", ".join(f"{ending} ({count})" for ending, count in endings.most_common(5))


def with_ending(name: str, endings: Iterable[str]) -> str | None:
    """The file that is called as `name` is but for its ending, one of `endings` in lower or upper case, if any."""
    stem = os.path.splitext(name)[0]
    others = (stem + written for ending in endings for written in (ending, ending.upper()))
    return next(filter(os.path.isfile, others), None)


def extension(name: str) -> str:
    """Lower case, without that of a compression."""
    stem, ending = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if ending in COMPRESSED else ending
