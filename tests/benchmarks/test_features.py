"""benchmarks/features.py: that all ways compute the same features, and that it runs. Not how fast."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from features import PARTS, measure

import data2vec


@pytest.mark.parametrize("modality", PARTS)
def test_every_way_gives_the_same_features(modality: str, tmp_path: Path) -> None:
    make_encoder, make_data, plain = PARTS[modality]
    (tmp_path / "data").mkdir()
    encoder, data = make_encoder(tmp_path / "encoder", True), make_data(tmp_path / "data", 5, True)
    written = data2vec.embed(encoder, data, output=tmp_path / "features.parquet", use_cpu=True)
    ours = np.stack(datasets.Dataset.from_parquet(str(written))["features"][:])
    np.testing.assert_allclose(list(plain(encoder, data, 1)), ours, atol=2e-5)
    if modality == "text":  # a stock convolution of speech sees the padding of a batch
        np.testing.assert_allclose(list(plain(encoder, data, 3)), ours, atol=2e-5)


def test_all_are_timed() -> None:
    assert all(seconds > 0 for seconds in measure("text", examples=3, rounds=1, tiny=True).values())
