"""Spectrograms: hidden patches, and where the encoder looks."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from ...modeling.feature_extraction_eat import HOP
from ...pretraining.evaluation.raw_features import SAMPLING_RATE
from .draw_audio import AXES, painted
from .draw_image import heated, over_pixels
from .figures import ReportFigure, blocks_to_show, covered, percent, picture, received
from .inputs import Inputs, Masked


class SpectrogramDrawing:
    """See [`figures.Drawing`]."""

    kind: ClassVar[Literal["tiles", "plots"]] = "plots"

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        mel = _mel(example)
        pixels, seconds = painted(mel), mel.shape[1] * HOP / SAMPLING_RATE
        caption = f"what the teacher hears: {seconds:.2f} s, {AXES}"
        found = [picture(f"{name}_whole", pixels, caption, "The spectrogram of the whole clip.", wide=True)]
        for number, masked in enumerate(example.masked):
            said = f"{masked.sum()} of {masked.size} patches hidden ({percent(masked.mean())})"
            shown = covered(pixels, over_pixels(_upright(masked, inputs, example), pixels.shape[:2]))
            alt = f"The same spectrogram, {said}."
            found.append(picture(f"{name}_view{number + 1}", shown, example.view(number) + said, alt, wide=True))
        return found

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        pixels = painted(_mel(example))
        found = []
        for block, called in blocks_to_show(len(maps)).items():
            share = received(maps[block])
            shown = heated(pixels, _upright(share, inputs, example))
            caption = f"{called}: strongest patch {share.max():.1f} × the average"
            alt = f"Attention each patch gets, {called}."
            found.append(picture(f"{name}_block{block + 1}", shown, caption, alt, wide=True))
        return found


def _mel(example: Masked) -> np.ndarray:
    """(mels, frames)"""
    return example.batch["input_values"][0].numpy().T


def _upright(of_patches: np.ndarray, inputs: Inputs, example: Masked) -> np.ndarray:
    """A value of each patch, in rows of time, as (frequencies, time) with high frequencies on top."""
    frames, bins = inputs.modality.patch
    time, mels = example.batch["input_values"].shape[1:]
    return of_patches.reshape(time // frames, mels // bins).T[::-1]
