"""Feature extractor of EAT: 16 kHz waveforms -> normalised log-mel spectrograms, as Kaldi computes them."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ASTFeatureExtractor, BatchFeature
from transformers.audio_utils import mel_filter_bank


FRAME, HOP, FFT = 400, 160, 512  # samples: 25 ms every 10 ms
PREEMPHASIS, FLOOR = 0.97, torch.finfo(torch.float32).eps


class EatFeatureExtractor(ASTFeatureExtractor):
    """AST's features, computed for all frames at once and padded only to the longest clip of a batch.

    `attention_mask` says which frames are real; `ASTFeatureExtractor` pads every clip to `max_length` frames and does
    not say. As in EAT (arXiv 2401.03497), padding is 0 before it is normalised, and the first frames of a clip that is
    too long are kept.

    Args:
        num_mel_bins, sampling_rate, do_normalize: as in `ASTFeatureExtractor`.
        max_length (`int`): most frames of a clip, of 10 ms each.
        mean, std (`float`): of the log-mel features of a data set; they are divided by twice `std`. EAT's: AudioSet
            -4.268 and 4.569, ESC-50 -6.627 and 5.359, Speech Commands v2 -6.846 and 5.565.
        padding (`str`): `"longest"`, or `"max_length"` as EAT does.
        pad_to_multiple_of (`int`): frames that a patch spans.
        return_attention_mask (`bool`): off, the model reads padding as if it were sound, as EAT does.

    Raises:
        ValueError: an argument is out of its range; a clip is shorter than a frame, not finite, or of integers.
    """

    _auto_class = "AutoFeatureExtractor"

    def __init__(
        self,
        num_mel_bins: int = 128,
        max_length: int = 1024,
        mean: float = -4.268,
        std: float = 4.569,
        padding: str = "longest",
        pad_to_multiple_of: int = 16,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ):
        if padding not in ("longest", "max_length"):
            raise ValueError(f"padding = {padding!r} is invalid: use 'longest' or 'max_length'.")
        for name, value in {"max_length": max_length, "std": std, "pad_to_multiple_of": pad_to_multiple_of}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} = {value!r}: must be a positive number.")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "At least one mel filter")  # the fourth is empty, in Kaldi as well
            super().__init__(
                num_mel_bins=num_mel_bins,
                max_length=max_length,
                mean=mean,
                std=std,
                return_attention_mask=return_attention_mask,
                **{**kwargs, "feature_size": num_mel_bins},
            )
            filters = mel_filter_bank(
                num_frequency_bins=FFT // 2 + 1,
                num_mel_filters=num_mel_bins,
                min_frequency=20,
                max_frequency=self.sampling_rate // 2,
                sampling_rate=self.sampling_rate,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )
        self.padding, self.pad_to_multiple_of = padding, pad_to_multiple_of
        self.padding_value = float(self.normalize(0.0)) if self.do_normalize else 0.0
        self.mel_filters = filters.astype("float32")  # (frequencies, mel bins)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """`(samples,)` fp32 -> `(frames, mel bins)`, not normalised; samples that do not fill a frame are dropped."""
        if len(waveform) < FRAME:
            raise ValueError(f"a clip has {len(waveform)} samples: pass {FRAME} or more, which make a frame.")
        if not waveform.is_floating_point():
            raise ValueError(f"a clip holds {waveform.dtype}: pass floats in [-1, 1], 16-bit integers over 32768.")
        if not waveform.isfinite().all():
            raise ValueError("a clip holds NaN or infinite samples: repair or remove it.")
        frames = (waveform - waveform.mean()).unfold(0, FRAME, HOP)  # (frames, samples of a frame)
        frames = frames - frames.mean(1, keepdim=True)
        before = nn.functional.pad(frames.unsqueeze(0), (1, 0), mode="replicate").squeeze(0)[:, :-1]
        frames = (frames - PREEMPHASIS * before) * torch.hann_window(FRAME, periodic=False)
        power = torch.fft.rfft(frames, FFT).abs().square()  # (frames, frequencies)
        return (power @ torch.from_numpy(self.mel_filters)).clamp(min=FLOOR).log()

    def features(self, waveform: Tensor) -> Tensor:
        """A clip `(samples,)` fp32 in [-1, 1] -> `(frames, mel bins)`, normalised, without padding."""
        found = self.log_mel(waveform)[: self.max_length]
        if self.do_normalize:
            found = self.normalize(found)
        return found

    def normalize(self, input_values: Any) -> Any:
        """As the stock class does, of a number, an array or a tensor."""
        return (input_values - self.mean) / (2 * self.std)

    def _extract_fbank_features(self, waveform: Any, max_length: int) -> Any:
        return self.log_mel(torch.as_tensor(waveform).flatten())[:max_length].numpy()

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: Any = None,
        padding: str | None = None,
        return_attention_mask: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Args:
            raw_speech: a clip `(samples,)` in [-1, 1], 16 kHz, mono, or a list of several, of any lengths.
            padding, return_attention_mask: for this call, in place of the constructor's.

        Returns:
            `input_values` `(batch, frames, mel bins)` and `attention_mask` `(batch, frames)`, 1 = real.
        """
        return self.pad(
            super().__call__(raw_speech, sampling_rate=sampling_rate),
            padding=padding or self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )
