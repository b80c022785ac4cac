"""Is every number of a text in the run folder? As it is there, rounded, or in other units."""

import re
from collections.abc import Iterable, Iterator
from typing import Any


NUMBER = re.compile(r"(?<![\w.,])[-+]?\d[\d,]*(?:\.\d+)*(?:[eE][-+]?\d+)?")
# What holds digits that measure nothing: code, addresses, pictures and links' targets, names with digits in them.
NO_MEASURE = re.compile(
    r"```.*?```|`[^`\n]*`|https?://\S+|\]\([^)]*\)|\bdata2vec (?:1|2\.0)\b|\barXiv[: ]\S+", re.DOTALL
)
SCALES = (
    1.0,
    100.0,
    1e-3,
    1e-6,
    1 / 60,
    1 / 3600,
)  # shares as percent, thousands, millions, seconds as minutes, hours


class Grounds:
    """The numbers of a run folder.

    Args:
        values: what its files hold, as JSON values; numbers in strings count as they are written.
    """

    def __init__(self, *values: Any):
        self.written: set[str] = set()
        self.numbers: set[float] = set()
        for leaf in (leaf for value in values for leaf in _leaves(value)):
            if isinstance(leaf, str):
                self.written |= {_plain(found) for found in NUMBER.findall(leaf)}
            else:
                self.numbers.add(abs(float(leaf)))
        self.numbers |= {float(word) for word in self.written if _is_float(word)}

    def missing(self, text: str, *, exact: bool = False) -> list[str]:
        """The numbers of a Markdown text that the folder does not hold.

        Args:
            exact: of a person's words, where no other unit than percent is tried and a whole number is no rounding.
        """
        found = NUMBER.findall(NO_MEASURE.sub(" ", text))
        return [word for word in dict.fromkeys(map(_plain, found)) if not self._holds(word, exact)]

    def _holds(self, word: str, exact: bool) -> bool:
        if word in self.written:
            return True
        if not _is_float(word):  # a version, a date
            return False
        mantissa, _, exponent = word.lower().partition("e")
        step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))  # of its last digit
        value, room = float(word), 0.5001 * step
        if exact and step >= 1:
            room = 1e-9
        scales = (1.0, 100.0) if exact else SCALES
        return any(abs(scale * number - value) <= room for number in self.numbers for scale in scales)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        yield from _each(value)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield value


def _each(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from _leaves(value)


def _plain(word: str) -> str:
    return word.replace(",", "").lstrip("+-")


def _is_float(word: str) -> bool:
    return word.count(".") <= 1
