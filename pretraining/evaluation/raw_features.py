"""The row that an encoder has to beat: features that need no training, from the same examples that it reads."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from transformers.audio_utils import mel_filter_bank

from ..data.modality import Modality, Registry
from ..modalities.audio import AudioData
from ..modalities.av_speech import AvSpeechData
from ..modalities.image import ImageData
from ..modalities.points import PointsData
from ..modalities.skeleton_video import SkeletonVideoData
from ..modalities.spectrogram import SpectrogramData
from ..modalities.text import TextData
from ..modalities.volume import VolumeData
from .probe import Example, Features


SIDE = 32  # larger images are averaged down to this, or a classifier on pixels takes minutes
MELS = 40
SLICES = 10
SAMPLING_RATE = 16_000  # Hz
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms


Pair = tuple[Features, Features]


def raw_features(modality: type[Modality[Any]], train: Sequence[Example], test: Sequence[Example]) -> dict[str, Pair]:
    """Raw features of a probe's examples, by their names: {name: (of train, of test)}, (examples, dim) float32 each.

    `train` and `test` are examples as the collator takes them; what has to be fitted is fitted on `train`.
    """
    return {name: compute(train, test) for name, compute in RAW_FEATURES[modality].items()}


def pixels(train: Sequence[Example], test: Sequence[Example]) -> Pair:
    """All pixels, of images no larger than 32 x 32; larger ones are averaged down."""

    def flat(examples: Sequence[Example]) -> np.ndarray:
        images = [torch.as_tensor(example["pixel_values"]) for example in examples]
        height, width = images[0].shape[-2:]
        size = (min(height, SIDE), min(width, SIDE))
        return torch.stack([adaptive_avg_pool2d(image.float(), size).flatten() for image in images]).numpy()

    return flat(train), flat(test)


def voxels(train: Sequence[Example], test: Sequence[Example]) -> Pair:
    """All voxels, averaged down to 8 x 16 x 16."""

    def flat(examples: Sequence[Example]) -> np.ndarray:
        volumes = (torch.as_tensor(example["voxel_values"]).float() for example in examples)
        return torch.stack([adaptive_avg_pool3d(volume, (8, 16, 16)).flatten() for volume in volumes]).numpy()

    return flat(train), flat(test)


def log_mel(wave: Tensor, window: int = WINDOW, hop: int = HOP, center: bool = True) -> Tensor:
    """Natural logarithm of 40 mel energies of waves (..., samples): (..., mels, frames) float32.

    Frame i is around sample i * hop or, with `center=False`, begins there; `window` and `hop` are in samples.
    """
    power = (
        torch.stft(
            wave.float(),
            window,
            hop,
            window=torch.hann_window(window, device=wave.device),
            center=center,
            pad_mode="constant",  # a wave may be shorter than a window
            return_complex=True,
        )
        .abs()
        .square()
    )  # (..., frequencies, frames)
    return torch.log(_mel_bank(window).to(wave.device) @ power + 1e-6)


@cache
def _mel_bank(window: int) -> Tensor:
    """(mels, frequencies) float32."""
    bank = mel_filter_bank(window // 2 + 1, MELS, 20.0, SAMPLING_RATE / 2, SAMPLING_RATE, norm=None, mel_scale="htk")
    return torch.from_numpy(bank).float().T


def mel_statistics(mel: Tensor) -> Tensor:
    """Mean and standard deviation over time of each mel: (mels, frames) -> (2 * mels,)."""
    return torch.cat((mel.mean(1), mel.std(1, correction=0)))


def mel_slices(mel: Tensor) -> Tensor:
    """A log-mel spectrogram averaged in ten slices of time: (mels, frames) -> (10 * mels,)."""
    return adaptive_avg_pool1d(mel, SLICES).flatten()


def film_slices(train: Sequence[Example], test: Sequence[Example]) -> Pair:
    """Frames of 8 x 8 pixels, averaged in four slices of time: (examples, 256 * channels)."""

    def flat(examples: Sequence[Example]) -> np.ndarray:
        found = []
        for example in examples:
            small = adaptive_avg_pool2d(torch.as_tensor(example["pixel_values"]), (8, 8)).flatten(1)  # (frames, dim)
            found.append(adaptive_avg_pool1d(small.T, 4).flatten())
        return torch.stack(found).numpy()

    return flat(train), flat(test)


def sound_slices(train: Sequence[Example], test: Sequence[Example]) -> Pair:
    """Stacked log-mel frames, averaged in four slices of time: (examples, 4 * bins)."""
    train_x, test_x = (
        torch.stack([adaptive_avg_pool1d(torch.as_tensor(e["input_features"]).T, 4).flatten() for e in of]).numpy()
        for of in (train, test)
    )
    return train_x, test_x


def token_counts(train: Sequence[Example], test: Sequence[Example]) -> Pair:
    """tf-idf of each text's ids, sparse.

    Standardised columns would undo the idf weights. Instead all are scaled by one factor, to the row norm of
    standardised features, sqrt(dim), so that the same penalties of a classifier fit.
    """
    vectorizer = TfidfVectorizer(
        analyzer=lambda example: example["input_ids"].tolist(), sublinear_tf=True, dtype=np.float32
    )
    train_x, test_x = vectorizer.fit_transform(train), vectorizer.transform(test)
    scale = np.float32(np.sqrt(train_x.shape[1]))
    return train_x * scale, test_x * scale


PAIRS = 4096  # of points, whose distances are counted
BINS = np.linspace(0, 2, 65)  # in the unit sphere
WIDTHS = (3, 64, 256)


def point_distances(train: Sequence[Example], test: Sequence[Example]) -> Pair:
    """How often two random points are how far apart (D2; Osada et al., 2002): (examples, 64)."""

    def shares(example: Example) -> np.ndarray:
        points = np.asarray(example["point_values"])
        first, second = np.random.default_rng(0).integers(len(points), size=(2, PAIRS))
        counts, _ = np.histogram(np.linalg.norm(points[first] - points[second], axis=1), BINS)
        return (counts / PAIRS).astype(np.float32)

    train_x, test_x = (np.stack([shares(example) for example in examples]) for examples in (train, test))
    return train_x, test_x


def random_pointnet(train: Sequence[Example], test: Sequence[Example]) -> Pair:
    """A PointNet that nobody trained: largest values and means of 256 random features of each point."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        (
            torch.randn(inside, outside, generator=generator) * (2 / inside) ** 0.5,
            torch.randn(outside, generator=generator),
        )
        for inside, outside in zip(WIDTHS, WIDTHS[1:], strict=False)
    ]

    def features(example: Example) -> Tensor:
        points = torch.as_tensor(example["point_values"])
        for weight, bias in layers:
            points = torch.relu(points @ weight + bias)
        return torch.cat((points.amax(0), points.mean(0)))

    train_x, test_x = (torch.stack([features(e) for e in examples]).numpy() for examples in (train, test))
    return train_x, test_x


