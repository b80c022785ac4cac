"""Classes of labelled rows: their names and numbers, which rows are held out, and which few are trained on."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from ..pretraining.data.sources import LABEL, MediaKind, load_source
from .data_arguments import FineTuneDataArguments
from .examples import Examples, Read
from .task import VALIDATION


logger = logging.getLogger(__name__)

SPLITS = ("train", VALIDATION, "test")


def open_splits(args: FineTuneDataArguments, kind: MediaKind, **options: Any) -> dict[str, datasets.Dataset]:
    """The splits that a recipe names, each with the columns `kind.column` and `label`, nothing decoded."""
    sources = {name: getattr(args, name) for name in SPLITS}
    return {
        name: load_source(source, kind, default_split=name, label_column=source.label_column, **options)
        for name, source in sources.items()
        if source is not None
    }


@dataclass(frozen=True)
class Labels:
    """The classes of all splits.

    Attributes:
        names: of the classes, by number.
        numbers: split -> the class of every row, `(rows,)` int64; -1 where the row has none and is to be left out.
    """

    names: tuple[str, ...]
    numbers: dict[str, np.ndarray]


def number_labels(splits: Mapping[str, datasets.Dataset], skip_bad: bool = False) -> Labels:
    """One class per row: those of a ClassLabel column, else the values that occur in train, sorted.

    Raises:
        ValueError: a row has no label, or one that train does not have; the message names split and row. With
            `skip_bad` such rows are left out, counted and logged.
    """
    feature = splits["train"].features[LABEL]
    columns = {split: rows.with_format(None)[LABEL][:] for split, rows in splits.items()}
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        number: dict[Any, int] = {i: i for i in range(len(names))}
    else:
        values = sorted({value for value in columns["train"] if not _missing(value)}, key=_order)
        names = tuple(map(str, values))
        number = {value: i for i, value in enumerate(values)}
    if len(names) < 2:
        raise ValueError(
            f"data.train holds {len(names)} class{'es' * (len(names) != 1)}, {', '.join(names) or 'no labels at all'}"
            ": set data.train.label_column to the column of the labels, or use a source with two classes or more."
        )
    numbers = {split: _numbered(split, column, number, names, skip_bad) for split, column in columns.items()}
    return Labels(names, numbers)


def labelled_examples(
    args: FineTuneDataArguments,
    splits: Mapping[str, datasets.Dataset],
    labels: Labels,
    read: Read,
    *,
    seed: int,
    lengths: Mapping[str, np.ndarray] | None = None,
) -> tuple[Examples, dict[str, Examples]]:
    """The examples of train and of each evaluation split: `read`'s inputs and `labels`, a class number.

    `data.validation_share` is held out of train first, of every class alike, and `data.labels_per_class` drawn from
    the rest; both follow from `seed`. Unusable rows are neither.
    """

    def make(split: str) -> Examples:
        numbers = labels.numbers[split]
        return Examples(
            splits[split],
            read,
            labels=numbers,
            name=split,
            seed=seed,
            augment=split == "train",
            skip_bad=args.skip_bad,
            lengths=None if lengths is None else lengths[split],
            keep=np.flatnonzero(numbers >= 0),
            num_proc=args.num_proc,
        )

    examples = {split: make(split) for split in splits}
    train = examples.pop("train")
    classes = np.asarray(train.labels)  # (examples,)
    if args.validation_share:
        rest, held_out = hold_out(classes, args.validation_share, seed)
        examples = {VALIDATION: train.only(held_out, name=VALIDATION, augment=False, left_out=Counter()), **examples}
        train, classes = train.only(rest), classes[rest]
    if args.labels_per_class is not None:
        train = train.only(draw_per_class(classes, args.labels_per_class, labels.names, seed))
    return train, examples


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rest and of the `share` that is held out, with the classes' shares alike in both, sorted."""
    try:
        rest, held_out = train_test_split(np.arange(len(labels)), test_size=share, stratify=labels, random_state=seed)
    except ValueError as error:
        raise ValueError(f"data.validation_share = {share} is not possible: {error}") from error
    return np.sort(rest), np.sort(held_out)


def draw_per_class(labels: np.ndarray, per_class: int, names: Sequence[str], seed: int) -> np.ndarray:
    """Positions of `per_class` examples of every class, sorted; a larger number holds a smaller one's examples.

    Raises:
        ValueError: a class has fewer.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for number, name in enumerate(names):
        members = rng.permutation(np.flatnonzero(labels == number))
        if len(members) < per_class:
            raise ValueError(
                f"data.labels_per_class = {per_class} is not possible: of class {name!r} there are {len(members)} "
                f"training examples. Use {len(members)} or less, or more examples."
            )
        drawn.append(members[:per_class])
    return np.sort(np.concatenate(drawn))


def _numbered(
    split: str, column: Sequence[Any], number: Mapping[Any, int], names: Sequence[str], skip_bad: bool
) -> np.ndarray:
    problems: Counter[str] = Counter()
    numbers = np.full(len(column), -1, dtype=np.int64)
    for row, value in enumerate(column):
        if not _missing(value) and value in number:
            numbers[row] = number[value]
            continue
        problem = "no label" if _missing(value) else f"label {value!r}, which is none of the classes of train"
        if not skip_bad:
            raise ValueError(
                f"data.{split}, row {row} has {problem} ({', '.join(names[:10])}{', …' * (len(names) > 10)}): mend or "
                f"remove it, choose a split with labels, or set data.skip_bad = true to leave such rows out."
            )
        problems[problem] += 1
    for problem, count in problems.items():
        logger.warning("data.%s: %d of %d rows are left out: %s", split, count, len(column), problem)
    return numbers


def _missing(value: Any) -> bool:
    return value is None or value == "" or value == -1


def _order(value: Any) -> tuple[bool, Any]:
    return (isinstance(value, str), value)
