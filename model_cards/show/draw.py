"""Figures of examples with what an encoder makes of them: attention, principal components, nearest neighbours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import PreTrainedModel

from ...finetune.embed import Frozen
from ...modeling.feature_extraction_eat import HOP
from ...pretraining.data.modality import Registry, path_of
from ...pretraining.evaluation.plots import INK, finish
from ...pretraining.evaluation.probe import evaluating
from ...pretraining.evaluation.raw_features import SAMPLING_RATE, log_mel
from ...pretraining.modalities.audio import AudioData
from ...pretraining.modalities.build import modality_of
from ...pretraining.modalities.image import ImageData
from ...pretraining.modalities.spectrogram import SpectrogramData
from ..report.draw_audio import painted
from ..report.draw_features import principal_colours
from ..report.draw_image import heated, image_of


WIDTH = 8.0  # inches
ACROSS = 8  # images in a row
SHORT = 3.0  # seconds: shorter clips stand side by side
CUT = 1.0  # percent, see [`principal_colours`]
SAME = "#1a8a5a"  # the frame of a neighbour with the query's label


# ---- what is drawn ----


def looked_at(encoder: PreTrainedModel, inputs: dict[str, Tensor], block: int) -> np.ndarray:
    """Attention of CLS over the patches in a block, the mean over heads: (batch, patches).

    Where nothing stands in front of the patches, it is the mean over the patches that look.

    Args:
        encoder: with the eager attention, the only one that returns its weights.
    """
    given = {name: values.to(encoder.device) for name, values in inputs.items() if name != "labels"}
    with evaluating(encoder), torch.no_grad():
        attention = encoder(**given, output_attentions=True).attentions[block].float().mean(1)  # (batch, time, time)
    patches = modality_of(encoder.config).real_tokens(encoder, given, attention.shape[-1])[0]
    looking = attention[:, patches].mean(1) if patches[0] else attention[:, 0]
    return looking[:, patches].cpu().numpy()


def colours_of(features: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Colours (parts, 3) uint8 of several examples' parts, by the principal components of all of them together."""
    colours = principal_colours(np.vstack(features), CUT)
    return np.split(colours, np.cumsum([len(rows) for rows in features])[:-1])


