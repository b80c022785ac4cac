"""The rehearsal buffer of a modality: the few of its examples that are kept when it is no longer new (MedCoSS).

    features of all examples  ->  k-means  ->  those nearest to each centre  ->  a dataset, with where it is from

It holds rows of the sources, as they are: it is data, and stays where the run is. No card, log or upload reads it.
"""

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from sklearn.cluster import KMeans

from .checkpoints.run_files import write_text
from .data.examples import PretrainingDataset
from .evaluation.probe import batches_of, extract_features


PROVENANCE = "provenance.json"


def nearest_to_centres(features: np.ndarray, centres: np.ndarray, labels: np.ndarray, each: int) -> np.ndarray:
    """The `each` examples of every cluster that are nearest to its centre, fewer of a smaller one, in order.

    Args:
        features: `(examples, dim)`.
        centres: `(clusters, dim)`.
        labels: `(examples,)`, whose cluster an example is of.
    """
    chosen = []
    for cluster, centre in enumerate(centres):
        members = np.flatnonzero(labels == cluster)
        distances = np.linalg.norm(features[members] - centre, axis=1)
        chosen.append(members[distances.argsort(kind="stable")[:each]])
    return np.concatenate(chosen)


def sizes_of(examples: int, buffer: float, clusters: float) -> tuple[int, int]:
    """Clusters, and examples that are kept of each: of 1,000 with shares of 0.05 and 0.01 they are 10 and 5."""
    number = max(int(examples * clusters), 1)
    return number, max(int(examples * buffer // number), 1)


def write_buffer(
    encoder: Any,
    dataset: PretrainingDataset,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    buffer: float,
    clusters: float,
    seed: int,
) -> None:
    """Choose examples of a training set by the features of an encoder, and save them, in one go.

    Unusable examples are passed over. The folder opens as any other that `save_to_disk` wrote.

    Args:
        encoder: of the modality, as the stage left it.
        dataset: what the stage trained on.
        facts: said in `provenance.json`, with which rows were kept.
        buffer, clusters: shares of the examples, see [`sizes_of`].
    """
    plain = copy.copy(dataset)
    plain.augment = False  # as evaluation reads them
    examples = _Read(plain)
    features, _ = extract_features(encoder, batches_of(examples, plain.modality.collator(None, seed)))
    usable = examples.usable
    features = features[usable]
    number, each = sizes_of(len(usable), buffer, clusters)
    found = KMeans(number, n_init=1, random_state=seed).fit(features)
    rows = sorted(usable[i] for i in nearest_to_centres(features, found.cluster_centers_, found.labels_, each))
    places = [plain.place(i) for i in rows]
    kept = [
        plain.modality.kept(plain.sources[source], [row for own, row in places if own == source])
        for source in sorted({source for source, _ in places})
    ]
    aside = folder.with_name(f"_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    datasets.concatenate_datasets(kept).save_to_disk(str(aside))
    provenance = {
        **facts,
        "examples": len(usable),
        "clusters": number,
        "kept_of_each": each,
        "kept": len(rows),
        "seed": seed,
        "rows": [{"source": source + 1, "row": row} for source, row in places],
    }
    write_text(aside / PROVENANCE, json.dumps(provenance, indent=1) + "\n")
    os.replace(aside, folder)


class _Read(Sequence[Any]):
    """The examples of a dataset, each to be read once, and the numbers of those that could be used."""

    def __init__(self, dataset: PretrainingDataset):
        self.dataset = dataset
        self.usable: list[int] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        example = self.dataset[index]
        if example["name"] == self.dataset.name_of(index):  # else another one takes its place
            self.usable.append(index)
        return example
