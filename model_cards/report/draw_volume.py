"""Volumes, slice by slice: hidden patches, features as colours, and where the encoder looks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from .draw_features import feature_colours
from .draw_image import enlarged, heated, over_pixels
from .figures import ReportFigure, blocks_to_show, covered, percent, picture, received
from .inputs import Inputs, Masked


SLICES = 4  # shown of a volume, two above two
SIDE = 112  # pixels of a slice, at least about
GAP = 4  # pixels between slices


class VolumeDrawing:
    """See [`figures.Drawing`]. Slices are the middles of patches, from the first to the last."""

    kind: ClassVar[Literal["tiles", "plots"]] = "tiles"

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        said = f"slices {_numbers(inputs, example)} of {example.batch['voxel_values'].shape[2]}"
        shown = _sheet(inputs, example, lambda pixels, _: pixels)
        found = [picture(f"{name}_whole", shown, f"what the teacher sees: {said}", f"The volume: {said}.")]
        for number, masked in enumerate(example.masked):
            said = f"{masked.sum()} of {masked.size} patches hidden ({percent(masked.mean())})"
            patches = masked.reshape(inputs.modality.grid)
            shown = _sheet(inputs, example, partial(_covered, patches))
            found.append(
                picture(f"{name}_view{number + 1}", shown, example.view(number) + said, f"The same slices, {said}.")
            )
        return found

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        grid = inputs.modality.grid
        colours = feature_colours(inputs, example).reshape(*grid, 3)
        shown = _sheet(inputs, example, lambda pixels, at: _tinted(pixels, colours[at]))
        caption = "features of the last block: their three main directions as red, green and blue"
        found = [picture(f"{name}_features", shown, caption, "The slices in the colours of their features.")]
        for block, called in blocks_to_show(len(maps)).items():
            share = received(maps[block])
            most, patches = share.max(), share.reshape(grid)
            shown = _sheet(inputs, example, partial(_heated, patches, most))
            caption = f"{called}: strongest patch {most:.1f} × the average"
            found.append(picture(f"{name}_block{block + 1}", shown, caption, f"Attention each patch gets, {called}."))
        return found


def _layers(inputs: Inputs) -> np.ndarray:
    """Which layers of patches are shown."""
    depth = inputs.modality.grid[0]
    return np.unique(np.linspace(0, depth - 1, SLICES).round().astype(int))


def _slices(inputs: Inputs, example: Masked) -> np.ndarray:
    """The slice in the middle of each of those layers."""
    thick = example.batch["voxel_values"].shape[2] // inputs.modality.grid[0]
    return _layers(inputs) * thick + thick // 2


def _numbers(inputs: Inputs, example: Masked) -> str:
    return ", ".join(str(number + 1) for number in _slices(inputs, example))


def _sheet(inputs: Inputs, example: Masked, draw: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Slices beside and below each other, each as `draw` makes it of its pixels and its layer of patches."""
    volume = example.batch["voxel_values"][0, 0].numpy()  # (depth, height, width) from -1 to 1
    grey = ((volume.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    repeat = max(1, round(SIDE / max(grey.shape[1:])))
    drawn = [
        draw(enlarged(np.repeat(grey[at][..., None], 3, axis=-1), repeat), int(layer))
        for layer, at in zip(_layers(inputs), _slices(inputs, example), strict=True)
    ]
    height, width = drawn[0].shape[:2]
    across = min(len(drawn), 2)
    down = -(-len(drawn) // across)
    sheet = np.full((down * (height + GAP) - GAP, across * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for number, pixels in enumerate(drawn):
        top, left = number // across * (height + GAP), number % across * (width + GAP)
        sheet[top : top + height, left : left + width] = pixels
    return sheet


def _covered(patches: np.ndarray, pixels: np.ndarray, at: int) -> np.ndarray:
    return covered(pixels, over_pixels(patches[at], pixels.shape[:2]))


def _heated(patches: np.ndarray, most: float, pixels: np.ndarray, at: int) -> np.ndarray:
    return heated(pixels, patches[at], most)


def _tinted(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The slice in grey under a colour of each patch, (rows, columns, 3)."""
    whole = np.stack([over_pixels(colours[..., channel], pixels.shape[:2]) for channel in range(3)], axis=-1)
    return (0.35 * pixels + 0.65 * whole).astype(np.uint8)
