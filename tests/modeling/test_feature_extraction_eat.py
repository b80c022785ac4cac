"""EAT's spectrograms against those of its own code, and what ours adds: batches of any lengths."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ASTFeatureExtractor

from data2vec.modeling.feature_extraction_eat import EatFeatureExtractor
from tests.reference import GOLDEN


FOLDER = GOLDEN / "eat_fbank"
CLIPS = json.loads((FOLDER / "config.json").read_text())["clips"]


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: f"{clip['index']}-{clip['name']}")
def test_spectrograms_equal_those_of_eat(clip: dict[str, Any]) -> None:
    """Padded, cut, of other means and deviations, silent, resampled before."""
    io, number = load_file(FOLDER / "io.safetensors"), clip["index"]
    extractor = EatFeatureExtractor(
        max_length=clip["target_length"],
        mean=clip["mean"],
        std=clip["std"],
        padding="max_length",
        pad_to_multiple_of=1,
    )
    batch = extractor(io[f"{number}.waveform"].numpy(), sampling_rate=16_000, return_tensors="pt")
    torch.testing.assert_close(batch["input_values"], io[f"{number}.source"], atol=5e-5, rtol=0)
    assert batch["attention_mask"].sum() == min(clip["frames"], clip["target_length"])


def test_features_are_those_of_the_stock_class() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 16_007).astype(np.float32)
    (stock,) = ASTFeatureExtractor(max_length=98)(wave, sampling_rate=16_000)["input_values"]
    ours = EatFeatureExtractor(mean=-4.2677393, std=4.5689974).features(torch.from_numpy(wave))
    torch.testing.assert_close(ours, torch.from_numpy(stock), atol=1e-4, rtol=0)


def test_a_batch_is_padded_to_whole_rows_of_patches() -> None:
    extractor = EatFeatureExtractor(mean=-6.627, std=5.359, num_mel_bins=24, pad_to_multiple_of=7)
    generator = np.random.default_rng(0)
    clips = [generator.normal(0, 0.1, samples).astype(np.float32) for samples in (5_000, 3_001, 400)]
    batch = extractor(clips, sampling_rate=16_000, return_tensors="pt")
    assert batch["input_values"].shape == (3, 35, 24)  # of 29 frames
    assert batch["attention_mask"].sum(1).tolist() == [29, 17, 1]
    for clip, values, mask in zip(clips, batch["input_values"], batch["attention_mask"].bool(), strict=True):
        torch.testing.assert_close(values[mask], extractor.features(torch.from_numpy(clip)))
        assert torch.equal(values[~mask], torch.full_like(values[~mask], 6.627 / (2 * 5.359)))
    alone = extractor(clips[1], sampling_rate=16_000, return_tensors="pt", return_attention_mask=False)
    assert list(alone) == ["input_values"] and alone["input_values"].shape == (1, 21, 24)


def test_what_is_saved_says_how_to_read_with_other_statistics(tmp_path: Any) -> None:
    EatFeatureExtractor(padding="max_length", return_attention_mask=False, max_length=512).save_pretrained(tmp_path)
    again = EatFeatureExtractor.from_pretrained(tmp_path, mean=-6.846, std=5.565)
    assert (again.padding, again.return_attention_mask, again.max_length) == ("max_length", False, 512)
    assert again.padding_value == pytest.approx(0.615, abs=1e-3)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_eat.EatFeatureExtractor"}
    assert (tmp_path / "feature_extraction_eat.py").is_file()
    assert not {"mel_filters", "window"} & set(saved)


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(ValueError, match="a clip has 399 samples: pass 400 or more"):
        EatFeatureExtractor()(np.zeros(399, dtype=np.float32), sampling_rate=16_000)
    with pytest.raises(ValueError, match="sampling rate of 16000"):
        EatFeatureExtractor()(np.zeros(4_000, dtype=np.float32), sampling_rate=44_100)
    for wrong, words in ((np.zeros(4_000, dtype=np.int16), "int16"), (np.full(4_000, np.nan, np.float32), "NaN")):
        with pytest.raises(ValueError, match=words):
            EatFeatureExtractor()(wrong, sampling_rate=16_000)
    for field, value in (("std", 0.0), ("max_length", 0), ("pad_to_multiple_of", 0), ("std", float("nan"))):
        with pytest.raises(ValueError, match=f"{field} = {value}"):
            EatFeatureExtractor(**{field: value})
    with pytest.raises(ValueError, match="padding = 'both' is invalid"):
        EatFeatureExtractor(padding="both")
