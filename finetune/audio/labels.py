"""Several labels a clip, by name -> (labels,) fp32 vectors of 0 and 1; for one label a clip see labels.py.

The classes are those of a `ClassLabel` column, else the labels that occur in train, sorted.
"""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np

from ...pretraining.data.sources import LABEL


def encode_labels(
    splits: Mapping[str, datasets.Dataset], separator: str | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Targets of every split, (rows, labels) fp32, and the classes' names. An empty list is a clip with no label.

    Args:
        splits: `train` among them; each has the column `label`, of lists or, with a separator, of text.
        separator: between the labels of a clip, as in "Speech,Music".

    Raises:
        ValueError: a column of something else, a row without a list, or a label that train does not have; the message
            names the split, the row and the fix.
    """
    named = {split: _names(split, rows, separator) for split, rows in splits.items()}
    feature = _single(splits["train"])
    is_class = isinstance(feature, datasets.ClassLabel)
    classes = tuple(feature.names) if is_class else tuple(sorted({name for row in named["train"] for name in row}))
    number = {name: i for i, name in enumerate(classes)}
    targets = {split: np.zeros((len(rows), len(classes)), dtype=np.float32) for split, rows in named.items()}
    for split, rows in named.items():
        for row, names in enumerate(rows):
            for name in names:
                if name not in number:
                    raise ValueError(
                        f"data.{split}, row {row} has label {name!r}, which is none of the {len(classes)} classes of "
                        f"train ({', '.join(classes[:10])}{', ...' * (len(classes) > 10)}): mend or remove it, or add "
                        "training examples of it."
                    )
                targets[split][row, number[name]] = 1.0
    return targets, classes


def _single(rows: datasets.Dataset) -> Any:
    """The feature of one label."""
    feature = rows.features[LABEL]
    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature


def _names(split: str, rows: datasets.Dataset, separator: str | None) -> list[list[str]]:
    """The names of every row's labels."""
    feature, single = rows.features[LABEL], _single(rows)
    listed = isinstance(feature, datasets.List | datasets.LargeList)
    if not listed and (separator is None or getattr(feature, "dtype", "") != "string"):
        raise ValueError(
            f"data.{split}: task.multi_label = true needs a list of labels in every row, the label column holds "
            f"{getattr(feature, 'dtype', feature)}: name another label_column, set data.label_separator where it is "
            "text, or task.multi_label = false."
        )
    found = []
    for row, value in enumerate(rows.with_format(None)[LABEL][:]):
        if value is None:
            raise ValueError(f"data.{split}, row {row} has no labels: give it a list, empty where none applies.")
        parts = [part.strip() for part in value.split(separator)] if isinstance(value, str) else value
        found.append([_name(single, part) for part in parts if part not in (None, "")])
    return found


def _name(feature: Any, value: Any) -> str:
    return feature.int2str(value) if isinstance(feature, datasets.ClassLabel) else str(value)
