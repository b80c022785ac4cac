"""The rows that a source's `keep` and `drop` leave, and a few of them to look at."""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np

from .arguments import Source


def choose_rows(dataset: Any, source: Source) -> Any:
    """The rows that are wanted. Raises ValueError for a stream, and for a column or value that is not there."""
    if isinstance(dataset, datasets.IterableDataset) and (source.keep or source.drop):
        fix = "leave them out with data.streaming = true"
        raise ValueError(f"data source {source.path!r}: keep and drop cannot be applied to a stream: {fix}.")
    for name, values in (source.keep or {}).items():
        dataset = _rows_with(dataset, source, "keep", name, values, True)
    for name, values in (source.drop or {}).items():
        dataset = _rows_with(dataset, source, "drop", name, values, False)
    return dataset


def _rows_with(
    dataset: datasets.Dataset, source: Source, field: str, column: str, values: list[Any], wanted: bool
) -> datasets.Dataset:
    """The rows whose `column` has (or, with `wanted` False, has not) one of `values`; a class may go by its name."""
    features = dataset.features
    if column not in features:
        raise ValueError(
            f"data source {source.path!r}: {field} names no column {column!r}: use one of {', '.join(features)}."
        )
    feature = features[column]
    if isinstance(feature, datasets.ClassLabel):
        unknown = [value for value in values if isinstance(value, str) and value not in feature.names]
        if unknown:
            raise ValueError(
                f"data source {source.path!r}: {field}.{column} holds {unknown[0]!r}: use {', '.join(feature.names)}."
            )
        values = [feature.str2int(value) if isinstance(value, str) else value for value in values]
    elif getattr(feature, "dtype", None) == "string":  # 7 of a recipe is the 7 of a csv file
        values = [str(value) if type(value) in (int, float) else value for value in values]
    present = set(dataset.unique(column))
    missing = [value for value in values if value not in present]
    if missing:  # a slip in a speaker's name would put that speaker into both sets
        some = ", ".join(sorted(map(repr, present))[:20])
        raise ValueError(
            f"data source {source.path!r}: {field}.{column} holds {missing[0]!r}, which no row has: use values of "
            f"{some}."
        )
    chosen = set(values)
    return dataset.filter(lambda value: (value in chosen) == wanted, input_columns=[column])


LOOKED_AT = 64  # rows of a source of which is said what a recipe makes of them


def rows_to_look_at(dataset: Any) -> Iterator[dict[str, Any]]:
    """A few rows from all over a data set, or the first ones of a stream."""
    if isinstance(dataset, datasets.IterableDataset):
        yield from dataset.take(LOOKED_AT)
        return
    for place in np.unique(np.linspace(0, len(dataset) - 1, min(LOOKED_AT, len(dataset)), dtype=np.int64)):
        yield dataset[int(place)]
