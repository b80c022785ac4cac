"""Spectrograms: clips become what the saved feature extractor makes of them, in batches of whole rows of patches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor

from data2vec.modeling import EatConfig, ObjectiveConfig
from data2vec.pretraining.data.modality import BadExample
from data2vec.pretraining.evaluation.raw_features import raw_features
from data2vec.pretraining.modalities.spectrogram import SpectrogramData, SpectrogramDataArguments


CONFIG = EatConfig(hidden_size=24, num_attention_heads=2, num_mel_bins=12, patch_size=(5, 3))
MASKING = {"method": "block", "prob": 0.6, "length": 2, "inverse": True}


def spectrograms(**fields: Any) -> SpectrogramData:
    fields = {
        "sources": [{"path": "unused"}],
        "min_seconds": 0.2,
        "max_seconds": 0.5,
        "mean": -6.6,
        "std": 5.4,
    } | fields
    return SpectrogramData(SpectrogramDataArguments(**fields), CONFIG)


def row(folder: Path, samples: int, rate: int = 16_000) -> dict[str, Any]:
    path = folder / f"{samples}.wav"
    noise = np.random.default_rng(samples).normal(0.1, 0.1, samples).astype(np.float32)
    soundfile.write(path, noise, rate, subtype="FLOAT")
    return {"audio": {"path": str(path), "bytes": None}}


def test_a_clip_is_what_the_saved_feature_extractor_makes_of_it(tmp_path: Path) -> None:
    modality = spectrograms()
    modality.processor.save_pretrained(tmp_path)
    CONFIG.save_pretrained(tmp_path)
    saved = AutoFeatureExtractor.from_pretrained(tmp_path)
    for samples in (4_007, 8_000, 9_999):  # the last is longer than max_seconds
        found = row(tmp_path, samples)
        values = modality.read(found, None)["input_values"]
        wave, _ = soundfile.read(found["audio"]["path"], dtype="float32")
        batch = saved(wave, sampling_rate=16_000, return_tensors="pt")
        frames = min(1 + (samples - 400) // 160, 48)  # of half a second
        assert values.shape == (frames, 12) and batch["input_values"].shape == (1, -(-frames // 5) * 5, 12)
        torch.testing.assert_close(batch["input_values"][0, :frames], values, atol=1e-5, rtol=0)
        assert batch["attention_mask"].sum() == frames
        assert modality.length({"input_values": values}) <= samples


def test_a_batch_has_whole_rows_of_patches_and_masks_on_real_ones(tmp_path: Path) -> None:
    modality = spectrograms()
    objective = ObjectiveConfig.from_dict({"masking": MASKING, "views": 3})
    clips = [modality.read(row(tmp_path, samples), None) for samples in (8_000, 3_300, 5_100)]
    assert [len(clip["input_values"]) for clip in clips] == [48, 19, 30]
    examples = [clip | {"epoch": 0, "index": i} for i, clip in enumerate(clips)]
    batch = modality.collator(objective, seed=3)(examples)
    assert batch["input_values"].shape == (3, 50, 12) and batch["attention_mask"].sum(1).tolist() == [48, 19, 30]
    padding = batch["input_values"][batch["attention_mask"] == 0]
    assert torch.equal(padding, torch.full_like(padding, 6.6 / 10.8))
    masked = batch["masked"].unflatten(-1, (10, 4))  # (batch, views, time, frequency)
    # a row that holds a real frame is real: 10, 4 and 6 of them
    assert not masked[1, :, 4:].any() and not masked[2, :, 6:].any()
    visible = [int(len_ * 4 * 0.4) for len_ in (10, 4, 6)]
    assert [(40 - 4 * (10 - n)) - int(m[0].sum()) for n, m in zip((10, 4, 6), masked, strict=True)] == visible
    probe = modality.collator(None, seed=3)(examples[:1])
    assert set(probe) == {"input_values", "attention_mask"}


def test_raw_features_are_of_the_spectrogram(tmp_path: Path) -> None:
    clips = [spectrograms().read(row(tmp_path, samples), None) for samples in (8_000, 5_100)]
    (mean, _), (slices, _) = raw_features(SpectrogramData, clips, clips).values()
    mel = clips[1]["input_values"]
    assert mean.shape == (2, 24) and slices.shape == (2, 120)
    np.testing.assert_allclose(mean[1, :12], mel.mean(0), rtol=1e-5)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    modality = spectrograms()
    assert modality.smallest_grid(modality.args, CONFIG) == ((3, 4), "data.min_seconds = 0.2")
    with pytest.raises(BadExample, match=r"has 800 samples at 16 kHz, the encoder needs 1040"):
        modality.read(row(tmp_path, 800), None)
    with pytest.raises(ValueError, match=r"max_seconds = 60 is invalid.*768 rows of patches, use at most 38.4"):
        spectrograms(max_seconds=60)
    with pytest.raises(ValueError, match=r"data.std = 0"):
        spectrograms(std=0)
    with pytest.raises(ValueError, match=r"data.crop_to_shortest"):
        spectrograms(crop_to_shortest=True)
