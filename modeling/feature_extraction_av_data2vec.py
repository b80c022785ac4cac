"""Prepares speech and mouth crops as AV-data2vec's pretraining did, with AV-HuBERT's features."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedConfig


WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms
PREEMPHASIS = 0.97
FULL_SCALE = 32768  # of samples of 16 bits, which the energies are those of
IMAGE_MEAN, IMAGE_STD = (0.421,), (0.165,)  # of the grey of mouth crops, from 0 to 1


class AvData2VecFeatureExtractor(FeatureExtractionMixin):
    """Log-mel energies, four frames of 10 ms in one, and grey crops of a mouth, both at 25 frames per second.

    Args:
        num_mel_bins, num_stacked_frames (`int`): of an audio frame.
        image_size (`int`): height and width that a crop of the mouth is cut to, at its centre.
        sampling_rate (`int`): of the sound.
        image_mean, image_std (`list[float]`): of the grey of a crop, from 0 to 1.
    """

    model_input_names = ["input_features", "pixel_values", "attention_mask"]
    _auto_class = "AutoFeatureExtractor"

    def __init__(
        self,
        num_mel_bins: int = 26,
        num_stacked_frames: int = 4,
        image_size: int = 88,
        sampling_rate: int = 16_000,
        image_mean: Any = IMAGE_MEAN,
        image_std: Any = IMAGE_STD,
        **kwargs: Any,
    ) -> None:
        for name, value in (
            ("num_mel_bins", num_mel_bins),
            ("num_stacked_frames", num_stacked_frames),
            ("image_size", image_size),
        ):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be 1 or more.")
        self.num_mel_bins, self.num_stacked_frames = num_mel_bins, num_stacked_frames
        self.image_size, self.sampling_rate = image_size, sampling_rate
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        super().__init__(**kwargs)

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "AvData2VecFeatureExtractor":
        """What an encoder of `config` reads."""
        return cls(config.num_mel_bins, config.num_stacked_frames, config.image_size)

    def log_mel(self, wave: Tensor) -> Tensor:
        """`(samples,)` -> `(10 ms frames, bins)`, natural logarithm, as python_speech_features computes it."""
        wave = wave.double() if not wave.is_floating_point() else wave.double() * FULL_SCALE
        wave = torch.cat((wave[:1], wave[1:] - PREEMPHASIS * wave[:-1]))
        frames = 1 + max(0, math.ceil((len(wave) - WINDOW) / HOP))
        wave = F.pad(wave, (0, (frames - 1) * HOP + WINDOW - len(wave)))
        power = torch.fft.rfft(wave.unfold(0, WINDOW, HOP), FFT).abs().square() / FFT  # (frames, frequencies)
        energies = power @ mel_bank(self.num_mel_bins, self.sampling_rate).T
        return energies.clamp(min=torch.finfo(torch.float64).eps).log()

    def audio(self, wave: Any, frames: int | None = None) -> Tensor:
        """A clip `(samples,)`, whole numbers of 16 bits or -1 to 1 -> `(frames, bins * stacked)`, each of mean 0 and
        spread 1; `frames` are those of the video, which a longer sound is cut to and a shorter one is padded to.
        """
        mel = self.log_mel(torch.as_tensor(wave))
        stacked = F.pad(mel, (0, 0, 0, -len(mel) % self.num_stacked_frames)).view(
            -1, self.num_stacked_frames, mel.shape[1]
        )
        stacked = stacked.flatten(1).float()
        if frames is not None:
            stacked = F.pad(stacked[:frames], (0, 0, 0, max(frames - len(stacked), 0)))
        return F.layer_norm(stacked, stacked.shape[1:])

    def video(self, frames: Any, top: int | None = None, left: int | None = None) -> Tensor:
        """`(frames, height, width)` or `(..., 1)`, grey from 0 to 255 -> `(frames, 1, image_size, image_size)`.

        Args:
            top, left: where the crop is, at the centre if `None`.
        """
        clip, size = torch.as_tensor(frames), self.image_size
        clip = clip.squeeze(3) if clip.dim() == 4 and clip.shape[3] == 1 else clip
        if clip.dim() != 3 or not len(clip) or min(clip.shape[1:]) < size:
            raise ValueError(
                f"a video has the shape {tuple(clip.shape)}: pass (frames, height, width), grey, of at least {size} x "
                f"{size} pixels."
            )
        centre = [round((side - size) / 2) for side in clip.shape[1:]]
        top, left = (middle if place is None else place for place, middle in zip((top, left), centre, strict=True))
        cut = clip[:, top : top + size, left : left + size].float() / 255
        return ((cut - self.image_mean[0]) / self.image_std[0]).unsqueeze(1)

    def __call__(
        self, audio: Any = None, videos: Any = None, sampling_rate: int | None = None, **kwargs: Any
    ) -> BatchFeature:
        """
        Args:
            audio: a clip `(samples,)`, or a list of such.
            videos: mouth crops of the same clip at 25 frames per second, `(frames, height, width)`, or a list of such.
            sampling_rate: of the sound, to be sure.

        Returns:
            `input_features` and `pixel_values`, what was given of the two, and `attention_mask` where clips differ in
            length.

        Raises:
            ValueError: another shape or rate, or no input.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"sampling_rate = {sampling_rate}: resample to {self.sampling_rate} first.")
        crops = None if videos is None else [self.video(clip) for clip in _listed(videos)]
        waves = None if audio is None else _listed(audio)
        if waves is None and crops is None:
            raise ValueError("Pass audio, videos or both.")
        if waves is not None and crops is not None and len(waves) != len(crops):
            raise ValueError(f"There are {len(waves)} sounds and {len(crops)} videos: pass one for each.")
        batch: dict[str, Tensor] = {}
        lengths = torch.tensor([])
        if waves is not None:
            frames = [None] * len(waves) if crops is None else [len(clip) for clip in crops]
            sounds = [self.audio(wave, count) for wave, count in zip(waves, frames, strict=True)]
            lengths = torch.tensor([len(sound) for sound in sounds])
            batch["input_features"] = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)
        if crops is not None:
            lengths = torch.tensor([len(clip) for clip in crops])
            batch["pixel_values"] = torch.nn.utils.rnn.pad_sequence(crops, batch_first=True)
        if (lengths != lengths.max()).any():
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return BatchFeature(batch)


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def mel_bank(bins: int, rate: int) -> Tensor:
    """Triangles `(bins, FFT / 2 + 1)` whose corners are rounded down to frequencies of the transform."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, bins + 2, dtype=torch.float64) / 2595) - 1)
    places = ((FFT + 1) * corners / rate).floor()
    steps = torch.arange(FFT // 2 + 1, dtype=torch.float64)
    low, middle, high = (places[start : start + bins].unsqueeze(1) for start in (0, 1, 2))
    rising = torch.where((steps >= low) & (steps < middle), (steps - low) / (middle - low).clamp(min=1), 0)
    falling = torch.where((steps >= middle) & (steps < high), (high - steps) / (high - middle).clamp(min=1), 0)
    return rising + falling
