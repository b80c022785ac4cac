"""Images: hidden patches, and where the encoder looks."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from .figures import ReportFigure, blocks_to_show, coloured, covered, percent, picture, received
from .inputs import Inputs, Masked


SIDE = 224  # pixels of a picture, about
MARK = (64, 224, 255)  # the frame around a patch


class ImageDrawing:
    """See [`figures.Drawing`]."""

    kind: ClassVar[Literal["tiles", "plots"]] = "tiles"

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        pixels, repeat = _pixels(inputs, example)
        found = [picture(f"{name}_whole", enlarged(pixels, repeat), "what the teacher sees", "The whole image.")]
        rows, columns = inputs.modality.grid
        for number, masked in enumerate(example.masked):
            said = f"{masked.sum()} of {masked.size} patches hidden ({percent(masked.mean())})"
            hidden = over_pixels(masked.reshape(rows, columns), pixels.shape[:2])
            shown = covered(enlarged(pixels, repeat), enlarged(hidden, repeat))
            found.append(
                picture(f"{name}_view{number + 1}", shown, example.view(number) + said, f"The same image, {said}.")
            )
        return found

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        pixels, repeat = _pixels(inputs, example)
        grid = inputs.modality.grid
        found = [picture(f"{name}_whole", enlarged(pixels, repeat), "the image", "The image.")]
        for block, called in blocks_to_show(len(maps)).items():
            share = received(maps[block])
            shown = enlarged(heated(pixels, share.reshape(grid)), repeat)
            caption = f"{called}: strongest patch {share.max():.1f} × the average"
            found.append(picture(f"{name}_block{block + 1}", shown, caption, f"Attention each patch gets, {called}."))
        centre = _centre_of_interest(pixels, grid)
        row = maps[-1][centre]
        shown = enlarged(heated(pixels, row.reshape(grid)), repeat)
        _frame(shown, centre, grid)
        caption = f"last block, from the framed patch: {percent(row.max())} on one patch"
        alt = "What the framed patch looks at in the last block."
        return [*found, picture(f"{name}_from_patch", shown, caption, alt)]


def _pixels(inputs: Inputs, example: Masked) -> tuple[np.ndarray, int]:
    """The image before normalisation, (height, width, 3) uint8, and how often a pixel is repeated to be seen."""
    image = image_of(inputs.modality, example.batch["pixel_values"][0].numpy())
    return image, max(1, round(SIDE / max(image.shape[:2])))


def image_of(modality: Any, values: np.ndarray) -> np.ndarray:
    """What an encoder reads (channels, height, width) as the image before normalisation, (height, width, 3) uint8."""
    image = (np.clip(values * modality.std + modality.mean, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def enlarged(pixels: np.ndarray, repeat: int) -> np.ndarray:
    return pixels.repeat(repeat, axis=0).repeat(repeat, axis=1)


def over_pixels(grid: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A value of each patch (rows, columns) as one of each pixel."""
    rows, columns = (np.arange(length) * patches // length for length, patches in zip(size, grid.shape, strict=True))
    return grid[np.ix_(rows, columns)]


def heated(pixels: np.ndarray, attention: np.ndarray, most: float | None = None) -> np.ndarray:
    """The image in grey under the colours of attention (rows, columns), from none to the `most`."""
    highest = float(attention.max()) if most is None else most
    heat = over_pixels(attention / max(highest, 1e-12), pixels.shape[:2])
    grey = pixels.mean(-1, keepdims=True)
    return (0.35 * grey + 0.65 * coloured(heat)).astype(np.uint8)


def _centre_of_interest(pixels: np.ndarray, grid: tuple[int, int]) -> int:
    """The patch whose pixels differ most: some place of the object, not of the background."""
    grey = pixels.mean(-1)
    height, width = grey.shape[0] // grid[0], grey.shape[1] // grid[1]
    patches = grey[: height * grid[0], : width * grid[1]].reshape(grid[0], height, grid[1], width)
    return int(patches.std(axis=(1, 3)).argmax())


def _frame(shown: np.ndarray, patch: int, grid: tuple[int, int]) -> None:
    height, width = shown.shape[0] // grid[0], shown.shape[1] // grid[1]
    top, left = patch // grid[1] * height, patch % grid[1] * width
    box = shown[top : top + height, left : left + width]
    line = max(2, SIDE // 100)
    for edge in (box[:line], box[-line:], box[:, :line], box[:, -line:]):
        edge[...] = MARK
