"""Features of a frozen encoder as one parquet file: `data2vec embed MODEL DATA`, `data2vec.embed(model, data)`.

A row has `row` (its number in the data), `name` (of its file, where it has one), `label` (where there are any: a
class, or a float64 number) and `features`, a vector, or one a token; with `layer="all"`, a column a layer, `layer_0`
being the first block's input.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.arrow_writer import ParquetWriter
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..pretraining.console.libraries import quiet_libraries
from ..pretraining.data.modality import Modality
from ..pretraining.evaluation.probe import Collate, Layer
from ..pretraining.recipe import CHECKPOINT, as_arguments, override, parse_yaml
from .arguments import FineTuneRun, field_names, resolve
from .command_line import SECTIONS, embed_parser, source_of
from .examples import Examples
from .probe.arguments import Probe
from .probe.features import PART, Part, compute_part
from .probe.runner import check_layer, open_examples, open_modality, pretrained_encoder
from .runner import command


@dataclass(frozen=True)
class Frozen:
    """An encoder on its device, and the examples that it is to read."""

    run: FineTuneRun
    modality: Modality[Any]
    examples: Examples
    classes: tuple[str, ...]  # none where nothing is labelled, or with numbers
    encoder: PreTrainedModel

    @property
    def collate(self) -> Collate:
        return self.modality.collator(None, self.run.training.seed)

    def features(self, indices: Sequence[int], pooled: bool) -> Part:
        """Of some examples, of the layer that `task.layer` names; see [`compute_part`]."""
        size = self.run.training.per_device_eval_batch_size
        layer = self.run.task.layer
        return compute_part(self.encoder, self.examples, indices, self.collate, self.modality, size, layer, pooled)


def open_frozen(
    model: str,
    data: Mapping[str, Any],
    task: Mapping[str, Any],
    folder: Path,
    words: Sequence[str],
    batch_size: int = 32,
    **options: Any,
) -> Frozen:
    """Open an encoder and data by the fields of a probe's recipe.

    Args:
        words: `--field value` pairs for the recipe.
        options: of the encoder's `from_pretrained`.

    Raises:
        ValueError: the model, the data or a field is refused; the message names the fix.
    """
    recipe = {
        "model": {CHECKPOINT: model},
        "data": dict(data),
        "task": {"probes": [], **task},
        "training": {"output_dir": str(folder), "per_device_eval_batch_size": batch_size, "report_to": "none"},
    }
    run = resolve(override(recipe, words, field_names(Probe)), Probe)
    check_layer(run)
    modality = open_modality(run)
    splits, classes = open_examples(run, modality)
    encoder = pretrained_encoder(run, **options)
    encoder.to(run.training.device)  # type: ignore[arg-type]
    return Frozen(run, modality, splits["train"], classes, encoder)


def embed(
    model: str | Path,
    data: str | Path | Mapping[str, Any],
    *,
    layer: Layer = "last",
    output: str | Path = "features.parquet",
    per_token: bool = False,
    batch_size: int = 32,
    **fields: Any,
) -> Path:
    """Write the features of a dataset; some hundred examples at a time are in memory. Returns `output`.

    Args:
        model: an encoder, a folder or a Hub id.
        data: a folder, file or dataset; or a mapping of the fields of a source, `{"path": ..., "split": "test"}`.
        layer: "last" (the encoder's output), a hidden state by number, "average" of all hidden states, or "all".
        output: the file to write; one that is there is replaced when the new one is complete.
        per_token: a vector for every token (frame, patch) instead of their mean.
        batch_size: examples that the encoder reads at once.
        fields: of the recipe of a probe: `weights="teacher"`, `max_seconds=10.0`, `skip_bad=True`.

    Raises:
        ValueError: the model, the data or a field is refused; the message names the fix.
    """
    quiet_libraries()
    source = dict(data) if isinstance(data, Mapping) else {"path": str(data)}
    return _write(str(model), source, layer, Path(output), per_token, batch_size, as_arguments(fields, SECTIONS))


def _write(
    model: str,
    source: dict[str, Any],
    layer: Layer,
    output: Path,
    per_token: bool,
    batch_size: int,
    words: Sequence[str],
) -> Path:
    """As [`embed`], with `words` as on a command line."""
    task = {"layer": "last" if layer is None else layer, "per_step": per_token}
    frozen = open_frozen(model, {"train": source}, task, output.parent, words, batch_size)
    examples = frozen.examples
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    output.parent.mkdir(parents=True, exist_ok=True)
    writer: Any = None
    try:
        with tqdm(total=len(examples), desc="features", unit="example") as bar:
            for start in range(0, len(examples), PART):
                indices = range(start, min(start + PART, len(examples)))
                columns, features = _columns(frozen.features(indices, pooled=not per_token), frozen.classes)
                writer = writer or ParquetWriter(features=features, path=str(partial))
                writer.write_batch(columns)
                bar.update(len(indices))
        writer.finalize()
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return output


def _columns(part: Part, classes: Sequence[str]) -> tuple[dict[str, Any], datasets.Features]:
    """The rows of a part, and what the columns of all parts hold."""
    columns: dict[str, Any] = {"row": part.ids, "name": part.names}
    features: dict[str, Any] = {"row": datasets.Value("int64"), "name": datasets.Value("string")}
    if classes:
        columns["label"], features["label"] = part.labels, datasets.ClassLabel(names=list(classes))
    elif part.labels.dtype == np.float64:
        columns["label"], features["label"] = part.labels, datasets.Value("float64")
    for name, rows in part.layers.items():
        column = "features" if len(part.layers) == 1 else name
        vector = datasets.List(datasets.Value("float32"), length=rows[0].shape[-1])
        columns[column], features[column] = rows, vector if rows[0].ndim == 1 else datasets.List(vector)
    return columns, datasets.Features(features)


def main(argv: Sequence[str] | None = None) -> int:
    given, words = embed_parser().parse_known_args(argv)

    layer = parse_yaml(given.layer, "--layer")

    def write() -> None:
        source = source_of(given.data)
        path = _write(given.model, source, layer, given.output, given.per_token, given.batch_size, words)
        print(f"{path} holds the features.")

    return command(write)
