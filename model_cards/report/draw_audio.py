"""Sound: spectrograms with hidden spans, and when the encoder listens."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ...pretraining.evaluation.plots import COLOURS, finish, legend_below
from ...pretraining.evaluation.raw_features import SAMPLING_RATE, log_mel
from .figures import (
    ReportFigure,
    attention_matrix,
    blocks_to_show,
    coloured,
    covered,
    figure,
    percent,
    picture,
    received,
)
from .inputs import Inputs, Masked


SIZE = (720, 150)  # pixels of a spectrogram
AXES = "low frequencies at the bottom, 8 kHz at the top"


class AudioDrawing:
    """See [`figures.Drawing`]."""

    kind: ClassVar[Literal["tiles", "plots"]] = "plots"

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        spectrogram, seconds = _spectrogram(example)
        caption = f"what the teacher hears: {seconds:.2f} s, {AXES}"
        found = [picture(f"{name}_whole", spectrogram, caption, "The spectrogram of the whole clip.", wide=True)]
        starts = _frame_starts(inputs, example)
        for number, masked in enumerate(example.masked):
            said = f"{masked.sum()} of {masked.size} frames hidden ({percent(masked.mean())}), {_spans(masked)} spans"
            frame = np.searchsorted(starts, np.linspace(0, seconds, SIZE[0], endpoint=False), side="right") - 1
            hidden = np.broadcast_to(masked[np.clip(frame, 0, masked.size - 1)], spectrogram.shape[:2])
            shown = covered(spectrogram, hidden)
            alt = f"The same spectrogram, {said}."
            found.append(picture(f"{name}_view{number + 1}", shown, example.view(number) + said, alt, wide=True))
        return found

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        spectrogram, seconds = _spectrogram(example)
        starts = _frame_starts(inputs, example)
        drawn = Figure(figsize=(4.6, 3.4), layout="constrained")
        above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(1.3, 1))
        above.imshow(spectrogram, extent=(0, seconds, 0, SAMPLING_RATE / 2000), aspect="auto", interpolation="none")
        finish(above, "How much each moment is listened to", y="kHz")
        above.grid(False)
        for colour, (block, called) in zip(COLOURS, blocks_to_show(len(maps)).items(), strict=False):
            below.plot(starts, received(maps[block]), color=colour, label=called, linewidth=1.5)
        finish(below, "", "seconds", "× even")
        below.set_ylim(bottom=0)
        below.set_xlim(0, seconds)
        legend_below(below, ncols=3, gap=0.45)
        caption = "Attention that each frame gets, averaged over heads and over all that look; 1 is an even look."
        return [
            figure(f"{name}_over_time", drawn, caption, "Spectrogram, and attention over time under it."),
            attention_matrix(f"{name}_matrix", maps[-1], "frames", "last block"),
        ]


def _spectrogram(example: Masked) -> tuple[np.ndarray, float]:
    """Log-mel energies as pixels (height, width, 3), and the seconds that they cover."""
    wave = example.batch["input_values"][0]
    return painted(log_mel(wave).numpy()), len(wave) / SAMPLING_RATE


def painted(mel: np.ndarray) -> np.ndarray:
    """Log-mel energies (mels, time) as pixels (height, width, 3), high ones on top."""
    mel = mel[::-1]
    low, high = np.percentile(mel, (5, 99.5))
    values = (mel - low) / max(high - low, 1e-6)
    image = Image.fromarray(values.astype(np.float32)).resize(SIZE, Image.Resampling.BILINEAR)
    return coloured(np.asarray(image))


def _frame_starts(inputs: Inputs, example: Masked) -> np.ndarray:
    """Seconds at which each frame begins, (frames,)."""
    stride = int(np.prod(inputs.modality.num_frames.strides))
    return np.arange(example.masked.shape[-1]) * stride / SAMPLING_RATE


def _spans(masked: np.ndarray) -> int:
    return int(np.count_nonzero(np.diff(masked.astype(int), prepend=0) == 1))
