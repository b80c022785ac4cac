"""What the values of a label column mean: the one rule of every task, probe and report.

None, "", NaN, and -1 in a ClassLabel column    no label
text                                            the class of that name
3, 3.0 and "3"                                  the class "3": whole numbers go by their digits, but where numbers can
                                                be predicted (text, probes), a column of floats holds numbers
-1 in any other column                          the class "-1" if train has it, otherwise no label
0.5, inf, a list                                not a class
text, nine in ten of the values numbers, some   no classes, but numbers, as in a csv file; a value that is none, such
with decimals                                   as "n/a", is a bad label
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import datasets
import numpy as np

from .bad_examples import BadExample
from .sources import LABEL


NO_LABEL, UNKNOWN_LABEL = "no label", "unknown label"  # problems of a `BadExample`
SHOWN = 10  # classes named in a message
NUMBERS_SHARE = 0.9  # of the different values of a text column, from which on it holds numbers
Found = TypeVar("Found")


@dataclass(frozen=True)
class Labels:
    """The labels of all splits.

    Attributes:
        names: the classes by number; none: the labels are numbers to be predicted.
        numbers: split -> `(rows,)` int64 classes or float64 numbers; `(rows, classes)` fp32, 0 or 1, where a row may
            have several. The values of unusable rows mean nothing.
        bad: split -> row -> what is wrong with its label.
    """

    names: tuple[str, ...]
    numbers: dict[str, np.ndarray]
    bad: dict[str, dict[int, BadExample]]

    def none_in(self, split: str) -> bool:
        """Whether no row of a split has a label."""
        bad = self.bad[split].values()
        return len(bad) == len(self.numbers[split]) and all(error.problem == NO_LABEL for error in bad)

    def without(self, split: str) -> "Labels":
        rest = [name for name in self.numbers if name != split]
        return replace(
            self, numbers={name: self.numbers[name] for name in rest}, bad={name: self.bad[name] for name in rest}
        )

    def refuse_bad(self, where: str) -> None:
        """Raise for the first row without a usable label."""
        for split, bad in self.bad.items():
            for row, error in sorted(bad.items()):
                raise ValueError(f"{where}, {split}, row {row}: {error}")


def class_name(value: Any, feature: Any = None) -> str | None:
    """The class that a value names, `None` where it says that there is none; `feature` is its column's.

    Raises:
        BadExample: the value is not a class.
    """
    if isinstance(feature, datasets.ClassLabel) and isinstance(value, int):
        return None if value == -1 else feature.names[value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, str | int):
        return str(value) if str(value).strip() else None
    raise BadExample(f"its label {value!r} is not a class: correct it, or name another label_column.", UNKNOWN_LABEL)


def number_labels(splits: Mapping[str, datasets.Dataset], names: Sequence[str] | None = None) -> Labels:
    """One class per row.

    Args:
        splits: each with the column `label`; the first one is trained on.
        names: the classes in order. By default those of the first split: of its ClassLabel column, else what occurs,
            sorted. Given names, unless they are numbers themselves, may also go by their number, from 0.

    Raises:
        ValueError: fewer than two classes, or numbers with decimals.
    """
    first = next(iter(splits.values()))
    if names is None and "string" in _dtype(first) and holds_decimals(first):
        raise ValueError(
            "data.train: the labels are numbers with decimals, not classes: set data.train.label_column to the column "
            "of the classes."
        )
    found, bad = _read(splits, class_name)
    classes = _class_names(splits, found) if names is None else tuple(names)
    if len(classes) < 2:
        raise ValueError(
            f"data.train holds {len(classes)} class{'es' * (len(classes) != 1)}, "
            f"{', '.join(classes) or 'no labels at all'}: set data.train.label_column to the column of the labels, or "
            "use a source with two classes or more."
        )
    number = {name: i for i, name in enumerate(classes)}
    if names is not None and not any(re.fullmatch(r"-?\d+", name) for name in classes):
        number |= {str(i): i for i in range(len(classes))}
    numbers = {split: np.full(len(column), -1, dtype=np.int64) for split, column in found.items()}
    for split, column in found.items():
        for row, name in enumerate(column):
            if name in number:
                numbers[split][row] = number[name]
            elif row not in bad[split]:
                bad[split][row] = _unknown(name, classes)
    return Labels(classes, numbers, bad)


def encode_label_lists(splits: Mapping[str, datasets.Dataset], separator: str | None = None) -> Labels:
    """Any number of classes per row, none included, from a column of lists or of text with a separator.

    The classes are those of [`number_labels`].

    Raises:
        ValueError: a column that holds neither; the message names its split.
    """

    def names_of(value: Any, feature: Any) -> list[str] | None:
        if value is None:
            return None
        parts = [part.strip() for part in value.split(separator)] if isinstance(value, str) else value
        return [name for part in parts if (name := class_name(part, _item(feature))) is not None]

    for split, rows in splits.items():
        feature = rows.features[LABEL]
        holds = getattr(feature, "dtype", feature)
        if not is_list(feature) and (separator is None or holds not in ("string", "large_string")):
            raise ValueError(
                f"data.{split}: task.multi_label = true needs a list of labels in every row, the label column holds "
                f"{holds}: name another label_column, set data.label_separator if it is text, or task.multi_label = "
                "false."
            )
    found, bad = _read(splits, names_of)
    classes = _class_names(
        splits, {split: [name for row in column for name in row or ()] for split, column in found.items()}
    )
    number = {name: i for i, name in enumerate(classes)}
    targets = {split: np.zeros((len(column), len(classes)), dtype=np.float32) for split, column in found.items()}
    for split, column in found.items():
        for row, named in enumerate(column):
            unknown = [name for name in named or () if name not in number]
            if named is not None and not unknown:
                targets[split][row, [number[name] for name in named]] = 1.0
            elif row not in bad[split]:
                nothing = BadExample("it has no labels: give it a list, empty if none applies.", NO_LABEL)
                bad[split][row] = _unknown(unknown[0], classes) if unknown else nothing
    return Labels(classes, targets, bad)


def read_numbers(splits: Mapping[str, datasets.Dataset]) -> Labels:
    """A number to be predicted per row; -1 throughout a split that is not the first says that it has no labels."""

    def number(value: Any, feature: Any) -> float | None:
        try:
            read = float("nan" if value in (None, "") else value)
        except (TypeError, ValueError):
            read = math.inf
        if math.isinf(read):
            raise BadExample(f"its label {value!r} is not a number: correct it, or remove the row.", UNKNOWN_LABEL)
        return None if math.isnan(read) else read

    found, bad = _read(splits, number)
    first = next(iter(splits))
    for split, column in found.items():
        if split != first and set(column) == {-1.0}:
            column[:] = [None] * len(column)
        bad[split] = {row: _unknown(None, ()) for row, read in enumerate(column) if read is None} | bad[split]
    numbers = {split: np.array([read or 0.0 for read in column], dtype=np.float64) for split, column in found.items()}
    return Labels((), numbers, bad)


def holds_decimals(rows: datasets.Dataset) -> bool:
    """Whether the labels are floats or, as in a csv file, text: nine in ten values numbers, decimals among them."""
    if "string" not in _dtype(rows):
        return _dtype(rows).startswith("float")
    given = {value.strip() for value in rows.unique(LABEL) if value and value.strip()}
    numbers = list(filter(re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?").fullmatch, given))
    return len(numbers) >= NUMBERS_SHARE * len(given) and any(not value.lstrip("+-").isdigit() for value in numbers)


def _dtype(rows: datasets.Dataset) -> str:
    return str(getattr(rows.features[LABEL], "dtype", ""))


def is_list(feature: Any) -> bool:
    """Whether a column holds lists."""
    return isinstance(feature, datasets.List | datasets.LargeList)


def _item(feature: Any) -> Any:
    return feature.feature if is_list(feature) else feature


def _read(
    splits: Mapping[str, datasets.Dataset], read: Callable[[Any, Any], Found | None]
) -> tuple[dict[str, list[Found | None]], dict[str, dict[int, BadExample]]]:
    """What every row of every split has, and the rows that `read` refuses."""
    found: dict[str, list[Found | None]] = {}
    bad: dict[str, dict[int, BadExample]] = {}
    for split, rows in splits.items():
        column: list[Found | None] = []
        feature, bad[split] = rows.features[LABEL], {}
        for row, value in enumerate(rows.with_format(None)[LABEL][:]):
            try:
                column.append(read(value, feature))
            except BadExample as error:
                bad[split][row] = error
                column.append(None)
        found[split] = column
    return found, bad


def _class_names(splits: Mapping[str, datasets.Dataset], found: Mapping[str, Iterable[str | None]]) -> tuple[str, ...]:
    """Of the first split: those of its ClassLabel column, else what occurs, numbers by size and text by spelling."""
    first = next(iter(splits))
    feature = _item(splits[first].features[LABEL])
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    names = {name for name in found[first] if name is not None}
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _unknown(name: str | None, classes: Sequence[str]) -> BadExample:
    """Of a row that names no class of train."""
    if name in (None, "-1"):
        return BadExample("it has no label: add one, or remove the row.", NO_LABEL)
    known = ", ".join(classes[:SHOWN]) + ", …" * (len(classes) > SHOWN)
    return BadExample(f"its label {name!r} is not one of {known}: correct it, or remove the row.", UNKNOWN_LABEL)
