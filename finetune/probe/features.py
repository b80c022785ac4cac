"""Features of a frozen encoder on disk: a folder a split, in files of a few hundred examples.

    features/pretrained/train/manifest.json, 00000.parquet, 00001.parquet, ...

A row has `id` (the number of the row it was computed from), `name` (of its file, where it has one), `label` (an int64
class, -1 where there is none, or a float64 number) and one column a layer: a vector, or a list of one vector per time
step. In safetensors, which hold
tensors only, vectors follow each other; with one per time step, `steps` says how many belong to whom.

A file is there whole or not at all, and is not computed again: an interrupted job continues where it stopped, and
several processes (or machines, on one disk) share the files of a split between them.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ...pretraining.data.modality import Modality, path_of
from ...pretraining.evaluation.probe import Collate, Layer, batches_of, extract_layers
from ..examples import Examples


logger = logging.getLogger(__name__)

PART = 256  # examples of a file


@dataclass(frozen=True)
class Part:
    """The features of some examples.

    Attributes:
        ids: (examples,) int64.
        labels: (examples,) int64 classes, -1 where there are none, or float64 numbers.
        names: of the examples' files, "" where there is none.
        layers: name of the layer -> an array an example, (dim,) or (time, dim) float32.
    """

    ids: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    layers: dict[str, list[np.ndarray]]


class FeatureFolder:
    """The parts of one split. What they were made from is in the manifest, and others are not mixed in.

    Raises:
        ValueError: the folder holds features that were made from something else.
    """

    def __init__(self, path: Path, format: Literal["parquet", "safetensors"], made_from: Mapping[str, Any]):
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
        _write_whole(self.file(number), lambda file: WRITERS[self.format](file, part))

    def read(self, number: int) -> Part:
        return READERS[self.format](self.file(number))

    def load(self, parts: int) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
        """All of a split: for each layer an array an example, (dim,) or (time, dim), and labels (examples,)."""
        read = [self.read(number) for number in range(parts)]
        layers = {name: [row for part in read for row in part.layers[name]] for name in read[0].layers}
        return layers, np.concatenate([part.labels for part in read])


def _write_whole(path: Path, write: Any) -> None:
    """Under its name only once it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(path: Path, part: Part) -> None:
    columns = {"id": pa.array(part.ids), "name": pa.array(part.names, pa.string()), "label": pa.array(part.labels)}
    for name, rows in part.layers.items():
        vector = pa.list_(pa.float32(), rows[0].shape[-1])
        pooled = rows[0].ndim == 1
        columns[name] = pa.array(rows, vector) if pooled else pa.array([list(row) for row in rows], pa.list_(vector))
    pq.write_table(pa.table(columns), path)


def _read_parquet(path: Path) -> Part:
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    ids, names, labels = (columns.pop(name) for name in ("id", "name", "label"))
    layers = {
        layer: [np.stack(row) if row.dtype == object else row for row in rows] for layer, rows in columns.items()
    }
    return Part(ids, labels, list(names), layers)


def _write_safetensors(path: Path, part: Part) -> None:
    tensors = {"id": part.ids, "label": part.labels}
    tensors |= {name: np.vstack(rows) for name, rows in part.layers.items()}
    rows = next(iter(part.layers.values()))
    if rows[0].ndim == 2:
        tensors["steps"] = np.array([len(row) for row in rows])
    save_file(tensors, path)


def _read_safetensors(path: Path) -> Part:
    tensors = load_file(path)
    ids, labels, steps = tensors.pop("id"), tensors.pop("label"), tensors.pop("steps", None)
    layers = {
        name: list(tensors[name]) if steps is None else np.split(tensors[name], np.cumsum(steps)[:-1])
        for name in sorted(tensors, key=lambda name: (len(name), name))  # layer_9 before layer_10
    }
    return Part(ids, labels, [""] * len(ids), layers)


WRITERS = {"parquet": _write_parquet, "safetensors": _write_safetensors}
READERS = {"parquet": _read_parquet, "safetensors": _read_safetensors}


def write_features(
    encoder: PreTrainedModel,
    examples: Examples,
    collate: Collate,
    folder: FeatureFolder,
    *,
    layer: Layer,
    pooled: bool,
    modality: Modality[Any],
    batch_size: int,
    process: tuple[int, int] = (0, 1),
    title: str = "features",
) -> int:
    """Compute and write the parts of a split that are not there yet; returns how many parts the split has.

    Args:
        layer, pooled: see [`extract_layers`].
        modality: of the examples.
        process: (rank, ranks): every rank writes its share of the parts.
    """
    count = ceil(len(examples) / PART)
    rank, ranks = process
    mine = range(rank, count, ranks)
    missing = [number for number in mine if not folder.file(number).is_file()]
    if len(missing) < len(mine):
        logger.info("%s: %d of %d parts are there already", folder.path, len(mine) - len(missing), len(mine))
    spans = {number: range(number * PART, min((number + 1) * PART, len(examples))) for number in missing}
    with tqdm(total=sum(map(len, spans.values())), desc=title, unit="example", disable=rank != 0) as bar:
        for number, indices in spans.items():
            folder.write(
                number, compute_part(encoder, examples, indices, collate, modality, batch_size, layer, pooled)
            )
            bar.update(len(indices))
    return count


def compute_part(
    encoder: PreTrainedModel,
    examples: Examples,
    indices: Sequence[int],
    collate: Collate,
    modality: Modality[Any],
    batch_size: int,
    layer: Layer,
    pooled: bool,
) -> Part:
    """The features of some examples, see [`write_features`]."""
    read = [examples[i] for i in indices]
    # Those of about one length go together: less padding
    order = sorted(range(len(read)), key=lambda i: -modality.length(read[i]))
    batches = batches_of([read[i] for i in order], collate, batch_size)
    layers, _ = extract_layers(encoder, batches, layer=layer, pooled=pooled)
    return Part(
        ids=examples.kept[np.asarray(indices)],
        labels=np.array([example.get("labels", -1) for example in read]),
        names=[path_of(examples.row(i), modality.kind.column) or "" for i in indices],
        layers={name: [rows[i] for i in np.argsort(order)] for name, rows in layers.items()},
    )


def fingerprint_of_labels(labels: np.ndarray | None) -> str | None:
    """Features that were written beside other labels are not mixed with these."""
    return None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()[:16]


def fingerprint(encoder: PreTrainedModel) -> str:
    """Of the weights and the configuration: features of others are not mixed with these."""
    digest = hashlib.sha256(encoder.config.to_json_string(use_diff=False).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
