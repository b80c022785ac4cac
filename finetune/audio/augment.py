"""Augmentation of training clips as EAT does it (arXiv 2401.03497, and its code): waveforms, then spectrograms."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...pretraining.data.collators import generator


SHIFT = 10  # frames that a noisy spectrogram moves by at most


def roll(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A clip (samples,) shifted in a circle by a uniform offset, times 0.5 + Beta(10, 10)."""
    gain = np.float32(0.5 + rng.beta(10, 10))
    return np.roll(wave, int(rng.integers(len(wave)))) * gain


def add_noise(spectrogram: Tensor, most: float, rng: np.random.Generator) -> Tensor:
    """Uniform noise of [0, 1) times U(0, `most`) on a spectrogram (frames, mel bins), which moves by a few frames."""
    noise = rng.random(tuple(spectrogram.shape), dtype=np.float32) * np.float32(most * rng.random())
    return torch.roll(spectrogram + torch.from_numpy(noise), int(rng.integers(-SHIFT, SHIFT)), dims=0)


class SpecAugment:
    """Batches with a stripe of mel bins and one of frames at 0 in each clip (Park et al., arXiv 1904.08779).

    A stripe covers a uniform share, up to `share`, of the bins or frames. What is drawn follows from the run's seed
    and the epoch and index of an example.

    Args:
        collate: examples -> batch, of which `input_values` (batch, frames, mel bins) is covered.
    """

    def __init__(self, collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]], share: float, seed: int):
        self.collate, self.share, self.seed = collate, share, seed

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = self.collate(examples)
        values = batch["input_values"].clone()
        for spectrogram, example in zip(values, examples, strict=True):
            rng = generator(self.seed, example["epoch"], example["index"], "spec_augment")
            for axis, size in enumerate(spectrogram.shape):
                width = rng.random() * self.share * size
                start = int(rng.random() * (size - width))
                spectrogram.narrow(axis, start, int(width)).zero_()
        return batch | {"input_values": values}