def nearest(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others of each of `features` (examples, dim): their numbers and cosines, (examples, count).

    Features are standardised first, as for the k-NN of a probe: what all examples have in common says nothing.
    """
    scaled = StandardScaler().fit_transform(features)
    distances, found = NearestNeighbors(n_neighbors=count, metric="cosine").fit(scaled).kneighbors()
    return found, 1 - distances


def agreement(labels: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """The share of neighbours with the label of their query, and the share if neighbours were drawn at random."""
    counts = np.bincount(labels)
    chance = (counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1))
    return float((labels[found] == labels[:, None]).mean()), float(chance)


def title_of(frozen: Frozen, index: int, most: int = 18) -> str:
    """The label of an example, or the name of its file."""
    labels = frozen.examples.labels
    if labels is not None:
        name = frozen.classes[labels[index]] if frozen.classes else f"{labels[index]:g}"
    else:
        name = Path(path_of(frozen.examples.row(index), frozen.modality.kind.column) or f"row {index}").stem
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


# ---- figures ----


def image_figure(frozen: Frozen, indices: Sequence[int]) -> Figure:
    """Images, what is looked at in them, and the principal components of their patches."""
    examples = [frozen.examples[i] for i in indices]
    pixels = [thumbnail(frozen, i) for i in indices]
    layer, modality = frozen.run.task.layer, frozen.modality
    attention = looked_at(frozen.encoder, frozen.collate(examples), -1 if layer == "last" else int(layer) - 1)
    (features,) = frozen.features(indices, pooled=False).layers.values()
    grid = modality.grid  # type: ignore[attr-defined]
    maps = [heated(image, seen.reshape(grid)) for image, seen in zip(pixels, attention, strict=True)]
    colours = [patches.reshape(*grid, 3) for patches in colours_of(features)]
    high, wide = pixels[0].shape[:2]
    columns = min(len(indices), max(1, round(ACROSS * min(1, 3 * high / wide))))  # fewer of those that are wide
    bands = -(-len(indices) // columns)
    height = WIDTH / (columns + 0.3) * high / wide
    drawn = Figure(figsize=(WIDTH, bands * (3.05 * height + 0.3)), layout="constrained", facecolor="white")
    drawn.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[union-attr, call-arg]
    axes = drawn.subplots(3 * bands, columns, squeeze=False)
    for axis in axes.flat:
        bare(axis)
    for number, index in enumerate(indices):
        band, column = divmod(number, columns)
        for row, shown in enumerate((pixels[number], maps[number], colours[number])):
            axes[3 * band + row, column].imshow(shown, interpolation="nearest", extent=(0, wide, high, 0))
        axes[3 * band, column].set_title(title_of(frozen, index, 14), fontsize=9, color=INK, pad=3)
    beside = {} if height > 0.6 else {"rotation": 0, "ha": "right", "va": "center"}
    for row, called in enumerate(("image", "attention", "features") * bands):
        axes[row, 0].set_ylabel(called, fontsize=9, color=INK, **beside)
    return drawn


def sound_figure(frozen: Frozen, indices: Sequence[int]) -> Figure:
    """Spectrograms with the principal components of the features below, on one axis of time."""
    (features,) = frozen.features(indices, pooled=False).layers.values()
    sounds = [SOUNDS[type(frozen.modality)](frozen, i) for i in indices]
    columns = 1 if max(sound.seconds for sound in sounds) > SHORT else min(len(indices), 3)
    rows = -(-len(indices) // columns)
    drawn = Figure(figsize=(WIDTH, 2.3 * rows), layout="constrained", facecolor="white")
    axes = drawn.subplots(2 * rows, columns, squeeze=False, height_ratios=(2, 1) * rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (index, sound, parts) in enumerate(zip(indices, sounds, colours_of(features), strict=True)):
        row, column = divmod(number, columns)
        above, below = axes[2 * row : 2 * row + 2, column]
        for axis in (above, below):
            axis.set_axis_on()
        kilohertz = SAMPLING_RATE / 2000
        above.imshow(painted(sound.mel), extent=(0, sound.seconds, 0, kilohertz), aspect="auto")
        band = parts.reshape(-1, sound.bands, 3).transpose(1, 0, 2)[::-1]  # (bands, time, 3), high ones on top
        end = band.shape[1] * sound.step
        below.imshow(band, extent=(0, end, 0, kilohertz), aspect="auto", interpolation="nearest")
        finish(above, title_of(frozen, index, 60 // columns), y="" if column else "mel bands")
        finish(below, "", "seconds", "" if column else "features")
        for axis in (above, below):
            axis.grid(False)
            axis.set(yticks=[], xlim=(0, sound.seconds))
        above.set_xticks([])
    return drawn


def neighbours_figure(frozen: Frozen, queries: Sequence[int], found: np.ndarray, cosines: np.ndarray) -> Figure:
    """A row of each query: itself, and its nearest neighbours with their cosines."""
    columns = found.shape[1] + 1
    high, wide = thumbnail(frozen, queries[0]).shape[:2] if isinstance(frozen.modality, ImageData) else (1, 1)
    height = WIDTH / columns * high / wide + 0.25
    drawn = Figure(figsize=(WIDTH, len(queries) * height), layout="constrained", facecolor="white")
    for row, query in enumerate(queries):
        for column, index in enumerate([query, *found[query]]):
            axis = drawn.add_subplot(len(queries), columns, row * columns + column + 1)
            bare(axis)
            axis.imshow(thumbnail(frozen, int(index)), aspect="auto", interpolation="nearest")
            title = title_of(frozen, int(index), 14)
            said = title if column == 0 else f"{title}  {cosines[query, column - 1]:.2f}"
            axis.set_title(said, fontsize=8.5, color=INK, pad=3, fontweight="normal" if column else "bold")
            labels = frozen.examples.labels
            if column and frozen.classes and labels is not None and labels[index] == labels[query]:
                axis.spines[:].set(visible=True, color=SAME, linewidth=2.5)
    return drawn


def bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


# ---- modalities ----


@dataclass(frozen=True)
class Sound:
    """A clip as it is drawn: the encoder reads `bands` parts of it every `step` seconds."""

    mel: np.ndarray  # (mels, frames)
    seconds: float
    step: float
    bands: int = 1


def _wave(frozen: Frozen, index: int) -> Sound:
    wave = frozen.examples[index]["input_values"]
    stride = int(np.prod(frozen.modality.num_frames.strides))  # type: ignore[attr-defined]
    return Sound(log_mel(wave).numpy(), len(wave) / SAMPLING_RATE, stride / SAMPLING_RATE)


def _spectrogram(frozen: Frozen, index: int) -> Sound:
    mel = frozen.examples[index]["input_values"].numpy().T
    frames, bins = frozen.modality.patch  # type: ignore[attr-defined]
    hop = HOP / SAMPLING_RATE
    return Sound(mel, mel.shape[1] * hop, frames * hop, mel.shape[0] // bins)


SOUNDS: Registry[Callable[[Frozen, int], Sound]] = Registry(
    "picture of sounds", {AudioData: _wave, SpectrogramData: _spectrogram}
)
FIGURES: Registry[Callable[[Frozen, Sequence[int]], Figure]] = Registry(
    "picture", {ImageData: image_figure, AudioData: sound_figure, SpectrogramData: sound_figure}
)


def thumbnail(frozen: Frozen, index: int) -> np.ndarray:
    """An example as pixels (height, width, 3)."""
    modality: Any = frozen.modality
    if isinstance(modality, ImageData):
        return image_of(modality, np.asarray(frozen.examples[index]["pixel_values"]))
    return painted(SOUNDS[type(modality)](frozen, index).mel)
