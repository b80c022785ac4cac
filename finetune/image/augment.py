"""RandAugment and random erasing of one image, drawn from a NumPy generator.

The operations of AutoAugment and RandAugment are Pillow's, by definition: the papers' code, and the recipes that
followed it, call them. So Pillow does the work here too, and the table below is all there is to RandAugment.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor


BICUBIC = Image.Resampling.BICUBIC
Fill = tuple[int, ...]


def _affine(
    image: Image.Image, fill: Fill, a: float = 1, b: float = 0, c: float = 0, d: float = 0, e: float = 1, f: float = 0
) -> Image.Image:
    """Pixel (x, y) of the result is (a x + b y + c, d x + e y + f) of `image`."""
    matrix = (a, b, c, d, e, f)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, BICUBIC, fillcolor=_colour(fill))


def _colour(fill: Fill) -> int | Fill:
    return fill[0] if len(fill) == 1 else fill


def _solarize_add(image: Image.Image, added: int) -> Image.Image:
    """Dark pixels are lightened."""
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


# Name -> (image, level, sign, fill colour). A level of 0 changes nothing, or least, and 1 most, so that a larger
# magnitude is a stronger augmentation in every operation ("inc1" in the recipes); `sign` is -1 or 1.
Operation = Callable[[Image.Image, float, int, Fill], Image.Image]
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda image, level, sign, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign, fill: ImageOps.equalize(image),
    "invert": lambda image, level, sign, fill: ImageOps.invert(image),
    "rotate": lambda image, level, sign, fill: image.rotate(30 * level * sign, BICUBIC, fillcolor=_colour(fill)),
    "posterize": lambda image, level, sign, fill: ImageOps.posterize(image, max(1, 4 - int(4 * level))),
    "solarize": lambda image, level, sign, fill: ImageOps.solarize(image, 256 - int(256 * level)),
    "solarize_add": lambda image, level, sign, fill: _solarize_add(image, int(110 * level)),
    "color": lambda image, level, sign, fill: ImageEnhance.Color(image).enhance(1 + 0.9 * level * sign),
    "contrast": lambda image, level, sign, fill: ImageEnhance.Contrast(image).enhance(1 + 0.9 * level * sign),
    "brightness": lambda image, level, sign, fill: ImageEnhance.Brightness(image).enhance(1 + 0.9 * level * sign),
    "sharpness": lambda image, level, sign, fill: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * level * sign),
    "shear_x": lambda image, level, sign, fill: _affine(image, fill, b=0.3 * level * sign),
    "shear_y": lambda image, level, sign, fill: _affine(image, fill, d=0.3 * level * sign),
    "translate_x": lambda image, level, sign, fill: _affine(image, fill, c=0.45 * level * sign * image.width),
    "translate_y": lambda image, level, sign, fill: _affine(image, fill, f=0.45 * level * sign * image.height),
}


@dataclass(frozen=True)
class RandAugment:
    """Some operations, drawn with replacement, one after the other (Cubuk et al. 2020, arXiv 1909.13719).

    Attributes:
        operations: how many.
        magnitude: of all of them, 0 to 10.
        spread: standard deviation of the magnitude from one operation to the next.
        probability: of each drawn operation to be applied at all.
        fill: colour of what comes in from outside, one number a channel.
    """

    operations: int
    magnitude: float
    spread: float
    probability: float
    fill: Fill

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """`image` of mode L or RGB, of which a new one is made."""
        for name in rng.choice(list(OPERATIONS), size=self.operations):
            applied, sign = rng.random() < self.probability, int(rng.choice((-1, 1)))
            level = float(np.clip(rng.normal(self.magnitude, self.spread), 0, 10)) / 10
            if applied:
                image = OPERATIONS[name](image, level, sign, self.fill)
        return image


def random_erasing(
    pixels: Tensor, rng: np.random.Generator, area: tuple[float, float] = (0.02, 1 / 3), aspect: float = 0.3
) -> Tensor:
    """A random rectangle replaced by standard normal noise (Zhong et al. 2017, arXiv 1708.04896, algorithm 1).

    Args:
        pixels: `(channels, height, width)`, normalised, so that noise of unit variance is like an image.
        area: smallest and largest share of the image.
        aspect: smallest ratio of height to width; the largest is its inverse. Log-uniform, as in the recipes.
    """
    channels, height, width = pixels.shape
    for _ in range(10):  # a rectangle that does not fit is drawn again
        target = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect), -math.log(aspect)))
        high, wide = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < high < height and 0 < wide < width:
            top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
            noise = rng.standard_normal((channels, high, wide), dtype=np.float32)
            erased = pixels.clone()
            erased[:, top : top + high, left : left + wide] = torch.from_numpy(noise)
            return erased
    return pixels
