"""Columns of decoded media, as `datasets` before version 4 left them after a map: {"array", "sampling_rate"} or lists.

They become the content of files again, so that one decoder meets all sources.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import datasets


Encode: TypeAlias = Callable[[Any, int], bytes]  # (decoded array, sampling rate) -> the content of a file
RATE = "sampling_rate"  # the name of its field, or of a column beside one of bare arrays


def encode_arrays(dataset: Any, column: str, wanted: str, encode: Encode | None) -> Any:
    """`dataset` with the content of files in `column`; None where it holds no arrays.

    Raises:
        ValueError: nothing says how fast the samples follow each other, or arrays of this kind are not read.
    """
    feature = dataset.features[column]
    fields = {"array", RATE}
    if not (isinstance(feature, Mapping) and fields <= feature.keys()):
        if not isinstance(feature, datasets.List | datasets.Array2D | datasets.Array3D):
            return None
        fields = {column, RATE}
        if encode is None or RATE not in dataset.features:
            also = "" if encode is None else f"add a column {RATE}, or "
            raise ValueError(
                f"The column {column!r} holds arrays, {feature!s:.60}: {also}cast it to datasets.{wanted} and save it "
                "again."
            )
    elif encode is None:
        return None
    content = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({**dataset.features, column: content})
    how: dict[str, Any] = {"fn_kwargs": {"column": column, "encode": encode}, "features": features}
    if isinstance(dataset, datasets.Dataset):
        how["desc"] = "Encoding arrays"
    return dataset.map(_encode_row, **how)


def _encode_row(row: dict[str, Any], column: str, encode: Encode) -> dict[str, Any]:
    value = row[column]
    array, rate = (value.get("array"), value.get(RATE)) if isinstance(value, Mapping) else (value, row.get(RATE))
    content = None if array is None or rate is None else encode(array, rate)
    return {column: {"bytes": content, "path": None}}
