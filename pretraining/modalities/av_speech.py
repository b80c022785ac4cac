"""Speech with mouth crops -> log-mel frames and frames of video on one clock, 25 a second."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor
from transformers import AutoFeatureExtractor, PreTrainedConfig

from ...modeling.feature_extraction_av_data2vec import AvData2VecFeatureExtractor
from ..data.arguments import DataArguments
from ..data.bad_examples import BadExample
from ..data.modality import Row, describe
from .sound_files import AUDIO, SAMPLING_RATE, read_crop
from .streams import StreamsData
from .video_files import VIDEO, read_sound, read_video


RATE = 25  # frames per second
LAG = 0.5  # seconds that sound and video of a clip may differ in length
KIND = replace(VIDEO, beside=(replace(AUDIO, optional=True),))
INPUTS = {"audio": "input_features", "video": "pixel_values"}


@dataclass(kw_only=True)
class AvSpeechDataArguments(DataArguments):
    """The `data` fields of a recipe on speech with mouth crops."""

    max_seconds: float = field(default=20.0, metadata={"help": "crop longer clips to this, at random"})
    min_seconds: float = field(default=0.5, metadata={"help": "shorter clips are unusable"})
    frames_per_second: float | None = field(
        default=None,
        metadata={"help": "frame rate of videos that do not state it (arrays, lists of images); null is 25"},
    )
    flip: float = field(default=0.5, metadata={"help": "share of clips with a mirrored video"})
    probe_streams: list[Literal["audio", "video"]] = field(
        default_factory=lambda: ["audio", "video"], metadata={"help": "streams for the probes"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            0 < self.min_seconds <= self.max_seconds, "min_seconds", "use a number above 0, up to max_seconds"
        )
        self.require(
            self.frames_per_second is None or self.frames_per_second > 0, "frames_per_second", "use a positive number"
        )
        self.require(0 <= self.flip <= 1, "flip", "use a share from 0 to 1")
        known = bool(self.probe_streams) and set(self.probe_streams) <= set(INPUTS)
        self.require(known, "probe_streams", "use [audio], [video] or [audio, video]")


class AvSpeechData(StreamsData[AvSpeechDataArguments]):
    """See `Modality`. An example is {"input_features": (frames, bins) fp32, "pixel_values": (frames, channels, height,
    width) fp32}.
    """

    name = "speech with mouth crops"
    arguments_class = AvSpeechDataArguments
    kind = KIND
    inputs = INPUTS
    streams = tuple(INPUTS)
    config_fields = ("num_mel_bins", "num_stacked_frames", "resnet_width")
    processor_class = AutoFeatureExtractor
    shapes = ("(batch, frames, bins), 25 frames per second", "(batch, frames, dim)")

    def __init__(self, args: AvSpeechDataArguments, config: PreTrainedConfig, processor: Any = None):
        self.args = args
        self.processor = processor or AvData2VecFeatureExtractor.of(config)

    @classmethod
    def smallest_grid(cls, args: AvSpeechDataArguments, config: PreTrainedConfig) -> tuple[tuple[int, ...], str]:
        return (math.ceil(args.min_seconds * RATE),), f"data.min_seconds = {args.min_seconds:g}"

    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        name, size = describe(row, VIDEO.column), self.processor.image_size
        clip = read_video(row[VIDEO.column], name, channels=1)
        frames = self.at_rate(clip.frames, clip.rate or self.args.frames_per_second or RATE)
        if min(frames.shape[1:3]) < size:
            raise BadExample(
                f"{name} has frames of {frames.shape[1]} x {frames.shape[2]} pixels: crops of the mouth must be at "
                f"least {size} x {size} (model.image_size).",
                problem="too small",
            )
        wave = self.sound(row, name, len(frames)) if "audio" in self.streams else None
        longest = int(self.args.max_seconds * RATE)
        if len(frames) < self.args.min_seconds * RATE:
            raise BadExample(
                f"{name} has {len(frames) / RATE:.2f} s: data.min_seconds = {self.args.min_seconds:g} asks for more.",
                problem="too short",
            )
        start = 0 if rng is None else int(rng.integers(max(len(frames) - longest, 0) + 1))
        frames = frames[start : start + longest]
        room = [side - size for side in frames.shape[1:3]]
        corner = [None, None] if rng is None else [int(rng.integers(side + 1)) for side in room]
        pixels = self.processor.video(frames, *corner)
        if rng is not None and rng.random() < self.args.flip:
            pixels = pixels.flip(-1)
        if wave is None:
            return {"pixel_values": pixels}
        samples = SAMPLING_RATE // RATE
        wave = wave[start * samples : (start + len(frames)) * samples]
        return {"input_features": self.processor.audio(wave, len(frames)), "pixel_values": pixels}

    @staticmethod
    def num_frames(frames: Any) -> Any:
        """Tokens of so many frames."""
        return frames

    @staticmethod
    def at_rate(frames: np.ndarray, rate: float) -> np.ndarray:
        """Frames at 25 a second: for each the one that is shown then."""
        count = max(round(len(frames) * RATE / rate), 1)
        chosen = ((np.arange(count) + 0.5) * rate / RATE).astype(int)
        return frames[chosen.clip(max=len(frames) - 1)]

    def sound(self, row: Row, name: str, frames: int) -> np.ndarray:
        """The clip's samples at 16 kHz: of a file or a column of its own, else of the film."""
        value, most = row.get(AUDIO.column), (frames + RATE) * SAMPLING_RATE // RATE
        if value is None or (isinstance(value, Mapping) and value.get("bytes") is None and value.get("path") is None):
            wave = read_sound(row[VIDEO.column], name, SAMPLING_RATE)
        else:
            name = describe(row, AUDIO.column)
            wave = read_crop(value, name, most, None)
        seconds, seen = len(wave) / SAMPLING_RATE, frames / RATE
        if abs(min(seconds, most / SAMPLING_RATE) - seen) > LAG:
            raise BadExample(
                f"{name} has {seconds:.2f} s of sound and {seen:.2f} s of video: they must be of the same clip.",
                problem="damaged",
            )
        return wave

    def length(self, example: Mapping[str, Any]) -> int:
        return len(next(iter(example.values())))  # of any stream
