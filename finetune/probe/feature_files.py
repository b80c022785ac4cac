"""Features on disk: one folder a split, in files of a few hundred examples, each whole or not there at all.

    features/pretrained/train/manifest.json, 00000.parquet, 00001.parquet, ...

A row has `id` (the number of the row it was computed from), `name` (of its file, where it has one), `label` (-1 where
there is none) and one column a layer: a vector, or with one vector a time step a list of them. In safetensors, which
hold tensors only, `id`, `label` and, with one vector a time step, `steps` say which of a layer's rows belong to whom.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file


Format = Literal["parquet", "safetensors"]


@dataclass(frozen=True)
class Part:
    """The features of some examples.

    Attributes:
        ids, labels: (examples,) int64.
        names: of the examples' files, "" where there is none.
        layers: name of the layer -> (examples, dim) fp32, or with `steps` (all steps, dim), one example after another.
        steps: (examples,) int64, or None where each example has one vector.
    """

    ids: np.ndarray
    labels: np.ndarray
    names: list[str]
    layers: dict[str, np.ndarray]
    steps: np.ndarray | None = None

    def pooled(self) -> dict[str, np.ndarray]:
        """(examples, dim) of each layer: the mean over an example's steps."""
        if self.steps is None:
            return self.layers
        starts = np.cumsum(self.steps) - self.steps
        return {
            name: np.add.reduceat(values, starts, axis=0) / self.steps[:, None].astype(np.float32)
            for name, values in self.layers.items()
        }


class FeatureFolder:
    """The parts of one split. What they were made from is in the manifest, and others are not mixed in.

    Raises:
        ValueError: the folder holds features that were made from something else.
    """

    def __init__(self, path: Path, format: Format, made_from: Mapping[str, Any]):
        self.path, self.format = path, format
        manifest, content = path / "manifest.json", {"format": format, **made_from}
        if manifest.is_file():
            before = json.loads(manifest.read_text(encoding="utf-8"))
            other = [name for name in content if before.get(name) != content[name]]
            if other:
                raise ValueError(
                    f"{path} holds features with another {other[0]}: {before.get(other[0])!r} there, "
                    f"{content[other[0]]!r} here. Use another training.output_dir, or remove that folder."
                )
        else:
            path.mkdir(parents=True, exist_ok=True)
            _write_whole(manifest, lambda file: file.write_text(json.dumps(content, indent=2) + "\n", "utf-8"))

    def file(self, number: int) -> Path:
        return self.path / f"{number:05d}.{self.format}"

    def write(self, number: int, part: Part) -> None:
        """Write part `number`, under its name only once it is complete."""
        _write_whole(self.file(number), lambda file: WRITERS[self.format](file, part))

    def read(self, number: int) -> Part:
        return READERS[self.format](self.file(number))

    def parts(self, count: int) -> Iterator[Part]:
        return (self.read(number) for number in range(count))


def _write_whole(path: Path, write: Any) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(path: Path, part: Part) -> None:
    columns = {"id": pa.array(part.ids), "name": pa.array(part.names, pa.string()), "label": pa.array(part.labels)}
    for name, values in part.layers.items():
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        if part.steps is not None:
            offsets = np.concatenate([[0], np.cumsum(part.steps)]).astype(np.int32)
            vectors = pa.ListArray.from_arrays(pa.array(offsets), vectors)
        columns[name] = vectors
    pq.write_table(pa.table(columns), path)


def _read_parquet(path: Path) -> Part:
    table = pq.read_table(path).combine_chunks()
    columns = {name: table[name].chunk(0) for name in table.column_names}
    ids, labels = columns.pop("id").to_numpy(), columns.pop("label").to_numpy()
    names, steps, layers = columns.pop("name").to_pylist(), None, {}
    for name, vectors in columns.items():
        if not pa.types.is_fixed_size_list(vectors.type):
            steps = np.diff(vectors.offsets.to_numpy()).astype(np.int64)
            vectors = vectors.flatten()
        layers[name] = vectors.flatten().to_numpy().reshape(-1, vectors.type.list_size)
    return Part(ids, labels, names, layers, steps)


def _write_safetensors(path: Path, part: Part) -> None:
    tensors = {"id": part.ids, "label": part.labels, **part.layers}
    if part.steps is not None:
        tensors["steps"] = part.steps
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path)


def _read_safetensors(path: Path) -> Part:
    tensors = load_file(path)
    ids, labels, steps = tensors.pop("id"), tensors.pop("label"), tensors.pop("steps", None)
    return Part(ids, labels, [""] * len(ids), dict(sorted(tensors.items(), key=lambda item: _number(item[0]))), steps)


def _number(name: str) -> int:
    return int(name.removeprefix("layer_")) if name.startswith("layer_") else 0


WRITERS = {"parquet": _write_parquet, "safetensors": _write_safetensors}
READERS = {"parquet": _read_parquet, "safetensors": _read_safetensors}
