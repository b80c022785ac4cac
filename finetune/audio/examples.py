"""Labelled clips: a row with audio -> {"input_values": (samples,) fp32}, mixed clips, and batches.

Mixup of sounds is two clips heard at once, with the labels of both (Zhang et al., arXiv 1710.09412). Which clip is
mixed in, and how loud, follows from (seed, epoch, index) of the first one, so it is the same whatever batch, worker or
resumed run reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ...pretraining.data.collators import Collator, generator
from ...pretraining.data.modality import BadExample, describe
from ...pretraining.modalities.audio import AudioData
from ...pretraining.modalities.sound_files import AUDIO
from ..examples import Examples
from .augment import add_noise, roll


CROPS = 10  # tries to find a part of a clip that is not silent


class ClipReader:
    """`(row, rng) -> example`; see [`Examples`].

    Args:
        rolled: shift and scale the waveform in training, see [`augment.roll`].
        noise: of the spectrogram in training, see [`augment.add_noise`].
    """

    def __init__(self, modality: AudioData, rolled: bool = False, noise: float = 0.0):
        self.modality, self.rolled, self.noise = modality, rolled, noise

    def __call__(self, row: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        for attempt in range(CROPS):
            try:
                return {"input_values": self._prepared(self.modality.waveform(row, rng), rng)}
            except BadExample as error:
                if error.problem == "too short":
                    raise self._too_short(row, error) from error
                # Sound events are padded with silence: a random crop may hold nothing else
                if error.problem != "silent" or attempt == CROPS - 1:
                    raise
                if rng is None:
                    raise self._silent(row, error) from error
        raise AssertionError("the last attempt returns or raises")

    def _prepared(self, wave: np.ndarray, rng: np.random.Generator | None) -> Tensor:
        if rng is not None and self.rolled:
            wave = roll(wave, rng)
        values = self.modality.prepared(wave)
        return values if rng is None or not self.noise else add_noise(values, self.noise, rng)

    def _too_short(self, row: Mapping[str, Any], error: BadExample) -> BadExample:
        needed = self.modality.shortest
        message = f"{describe(row, AUDIO.column)} is too short: the encoder needs {needed} samples at 16 kHz"
        return BadExample(f"{message}, remove it.", error.problem)

    def _silent(self, row: Mapping[str, Any], error: BadExample) -> BadExample:
        seconds = self.modality.args.max_seconds
        message = f"{describe(row, AUDIO.column)} is silent in its first data.max_seconds = {seconds:g}"
        return BadExample(f"{message}: raise that, or remove the clip.", error.problem)


@dataclass(frozen=True)
class Mixup:
    """How often, and how evenly, clips are mixed.

    Attributes:
        prob: share of the clips that another one is mixed into.
        beta: of Beta(beta, beta), which the share of the louder clip is drawn from. With 1 that share is uniform in
            [0.5, 1], as in the released recipe (`source_mixup: 0.5`); towards 0 the second clip is hardly heard.
    """

    prob: float
    beta: float

    def draw(self, rng: np.random.Generator, size: int) -> tuple[int, float] | None:
        """(index of the clip to mix in, share of the first clip in [0.5, 1]) or None, of a set of `size` clips."""
        mixed, other, share = rng.random() < self.prob, int(rng.integers(size)), float(rng.beta(self.beta, self.beta))
        return (other, max(share, 1 - share)) if mixed else None


class MixedExamples(Examples):
    """Training clips, some with another training clip mixed in, as `mixup` draws for (seed, epoch, row)."""

    def __init__(self, examples: Examples, mixup: Mixup, num_labels: int):
        self.__dict__.update(vars(examples))
        self.mixup, self.num_labels = mixup, num_labels

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        example = super().__getitem__(key)
        epoch, index = example["epoch"], example["index"]
        rng = generator(self.seed, epoch, int(self.kept[index]), "mixup")
        drawn = self.mixup.draw(rng, len(self))
        if drawn is None:
            return example
        number, share = drawn
        other = super().__getitem__((epoch, number))
        example["input_values"] = mix(example["input_values"], other["input_values"], share, rng)
        own, others = (as_vector(clip["labels"], self.num_labels) for clip in (example, other))
        example["labels"] = mix_labels(own, others, share)
        return example


def mix(first: Tensor, second: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """`share * first + (1 - share) * second`, (samples,) as long as `first`, with zero mean and unit variance.

    A longer `second` is cropped at random, a shorter one starts at random and is silent elsewhere. (The original
    divides by `sqrt(share^2 + (1 - share)^2)`, which is the same for clips that do not correlate.)
    """
    start = int(rng.integers(abs(len(first) - len(second)) + 1))
    if len(second) >= len(first):
        second = second[start : start + len(first)]
    else:
        second = torch.nn.functional.pad(second, (start, len(first) - len(second) - start))
    mixed = share * first + (1 - share) * second
    return (mixed - mixed.mean()) / torch.sqrt(mixed.var(correction=0) + 1e-7)


def mix_labels(first: Tensor, second: Tensor, share: float) -> Tensor:
    """`share * first + (1 - share) * second`, (labels,) fp32."""
    return share * first.float() + (1 - share) * second.float()


class WeightedExamples(Examples):
    """An epoch of `draws` training clips, drawn without replacement: those with rare labels are likelier.

    The weight of a clip is the sum over its labels of 1 / clips with that label. What is drawn follows from the seed
    and the epoch.
    """

    def __init__(self, examples: Examples, draws: int):
        self.__dict__.update(vars(examples))
        self.examples, self.draws, self.lengths, self.drawn = examples, draws, None, (-1, np.empty(0, dtype=np.int64))
        labels = np.asarray(examples.labels)
        if labels.ndim == 1:
            self.weights = 1 / np.bincount(labels)[labels]
        else:
            self.weights = labels @ (1 / np.maximum(labels.sum(0), 1))

    def _draw(self, epoch: int) -> np.ndarray:
        """The clips of an epoch, by their index: (draws,)."""
        if self.drawn[0] != epoch:
            times = generator(self.seed, epoch, 0, "draw").exponential(size=len(self.weights))
            # the first of exponential times at such rates come in the order of drawing one after the other
            with np.errstate(divide="ignore"):
                self.drawn = epoch, np.argsort(times / self.weights, kind="stable")[: self.draws]
        return self.drawn[1]

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return self.examples[epoch, int(self._draw(epoch)[index])]


class ClipCollator:
    """Batches as `collator` makes them of clips, and labels (batch, labels) fp32."""

    def __init__(self, collator: Collator, num_labels: int):
        self.collator, self.num_labels = collator, num_labels

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch, _ = self.collator.inputs(examples)
        return {**batch, "labels": torch.stack([as_vector(e["labels"], self.num_labels) for e in examples])}


def as_vector(label: int | Tensor, num_labels: int) -> Tensor:
    """A class number as a (labels,) fp32 vector of 0 and one 1; a vector as it is."""
    label = torch.as_tensor(label)
    return label if label.dim() else one_hot(label, num_labels).float()


def real_frames(model: nn.Module, inputs: Mapping[str, Tensor], frames: int) -> Tensor | None:
    """Bool (batch, frames), False on padding, of a model with a head; None where nothing is padded."""
    if "attention_mask" not in inputs:
        return None
    model = getattr(model, "module", model)  # out of DistributedDataParallel
    encoder: Any = model.base_model
    extra = getattr(encoder.config, "num_extra_tokens", 0)
    return encoder._get_feature_vector_attention_mask(frames + extra, inputs["attention_mask"])[:, extra:].bool()
