"""Audio: a sound file of any format and rate -> one normalised 16 kHz mono crop.

As in the paper (section 4.2 and its LibriSpeech recipe): clips under 2 s are left out, longer ones than 320k samples
are cropped at random, every input has zero mean and unit variance. The crop is decoded alone, so a file of an hour
costs as much as one of 20 s, and it is normalised after cropping: what the model sees is then exactly what
`Wav2Vec2FeatureExtractor` makes of the same samples (the original normalised before it cropped).
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import soundfile
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, PreTrainedConfig, Wav2Vec2FeatureExtractor

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.embed_audio import ConvFrames
from ..data.arguments import DataArguments
from ..data.bad_examples import BadExample
from ..data.collators import Batch, Collator, Example, TokenLayout, generator, pad
from ..data.modality import Modality, Row, Rows, Survey, describe
from .sound_files import AUDIO, SAMPLING_RATE, file_of, headers_of, read_crop, read_headers


@dataclass(kw_only=True)
class AudioDataArguments(DataArguments):
    """The `data` fields of an audio recipe."""

    max_seconds: float = field(default=20.0, metadata={"help": "crop longer clips to this, at random"})
    min_seconds: float = field(default=2.0, metadata={"help": "skip shorter clips"})
    skip_above_seconds: float | None = field(
        default=None, metadata={"help": "skip clips longer than this instead of cropping them"}
    )
    batch_seconds: float | None = field(
        default=None,
        metadata={
            "help": "limit of audio in a device's batch, padding included; replaces per_device_train_batch_size"
        },
    )
    bucket_width: float = field(
        default=0.05,
        metadata={
            "help": "clips of a batch differ in length by about this share; a larger share mixes batches better "
            "and pads more"
        },
    )
    crop_to_shortest: bool = field(
        default=False,
        metadata={"help": "crop every clip to the shortest of the batch instead of padding, as the original does"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.max_seconds > 0, "max_seconds", "use a positive number")
        shortest_first = 0 <= self.min_seconds <= self.max_seconds
        self.require(shortest_first, "min_seconds", f"use 0 to max_seconds = {self.max_seconds}")
        limit = self.skip_above_seconds
        self.require(
            limit is None or limit >= self.min_seconds,
            "skip_above_seconds",
            f"use min_seconds = {self.min_seconds} or more, or null to crop long clips",
        )
        self.require(self.bucket_width > 0, "bucket_width", "use a positive share, e.g. 0.05")
        self.require(
            self.batch_seconds is None or self.batch_seconds >= self.max_seconds,
            "batch_seconds",
            f"one clip of max_seconds = {self.max_seconds} does not fit: raise it, or lower max_seconds",
        )

    @property
    def batch_cost(self) -> int | None:
        return None if self.batch_seconds is None else int(self.batch_seconds * SAMPLING_RATE)


class AudioCollator(Collator):
    """Pads to the longest clip with zeros, or crops every clip at random to the shortest (as the original)."""

    def __init__(
        self, objective: ObjectiveConfig | None, num_frames: ConvFrames, seed: int, crop_to_shortest: bool = False
    ):
        super().__init__(objective, seed)
        self.num_frames, self.crop_to_shortest = num_frames, crop_to_shortest

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """input_values (batch, samples) fp32, and attention_mask (batch, samples) long where a clip is padded."""
        clips = [example["input_values"] for example in examples]
        if self.crop_to_shortest:
            shortest = min(map(len, clips))
            clips = [_crop(clip, shortest, example, self.seed) for clip, example in zip(clips, examples, strict=True)]
        batch, lengths = pad(clips, "input_values", 0.0)
        frames = None if lengths is None else self.num_frames(lengths)  # (batch,)
        return batch, TokenLayout((self.num_frames(batch["input_values"].shape[1]),), frames)


def _crop(clip: Tensor, length: int, example: Example, seed: int) -> Tensor:
    rng = generator(seed, example["epoch"], example["index"], "crop")
    start = int(rng.integers(len(clip) - length + 1))
    return clip[start : start + length]


class AudioData(Modality[AudioDataArguments]):
    """See `Modality`. An example is {"input_values": (samples,) fp32}."""

    name = "speech"
    arguments_class = AudioDataArguments
    kind = AUDIO
    config_fields: ClassVar[tuple[str, ...]] = ("conv_kernel", "conv_stride")
    processor_class = AutoFeatureExtractor
    shapes = ("(batch, samples) at 16 kHz", "(batch, frames, dim)")
    fewest_frames: ClassVar[int] = 2  # one to hide and one to see

    def __init__(self, args: AudioDataArguments, config: PreTrainedConfig, processor: Any = None):
        self.args = args
        self.num_frames = self.frames_of(config)
        self.shortest = self.num_frames.samples_for(self.fewest_frames)
        self.processor = processor or self.new_processor(args, config)
        if self.processor.sampling_rate != SAMPLING_RATE:
            raise ValueError(
                f"The feature extractor's sampling_rate = {self.processor.sampling_rate}: data2vec reads "
                f"{SAMPLING_RATE} Hz, use an extractor with that rate."
            )
        self.longest = int(args.max_seconds * SAMPLING_RATE)
        if self.longest < self.shortest:
            raise ValueError(
                f"data.max_seconds = {args.max_seconds} is invalid: the encoder needs {self.shortest} samples "
                f"for {self.fewest_frames} frames, use at least {self.shortest / SAMPLING_RATE}."
            )

    @classmethod
    def frames_of(cls, config: PreTrainedConfig) -> ConvFrames:
        """Samples -> time steps of the encoder's token grid."""
        return ConvFrames(tuple(config.conv_kernel), tuple(config.conv_stride))

    @staticmethod
    def new_processor(args: Any, config: PreTrainedConfig) -> Any:
        """That of an encoder which is trained from the start."""
        # The convolutions end in a layer norm, so padding is told by an attention mask.
        return Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, do_normalize=True, return_attention_mask=True)

    @classmethod
    def smallest_grid(cls, args: AudioDataArguments, config: PreTrainedConfig) -> tuple[tuple[int, ...], str]:
        seconds = min(args.min_seconds, args.max_seconds)
        frames = cls.frames_of(config)(int(seconds * SAMPLING_RATE))
        return (max(frames, cls.fewest_frames),), f"data.min_seconds = {seconds:g}"

    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        return {"input_values": self.prepared(self.waveform(row, rng, limit))}

    def prepared(self, wave: np.ndarray) -> Tensor:
        """What the encoder reads of a clip (samples,); as the processor makes it."""
        if self.processor.do_normalize:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)  # as Wav2Vec2FeatureExtractor
        return torch.from_numpy(wave)

    def waveform(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> np.ndarray:
        """A crop of a row's clip, (samples,) fp32 at 16 kHz; arguments as of `read`."""
        name = describe(row, AUDIO.column)
        wave = read_crop(row[AUDIO.column], name, min(limit or self.longest, self.longest), rng)  # (samples,)
        if len(wave) < self.shortest:
            raise _too_short(name, len(wave), self.shortest)
        return wave

    def inspect(self, rows: Iterator[Row]) -> str | None:
        infos = []
        for row in rows:
            with contextlib.suppress(soundfile.LibsndfileError, OSError, TypeError):
                infos.append(soundfile.info(file_of(row[AUDIO.column])))
        seconds, limit = self.args.max_seconds, self.args.skip_above_seconds
        changes = {
            f"resampled to {SAMPLING_RATE} Hz": [info.samplerate != SAMPLING_RATE for info in infos],
            "mixed to one channel": [info.channels > 1 for info in infos],
            f"cropped to data.max_seconds = {seconds:g}": [
                seconds < info.duration <= (limit or math.inf) for info in infos
            ],
        }
        lost = [f"{sum(which)} are {what}" for what, which in changes.items() if any(which)]
        return f"of {len(infos)} clips looked at, {', '.join(lost)}" if lost else None

    def survey(self, rows: Rows, filtered: bool = True) -> Survey | None:
        headers = read_headers(rows, self.args.num_proc)
        rate = np.maximum(headers["rate"], 1)
        samples = -(-headers["frames"] * SAMPLING_RATE // rate)  # (rows,) at 16 kHz, rounded up
        bad = {int(i): self._header_problem(rows[int(i)]) for i in np.flatnonzero(headers["rate"] == 0)}
        usable = headers["rate"] > 0
        out = self._filters(headers["frames"], rate, usable) if filtered else {}
        for rows_out in out.values():
            usable[rows_out] = False
        for i in np.flatnonzero(usable & (samples < self.shortest)):
            bad[int(i)] = _too_short(describe(rows[int(i)], AUDIO.column), int(samples[i]), self.shortest)
        return Survey(np.minimum(samples, self.longest), out, bad)

    def length(self, example: Mapping[str, Any]) -> int:
        return len(example["input_values"])

    def left_out(self, row: Row) -> str | None:
        headers = headers_of([row[AUDIO.column]])
        frames, rate = np.asarray(headers["frames"]), np.asarray(headers["rate"])
        reasons = self._filters(frames, np.maximum(rate, 1), rate > 0)
        return next((reason for reason, rows in reasons.items() if len(rows)), None)

    def _filters(self, frames: np.ndarray, rate: np.ndarray, usable: np.ndarray) -> dict[str, np.ndarray]:
        seconds = frames / rate
        reasons = {f"shorter than min_seconds = {self.args.min_seconds:g}": seconds < self.args.min_seconds}
        if self.args.skip_above_seconds is not None:
            reason = f"longer than skip_above_seconds = {self.args.skip_above_seconds:g}"
            reasons[reason] = seconds > self.args.skip_above_seconds
        return {reason: np.flatnonzero(usable & applies) for reason, applies in reasons.items()}

    @staticmethod
    def real_tokens(encoder: Any, inputs: Mapping[str, Tensor], time: int) -> Tensor:
        if "attention_mask" not in inputs:
            return Modality.real_tokens(encoder, inputs, time)
        return encoder._get_feature_vector_attention_mask(time, inputs["attention_mask"])

    def collator(self, objective: ObjectiveConfig | None, seed: int) -> Collator:
        crop = self.args.crop_to_shortest and objective is not None  # a probe reads whole clips
        return AudioCollator(objective, self.num_frames, seed, crop_to_shortest=crop)

    def _header_problem(self, row: Row) -> BadExample:
        try:
            read_crop(row[AUDIO.column], describe(row, AUDIO.column), self.longest, None)
        except BadExample as error:
            return error
        return BadExample(f"{describe(row, AUDIO.column)} changed while it was read.", "unreadable")


def _too_short(name: str, samples: int, shortest: int) -> BadExample:
    return BadExample(
        f"{name} has {samples} samples at 16 kHz, the encoder needs {shortest}: raise data.min_seconds to leave such "
        f"clips out.",
        problem="too short",
    )
