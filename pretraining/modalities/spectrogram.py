"""Spectrograms: a sound file -> a normalised log-mel spectrogram of frames by mel bins, which EAT reads in patches.

Reading, length filters and what is found wrong with a file are those of audio. The features are computed here, in the
loader's workers, by the feature extractor that is saved beside the weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.embed_audio import ConvFrames
from ...modeling.embed_image import as_pair
from ...modeling.feature_extraction_eat import FRAME, HOP, EatFeatureExtractor
from ..data.collators import Batch, Collator, Example, TokenLayout, pad
from ..data.modality import Modality
from .audio import AudioData, AudioDataArguments
from .sound_files import SAMPLING_RATE


@dataclass(kw_only=True)
class SpectrogramDataArguments(AudioDataArguments):
    """The `data` fields of a recipe on spectrograms."""

    max_seconds: float = field(default=10.24, metadata={"help": "crop longer clips to this, at random"})
    mean: float = field(default=-4.268, metadata={"help": "mean of the log-mel features (default: AudioSet's)"})
    std: float = field(
        default=4.569, metadata={"help": "standard deviation of the log-mel features (default: AudioSet's)"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.std > 0, "std", "use a positive number")
        self.require(not self.crop_to_shortest, "crop_to_shortest", "leave it out: spectrograms are padded")


class SpectrogramCollator(Collator):
    """Pads to whole rows of patches, with frames that the processor pads with."""

    def __init__(self, objective: ObjectiveConfig | None, patch: tuple[int, int], padding_value: float, seed: int):
        super().__init__(objective, seed)
        self.patch, self.padding_value = patch, padding_value

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """input_values (batch, frames, mel bins) fp32, and attention_mask (batch, frames) long where one is padded."""
        frames, bins = self.patch
        spectrograms = [example["input_values"] for example in examples]
        batch, lengths = pad(spectrograms, "input_values", self.padding_value, multiple_of=frames)
        rows, columns = batch["input_values"].shape[1] // frames, batch["input_values"].shape[2] // bins
        # a row of patches that holds a real frame is real
        real = None if lengths is None else -(-lengths // frames) * columns  # (batch,)
        return batch, TokenLayout((rows, columns), real)


class SpectrogramData(AudioData):
    """See `Modality`. An example is {"input_values": (frames, mel bins) fp32}."""

    name = "spectrograms"
    arguments_class = SpectrogramDataArguments
    config_fields = ("num_mel_bins", "patch_size", "max_position_embeddings")
    shapes = ("(batch, frames, mel bins), 100 frames per second", "(batch, CLS and patches, dim)")
    fewest_frames: ClassVar[int] = 1

    def __init__(self, args: AudioDataArguments, config: PreTrainedConfig, processor: Any = None):
        super().__init__(args, config, processor)
        self.patch = as_pair(config.patch_size)  # (frames, mel bins)
        frames = ConvFrames((FRAME,), (HOP,))(self.longest)
        # what is saved reads as this: a converted encoder's pads to a fixed length and does not say where
        self.processor.max_length, self.processor.padding, self.processor.return_attention_mask = (
            frames,
            "longest",
            True,
        )
        most = config.max_position_embeddings * self.patch[0]  # frames
        if -(-frames // self.patch[0]) > config.max_position_embeddings:
            raise ValueError(
                f"data.max_seconds = {args.max_seconds:g} is invalid: the encoder has positions for "
                f"max_position_embeddings = {config.max_position_embeddings} rows of patches, use at most "
                f"{most * HOP / SAMPLING_RATE:g}."
            )

    @classmethod
    def frames_of(cls, config: PreTrainedConfig) -> ConvFrames:
        frames, _ = as_pair(config.patch_size)
        return ConvFrames((FRAME, frames), (HOP, frames))

    @staticmethod
    def new_processor(args: Any, config: PreTrainedConfig) -> EatFeatureExtractor:
        return EatFeatureExtractor(
            num_mel_bins=config.num_mel_bins,
            max_length=ConvFrames((FRAME,), (HOP,))(int(args.max_seconds * SAMPLING_RATE)),
            mean=args.mean,
            std=args.std,
            pad_to_multiple_of=as_pair(config.patch_size)[0],
        )

    @classmethod
    def smallest_grid(cls, args: AudioDataArguments, config: PreTrainedConfig) -> tuple[tuple[int, ...], str]:
        (rows,), words = super().smallest_grid(args, config)
        return (rows, config.num_mel_bins // as_pair(config.patch_size)[1]), words

    def prepared(self, wave: np.ndarray) -> Tensor:
        return self.processor.features(torch.from_numpy(wave))

    def length(self, example: Mapping[str, Any]) -> int:
        return len(example["input_values"]) * HOP

    @staticmethod
    def real_tokens(encoder: Any, inputs: Mapping[str, Tensor], time: int) -> Tensor:
        return Modality.real_tokens(encoder, inputs, time)

    def collator(self, objective: ObjectiveConfig | None, seed: int) -> SpectrogramCollator:
        return SpectrogramCollator(objective, self.patch, self.processor.padding_value, seed)
