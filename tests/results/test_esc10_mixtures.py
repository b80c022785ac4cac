"""ESC-10's mixtures: what is in them, that folds stay apart, and the whole script at a tiny size."""

import io
import json

import datasets
import esc10_mixtures as esc10
import numpy as np
import pytest
import soundfile
from sklearn.metrics import average_precision_score

from data2vec.tests.finetune.sounds import folds_of_tones


RATE = esc10.RATE
NAMES = ["chirp", "click", "hum", "knock"]


def sounds(fold: int) -> list[tuple[str, np.ndarray]]:
    """Tones, the frequency of which says class and fold."""
    found = []
    for number, name in enumerate(NAMES):
        time = np.arange(int(RATE * (0.3 + 0.2 * number))) / RATE
        found.append((name, np.sin(2 * np.pi * (100 * (number + 1) + 1000 * fold) * time).astype(np.float32)))
    return found


def loudest_tones(wave: np.ndarray) -> set[int]:
    """Frequencies in Hz, rounded to hundreds, of all that is within 20 dB of the loudest."""
    spectrum = np.abs(np.fft.rfft(wave))
    frequencies = np.fft.rfftfreq(len(wave), 1 / RATE)
    return {int(round(f, -2)) for f in frequencies[spectrum > spectrum.max() / 10]}


def test_a_mixture_holds_what_its_labels_say():
    counts = set()
    for seed in range(20):
        names, wave = esc10.mixture(sounds(0), 0.7, np.random.default_rng(seed))
        assert len(wave) == int(0.7 * RATE) and np.abs(wave).max() <= 1
        assert len(set(names)) == len(names)
        counts.add(len(names))
        heard = loudest_tones(wave)
        assert {100 * (NAMES.index(name) + 1) for name in names} <= heard
        assert not heard & {100 * (number + 1) for number, name in enumerate(NAMES) if name not in names}
    assert counts == {1, 2, 3}


def test_the_loudest_part():
    wave = np.concatenate([np.full(50, 0.1), np.full(31, 0.9), np.full(70, 0.2)]).astype(np.float32)
    assert np.array_equal(esc10.loudest(wave, 31), wave[50:81])
    assert esc10.loudest(wave, 999) is wave


def test_folds_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(esc10, "clips", lambda dataset, fold: sounds(fold))
    size = esc10.Size(train=11, validation=7, test=5, seconds=1.0)
    esc10.prepare(tmp_path, tmp_path / "3", 3, size)  # tests on fold 4, validates on 5, trains on 1, 2 and 3
    folds = {}
    for part in ("train", "validation", "test", "pretrain"):
        rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "3" / f"{part}.parquet"), split="train")
        waves = [soundfile.read(io.BytesIO(row["audio"]["bytes"]))[0] for row in rows]
        folds[part] = {frequency // 1000 for wave in waves for frequency in loudest_tones(wave)}
        if part != "pretrain":
            assert len(rows) == getattr(size, part)
    assert folds == {"train": {1, 2, 3}, "validation": {5}, "test": {4}, "pretrain": {1, 2, 3, 5}}
    again = tmp_path / "again"
    esc10.prepare(tmp_path, again, 3, size)
    assert (again / "test.parquet").read_bytes() == (tmp_path / "3" / "test.parquet").read_bytes()


def test_a_linear_probe_chooses_on_validation():
    """Layer 1 knows the labels, layer 0 knows those of train alone: it would win if train or test chose."""
    rng = np.random.default_rng(0)
    labels = [rng.random((count, 4)) < 0.4 for count in (101, 53, 59)]
    blind = [rng.normal(size=(len(part), 7)) for part in labels]
    blind[0][:, :4] += 5 * labels[0]
    knows = [part + 0.3 * rng.normal(size=part.shape) for part in labels]
    found = esc10.linear_probe([blind, knows], [part.astype(np.float32) for part in labels])
    assert found["layer"] == 1 and found["mAP"] > 80
    chance = esc10.linear_probe([blind], [part.astype(np.float32) for part in labels])
    assert chance["mAP"] < 60


def test_mean_precision_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, scores = (rng.random((31, 5)) < 0.4).astype(np.float32), rng.normal(size=(31, 5)).astype(np.float32)
    expected = average_precision_score(labels, scores, average="macro")
    assert esc10.mean_precision(scores, labels) == pytest.approx(expected, rel=1e-6)


def test_everything_at_a_tiny_size(tmp_path):
    data = folds_of_tones(tmp_path / "data" / "esc10").parent
    size = esc10.Size(train=20, validation=10, test=10, seconds=1.0, updates=2, fine_tune_updates=1)
    output = tmp_path / "found.json"
    esc10.main(["--data", str(data), "--runs", str(tmp_path), "--seeds", "0", "--output", str(output)], size)
    found = json.loads((tmp_path / "esc10_mixtures-0" / "measured.json").read_text())
    for name in ("student", "teacher", "untrained", "log-mel mean and spread", "log-mel in ten slices"):
        assert 0 < found[name]["mAP"] <= 100
    for head in esc10.HEADS:
        assert set(found["fine_tuned"][head]) == {"student", "untrained"}
    assert not output.exists()  # one seed is no result
