"""The loader benchmark: what it counts, and that it runs. Nothing is said about how fast anything is."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data import padding

from data2vec.pretraining.data.sampler import BatchSampler


DURATIONS = Path(__file__).parents[1] / "samples" / "librispeech_small" / "durations.json"


class Two:
    """Batches of rows 0 to 2 and of row 3."""

    def __iter__(self):
        return iter([[(0, 0), (0, 1), (0, 2)], [(0, 3)]])


def test_padding_is_what_rows_are_short_of_the_longest() -> None:
    assert padding(Two(), np.array([5, 3, 4, 7])) == pytest.approx((0 + 2 + 1 + 0) / (3 * 5 + 7))


@pytest.mark.parametrize("seconds", [20, 62.5])
def test_less_than_5_percent_of_real_speech_is_padding(seconds: float) -> None:
    lengths = (np.asarray(json.loads(DURATIONS.read_text())) * 16_000).astype(int)
    lengths = lengths[lengths >= 32_000]
    sampler = BatchSampler(lengths, len(lengths), seed=1, batch_cost=int(seconds * 16_000))
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert padding(sampler, lengths) < 0.05


def test_every_modality_is_reported(script: Any) -> None:
    ended = script("data.py", "--tiny", "--seconds", "0.05")
    assert ended.returncode == 0, ended.stderr
    titles = re.findall(r"^## (\w+)", ended.stdout, flags=re.M)
    assert titles == ["Speech", "Images", "Images", "Text"]
    for said in ("clips per second and core", "every JPEG decoded whole", "rows per second and core"):
        assert len(re.findall(rf"\| .*{said}.* \| [1-9]\d* \|", ended.stdout)) >= 1
    assert ended.stdout.count("waiting at steps/s") == 4
    assert ended.stdout.count("masks per second") == 4


def test_data_times_a_start_with_many_files(script):
    ended = script("data.py", "--files", "120", "--tiny")
    assert ended.returncode == 0, ended.stderr
    rows = [line for line in ended.stdout.splitlines() if line.startswith("| 120 ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        f"120 {what}, {start} start" for what in ("clips", "images") for start in ("first", "second")
    ]