def _each(
    describe: Callable[[Tensor], Tensor],
    mel_of: Callable[[Tensor], Tensor],
    train: Sequence[Example],
    test: Sequence[Example],
) -> Pair:
    train_x, test_x = (
        torch.stack([describe(mel_of(torch.as_tensor(example["input_values"]))) for example in examples]).numpy()
        for examples in (train, test)
    )
    return train_x, test_x


def _of_mel(mel_of: Callable[[Tensor], Tensor]) -> dict[str, Callable[[Sequence[Example], Sequence[Example]], Pair]]:
    """Args: mel_of: an example's input -> its log-mel spectrogram, (mels, frames)."""
    return {
        "log-mel mean and spread": partial(_each, mel_statistics, mel_of),
        "log-mel in ten slices": partial(_each, mel_slices, mel_of),
    }


# name of the features -> how they are made
RAW_FEATURES: Registry[dict[str, Callable[[Sequence[Example], Sequence[Example]], Pair]]] = Registry(
    "raw features (pretraining/evaluation/raw_features.py)",
    {
        ImageData: {"pixels": pixels},
        AudioData: _of_mel(log_mel),
        SpectrogramData: _of_mel(Tensor.t),
        SkeletonVideoData: {"frames in four slices": film_slices},
        AvSpeechData: {"frames in four slices": film_slices, "log-mel in four slices": sound_slices},
        TextData: {"token counts (tf-idf)": token_counts},
        VolumeData: {"voxels": voxels},
        PointsData: {"distances of points (D2)": point_distances, "random PointNet": random_pointnet},
    },
)
