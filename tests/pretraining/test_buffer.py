"""The rehearsal buffer: which examples are kept of a modality."""

import numpy as np
import pytest
from safetensors.torch import load_file

from data2vec.pretraining.buffer import nearest_to_centres, sizes_of
from data2vec.tests.reference import cases, folder_of


def test_sizes_are_the_published_ones():
    """5 % of the examples in 1 % as many clusters: 5 of each, up to 9 where there are few."""
    assert sizes_of(10_000, 0.05, 0.01) == (100, 5)
    assert sizes_of(199, 0.05, 0.01) == (1, 9)
    assert sizes_of(3, 0.05, 0.01) == (1, 1)


def test_the_nearest_of_each_cluster_are_kept():
    rng = np.random.default_rng(0)
    features, centres = rng.normal(size=(97, 5)), rng.normal(size=(7, 5))
    labels = rng.integers(0, 6, 97)  # the last cluster is empty
    chosen = nearest_to_centres(features, centres, labels, 4)
    for cluster in range(6):
        found = [int(i) for i in chosen if labels[i] == cluster]
        distance = {i: ((features[i] - centres[cluster]) ** 2).sum() for i in np.flatnonzero(labels == cluster)}
        assert found == sorted(distance, key=distance.__getitem__)[:4]
    assert len(chosen) == len(set(chosen.tolist())) == 24


@pytest.mark.skipif(not cases("medcoss_?"), reason="the reference cases of MedCoSS are not here")
def test_the_selection_is_the_originals():
    io = {name: tensor.numpy() for name, tensor in load_file(folder_of("medcoss_a") / "io.safetensors").items()}
    chosen = nearest_to_centres(io["buffer.features"], io["buffer.centers"], io["buffer.labels"], 5)
    assert chosen.tolist() == io["buffer.selected"].tolist()
