"""Does what a person says of a model name a number that its run did not record?"""

import re
from collections.abc import Iterator
from typing import Any


NUMBER = re.compile(r"(?<![\w.,])[-+]?\d[\d,]*(?:\.\d+)*(?:[eE][-+]?\d+)?")
# What holds digits that measure nothing: code, addresses, pictures and links' targets, names with digits in them.
NO_MEASURE = re.compile(
    r"```.*?```|`[^`\n]*`|https?://\S+|\]\([^)]*\)|\bdata2vec (?:1|2\.0)\b|\barXiv[: ]\S+", re.DOTALL
)


def unrecorded(text: str, *recorded: Any) -> list[str]:
    """The numbers of a Markdown text that JSON values do not hold: as they are, rounded, or a share as percent.

    Numbers in strings count as they are written; a whole number is no rounding.
    """
    written: set[str] = set()
    numbers: set[float] = set()
    for leaf in _leaves(recorded):
        if isinstance(leaf, str):
            written |= set(_numbers(leaf))
        else:
            numbers.add(abs(float(leaf)))
    numbers |= {float(word) for word in written if word.count(".") <= 1}
    named = _numbers(NO_MEASURE.sub(" ", text))
    return [word for word in named if word not in written and not _rounds(word, numbers)]


def _rounds(word: str, numbers: set[float]) -> bool:
    if word.count(".") > 1:  # a version, a date
        return False
    mantissa, _, exponent = word.lower().partition("e")
    step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))  # of its last digit
    room = 0.5001 * step if step < 1 else 1e-9
    return any(abs(scale * number - float(word)) <= room for number in numbers for scale in (1, 100))


def _numbers(text: str) -> list[str]:
    return list(dict.fromkeys(word.replace(",", "").lstrip("+-") for word in NUMBER.findall(text)))


def _leaves(value: Any) -> Iterator[str | int | float]:
    if isinstance(value, dict):
        yield from map(str, value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield value
