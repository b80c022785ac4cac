"""Raw features, against transformers' own spectrogram and naive counts."""

import math

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from data2vec.pretraining.evaluation.raw_features import log_mel, raw_features
from data2vec.pretraining.modalities.audio import AudioData
from data2vec.pretraining.modalities.image import ImageData
from data2vec.pretraining.modalities.text import TextData


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def of_audio(*waves):
    return [{"input_values": wave, "labels": 0} for wave in waves]


def test_pixels_are_the_image():
    train, test = ([{"pixel_values": torch.randn(3, 5, 7)} for _ in range(count)] for count in (4, 2))
    ((name, (train_x, test_x)),) = raw_features(ImageData, train, test).items()
    assert name == "pixels" and train_x.shape == (4, 105) and test_x.shape == (2, 105)
    np.testing.assert_array_equal(test_x[1], test[1]["pixel_values"].flatten())


def test_large_images_are_averaged_down():
    image = torch.randn(1, 64, 96)
    ((_, (features, _)),) = raw_features(ImageData, [{"pixel_values": image}], [{"pixel_values": image}]).items()
    expected = image.reshape(32, 2, 32, 3).mean((1, 3)).flatten()
    np.testing.assert_allclose(features[0], expected, atol=1e-6)


def test_log_mel_is_transformers_spectrogram():
    wave = torch.randn(5003)
    expected = spectrogram(
        wave.numpy(),
        window_function(400, "hann"),
        frame_length=400,
        hop_length=160,
        power=2.0,
        pad_mode="constant",
        mel_filters=mel_filter_bank(201, 40, 20.0, 8000.0, 16_000, mel_scale="htk"),
        mel_floor=0.0,
    )  # (mels, frames)
    np.testing.assert_allclose(log_mel(wave), np.log(expected + 1e-6), atol=1e-3)


def test_log_mel_is_loudest_where_the_tone_is():
    time = torch.arange(16_000) / 16_000
    mel_of_hertz = lambda hertz: 2595 * math.log10(1 + hertz / 700)  # noqa: E731
    for hertz in (300.0, 1100.0, 5000.0):
        loudest = int(log_mel(torch.sin(2 * math.pi * hertz * time)).mean(1).argmax())
        share = (mel_of_hertz(hertz) - mel_of_hertz(20)) / (mel_of_hertz(8000) - mel_of_hertz(20))
        assert abs(loudest - (share * 41 - 1)) <= 1


def test_audio_features_summarise_the_spectrogram():
    waves = [torch.randn(5003), torch.randn(3001)]
    features = raw_features(AudioData, of_audio(*waves), of_audio(waves[1]))
    statistics, slices = features["log-mel mean and spread"], features["log-mel in ten slices"]
    mel = log_mel(waves[1]).numpy()
    for row in (statistics[0][1], statistics[1][0]):
        np.testing.assert_allclose(row, np.concatenate([mel.mean(1), mel.std(1)]), atol=1e-5)
    assert slices[0].shape == (2, 400) and statistics[0].shape == (2, 80)
    thirds = log_mel(torch.cat([torch.zeros(8000), torch.randn(8000)])).unflatten(1, (1, -1))
    assert thirds.isfinite().all()


def test_slices_follow_time():
    wave = torch.cat([torch.zeros(8000), torch.randn(8000)])  # silence, then noise
    (_, (features, _)), *_ = list(raw_features(AudioData, of_audio(wave), of_audio(wave)).items())[1:]
    loudness = features[0].reshape(40, 10).mean(0)
    assert loudness[:4].max() < loudness[6:].min()


@pytest.mark.parametrize("wave", [torch.randn(23), torch.zeros(1000)])
def test_short_and_silent_clips_have_features(wave):
    for train_x, _ in raw_features(AudioData, of_audio(wave), of_audio(wave)).values():
        assert np.isfinite(train_x).all()


def test_token_counts_are_scaled_tf_idf():
    train = [[5, 5, 5, 7], [7, 9], [7, 11, 13]]
    test = [[9, 9, 17]]  # 17 was not seen
    examples = [[{"input_ids": torch.tensor(ids)} for ids in split] for split in (train, test)]
    ((_, (train_x, test_x)),) = raw_features(TextData, *examples).items()
    vocabulary = [5, 7, 9, 11, 13]

    def row(ids):
        weights = []
        for token in vocabulary:
            documents = sum(token in text for text in train)
            count = ids.count(token)
            weights.append((1 + math.log(count) if count else 0) * (1 + math.log((1 + 3) / (1 + documents))))
        return np.array(weights) / np.linalg.norm(weights) * math.sqrt(5)

    order = np.argsort([str(token) for token in vocabulary])  # columns may stand in any order
    for features, texts in ((train_x, train), (test_x, test)):
        for got, ids in zip(features.toarray(), texts, strict=True):
            np.testing.assert_allclose(sorted(got), sorted(row(ids)), atol=1e-5)
            assert np.linalg.norm(got) == pytest.approx(math.sqrt(5), rel=1e-5)
    assert len(order) == train_x.shape[1]
