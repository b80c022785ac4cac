"""EAT's augmentation: waveforms that are shifted and scaled, noise, stripes; and epochs of weighted clips."""

import numpy as np
import pytest
import torch

from data2vec.finetune.audio.augment import SpecAugment, add_noise, roll
from data2vec.finetune.audio.examples import WeightedExamples
from data2vec.finetune.examples import Examples


def test_a_rolled_clip_is_the_clip_elsewhere_and_louder_or_softer() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 1009).astype(np.float32)
    starts, gains = set(), []
    for seed in range(200):
        found = roll(wave, np.random.default_rng(seed))
        start = int(np.argmax(np.correlate(np.tile(found, 2), wave, "valid")))
        gains.append(float(np.roll(found, -start) @ wave / (wave @ wave)))
        np.testing.assert_allclose(np.roll(found, -start), gains[-1] * wave, rtol=1e-4)
        starts.add(start)
    assert found.dtype == np.float32 and len(starts) > 150 and max(starts) > 900 > 100 > min(starts)
    assert np.mean(gains) == pytest.approx(1, abs=0.03)
    assert np.std(gains) == pytest.approx((1 / (4 * 21)) ** 0.5, rel=0.15)  # of Beta(10, 10)


def test_noise_is_bounded_and_frames_shift_by_a_few() -> None:
    spectrogram = torch.arange(40.0).unsqueeze(1).expand(40, 7) * 10
    shifts = set()
    for seed in range(100):
        found = add_noise(spectrogram, 0.1, np.random.default_rng(seed))
        shift = int((found[:, 0] // 10).argmin())
        shifts.add(shift if shift < 20 else shift - 40)
        noise = torch.roll(found, -shift, 0) - spectrogram
        assert 0 <= noise.min() and noise.max() <= 0.1 and noise.std() > 0
    assert min(shifts) >= -10 and max(shifts) <= 9 and len(shifts) > 12


def test_stripes_cover_a_uniform_share_of_each_axis() -> None:
    def collate(examples):
        return {"input_values": torch.ones(len(examples), 50, 40), "labels": torch.zeros(len(examples))}

    def batch(epoch):
        return SpecAugment(collate, 0.4, seed=3)([{"epoch": epoch, "index": i} for i in range(3)])["input_values"]

    assert torch.equal(batch(1), batch(1)) and not torch.equal(batch(1), batch(2))
    shares = []
    for epoch in range(100):
        for values in batch(epoch):
            rows, columns = (values == 0).all(1), (values == 0).all(0)
            assert torch.equal(values == 0, rows.unsqueeze(1) | columns)
            for stripe in (rows, columns):
                there = torch.nonzero(stripe).flatten()
                assert len(there) == 0 or there[-1] - there[0] + 1 == len(there)
            shares.append([rows.float().mean(), columns.float().mean()])
    assert np.mean(shares) == pytest.approx(0.2, abs=0.02) and np.max(shares) < 0.4


@pytest.mark.parametrize("several", [False, True])
def test_clips_with_rare_labels_are_drawn_more_often_and_none_twice(several: bool) -> None:
    labels = np.array([0] * 30 + [1] * 3 + [2])
    plain = Examples(
        list(range(34)),
        lambda row, rng: {"input_values": torch.tensor([float(row)])},
        name="train",
        seed=5,
        labels=np.eye(3, dtype=np.float32)[labels] if several else labels,
    )
    drawn = WeightedExamples(plain, 10)
    assert len(drawn) == 10 and drawn.lengths is None
    counts = np.zeros(34)
    for epoch in range(400):
        rows = [int(drawn[epoch, i]["input_values"]) for i in range(10)]
        assert len(set(rows)) == 10
        counts[rows] += 1
    assert [drawn[3, i]["index"] for i in range(10)] == [drawn[3, i]["index"] for i in range(10)]
    first = counts / 400  # of drawing one after the other with weights 1/30, 1/3 and 1
    rng, expected = np.random.default_rng(0), np.zeros(34)
    weights = 1 / np.bincount(labels)[labels]
    for _ in range(2000):
        expected[rng.choice(34, 10, replace=False, p=weights / weights.sum())] += 1 / 2000
    np.testing.assert_allclose(first, expected, atol=0.08)
