"""Labelled rows as examples: which are held out of train, and which few of it are trained on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from ..pretraining.data.labels import Labels
from ..pretraining.data.modality import Rows
from ..pretraining.data.sources import MediaKind, load_source
from .data_arguments import FineTuneDataArguments
from .examples import Examples, Read
from .task import VALIDATION


SPLITS = ("train", VALIDATION, "test")


def open_splits(args: FineTuneDataArguments, kind: MediaKind, **options: Any) -> dict[str, datasets.Dataset]:
    """The splits that a recipe names, each with the columns `kind.column` and `label`, nothing decoded."""
    sources = {name: getattr(args, name) for name in SPLITS}
    return {
        name: load_source(source, kind, default_split=name, label_column=source.label_column, **options)
        for name, source in sources.items()
        if source is not None
    }


def labelled_examples(
    args: FineTuneDataArguments,
    splits: Mapping[str, Rows],
    labels: Labels,
    read: Read,
    *,
    seed: int,
    lengths: Mapping[str, np.ndarray] | None = None,
    checked: bool = False,
) -> tuple[Examples, dict[str, Examples]]:
    """The examples of train and of each evaluation split: what `read` makes of a row, and its `labels`.

    `data.validation_share` is held out of train first, of every class alike, and `data.labels_per_class` drawn from
    the rest; both follow from `seed`. Unusable rows are neither. `checked`: see [`Examples`].
    """
    examples = {
        split: Examples(
            rows,
            read,
            labels=labels.numbers[split],
            bad=labels.bad[split],
            name=split,
            seed=seed,
            augment=split == "train",
            skip_bad=args.skip_bad,
            checked=checked,
            lengths=None if lengths is None else lengths[split],
            num_proc=args.num_proc,
        )
        for split, rows in splits.items()
    }
    train = examples.pop("train")
    targets = np.asarray(train.labels)  # (examples,) or (examples, classes)
    one_class = bool(labels.names) and targets.ndim == 1
    if args.validation_share:
        rest, held_out = hold_out(len(train), args.validation_share, seed, targets if one_class else None)
        examples = {VALIDATION: train.only(held_out, name=VALIDATION, augment=False, left_out=Counter()), **examples}
        train, targets = train.only(rest), targets[rest]
    if args.labels_per_class is not None:
        args.require(one_class, "labels_per_class", "leave it out where a row has no single class")
        train = train.only(draw_per_class(targets, args.labels_per_class, labels.names, seed))
    return train, examples


def hold_out(count: int, share: float, seed: int, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rest and of the `share` that is held out, sorted; with the classes' shares alike in both."""
    try:
        rest, held_out = train_test_split(np.arange(count), test_size=share, stratify=classes, random_state=seed)
    except ValueError as error:
        raise ValueError(f"data.validation_share = {share} is invalid: {error}") from error
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
                f"data.labels_per_class = {per_class} is invalid: of class {name!r} there are {len(members)} "
                f"training examples. Use {len(members)} or less, or more examples."
            )
        drawn.append(members[:per_class])
    return np.sort(np.concatenate(drawn))
