"""Features of a frozen encoder, of any layer, for every example of a split: computed in batches, written in parts.

A part that is already there is not computed again, so an interrupted job continues where it stopped, and several
processes (or machines, on one disk) share the parts of a split between them.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ...pretraining.data.modality import path_of
from ...pretraining.evaluation.probe import Collate, Layer, evaluating, hidden_layers, masked_mean
from ..examples import Examples
from .feature_files import FeatureFolder, Part


logger = logging.getLogger(__name__)

PART = 256  # examples of a file

LayerName = int | Literal["last", "average", "all"]


@dataclass(frozen=True)
class Selection:
    """Which features: of which layers, and one vector an example or one a time step."""

    layer: LayerName = "all"
    pooled: bool = True

    def of_batch(self, encoder: PreTrainedModel, batch: dict[str, Tensor], device: torch.device) -> "list[_Found]":
        """What the encoder makes of a batch, one entry an example."""
        layer: Layer | Literal["all"] = None if self.layer == "last" else self.layer
        hidden, real = hidden_layers(encoder, batch, device, layer)
        names = [f"layer_{i}" for i in range(len(hidden))] if layer == "all" else [layer_name(self.layer)]
        if self.pooled:
            vectors = [masked_mean(states, real).float().cpu().numpy() for states in hidden]  # (batch, dim) each
            return [dict(zip(names, (v[row : row + 1] for v in vectors), strict=True)) for row in range(len(real))]
        states = [layer.float().cpu().numpy() for layer in hidden]  # (batch, time, dim) each
        kept = real.cpu().numpy()
        return [dict(zip(names, (s[row][kept[row]] for s in states), strict=True)) for row in range(len(kept))]


_Found = dict[str, np.ndarray]  # layer -> (1 or time, dim) fp32


def layer_name(layer: LayerName) -> str:
    return f"layer_{layer}" if isinstance(layer, int) else layer


def write_features(
    encoder: PreTrainedModel,
    examples: Examples,
    collate: Collate,
    folder: FeatureFolder,
    selection: Selection,
    *,
    column: str,
    batch_size: int,
    device: torch.device,
    process: tuple[int, int] = (0, 1),
    title: str = "features",
) -> int:
    """Compute and write the parts of a split that are not there yet; returns how many parts the split has.

    Args:
        encoder: run as it is, in eval mode, without gradient or autocast.
        column: of the rows that holds their input, for the names.
        process: (rank, ranks): every rank writes its share of the parts.
    """
    count = ceil(len(examples) / PART)
    rank, ranks = process
    mine = range(rank, count, ranks)
    missing = [number for number in mine if not folder.file(number).is_file()]
    if len(missing) < len(mine):
        logger.info("%s: %d of %d parts are there already", folder.path, len(mine) - len(missing), len(mine))
    sizes = [min(PART, len(examples) - number * PART) for number in missing]
    bar = tqdm(total=sum(sizes), desc=title, unit="example", disable=rank != 0)
    with bar, evaluating(encoder), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for number, size in zip(missing, sizes, strict=True):
            indices = range(number * PART, number * PART + size)
            folder.write(number, _compute(encoder, examples, indices, collate, selection, column, batch_size, device))
            bar.update(size)
    return count


def _compute(
    encoder: PreTrainedModel,
    examples: Examples,
    indices: Sequence[int],
    collate: Collate,
    selection: Selection,
    column: str,
    batch_size: int,
    device: torch.device,
) -> Part:
    read = [examples[i] for i in indices]
    # Those of about one length go together: less padding
    order = sorted(range(len(read)), key=lambda i: -read[i][encoder.main_input_name].numel())
    found: dict[int, _Found] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collate([read[i] for i in chosen])
        found.update(zip(chosen, selection.of_batch(encoder, batch, device), strict=True))
    layers = {name: np.concatenate([found[i][name] for i in range(len(read))]) for name in found[0]}
    steps = None
    if not selection.pooled:
        first = next(iter(found[0]))
        steps = np.array([len(found[i][first]) for i in range(len(read))], dtype=np.int64)
    return Part(
        ids=examples.kept[np.asarray(indices)],
        labels=np.array([int(example.get("labels", -1)) for example in read], dtype=np.int64),
        names=[path_of(examples.row(i), column) or "" for i in indices],
        layers=layers,
        steps=steps,
    )


def read_pooled(folder: FeatureFolder, parts: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All of a split: (examples, dim) fp32 of each layer, and labels (examples,) int64."""
    read = list(folder.parts(parts))
    pooled = [part.pooled() for part in read]
    layers = {name: np.concatenate([part[name] for part in pooled]) for name in pooled[0]}
    return layers, np.concatenate([part.labels for part in read])


def fingerprint(encoder: PreTrainedModel) -> str:
    """Of the weights and the configuration: features of others are not mixed with these."""
    digest = hashlib.sha256(encoder.config.to_json_string(use_diff=False).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
