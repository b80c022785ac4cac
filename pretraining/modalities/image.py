"""Images: a file of any format and colour mode -> one augmented, normalised (channels, height, width) tensor.

As in the paper's recipe (BEiT's): random resized crop, horizontal flip, colour jitter. Pillow does the work: its
crop-and-resize in one call and its reduced-size JPEG decoding are fast, and it runs beside any build of torch.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import datasets
import numpy as np
import torch
from PIL import ExifTags, Image, ImageEnhance, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, BeitImageProcessorPil, PreTrainedConfig

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.embed_image import as_pair
from ..data.arguments import DataArguments
from ..data.bad_examples import BadExample
from ..data.collators import Batch, Collator, Example, TokenLayout
from ..data.file_types import IMAGE_TYPES, content_of, unopened
from ..data.modality import Modality, Row, describe
from ..data.sources import MediaKind


IMAGE = MediaKind(
    column="image",
    feature=datasets.Image,
    extensions=(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
    known_columns=("image", "img", "file", "path"),
)
ASPECTS = (3 / 4, 4 / 3)  # of a random crop, before it is resized to a square (BEiT, MAE)
TRUNCATED, TOO_LARGE = "truncated", "Decompressed data too large"  # what Pillow's messages say
LONGEST_SIDE = 65_535  # pixels, the most that a JPEG can have
GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B")  # modes without colour
BICUBIC = Image.Resampling.BICUBIC


@dataclass(kw_only=True)
class ImageDataArguments(DataArguments):
    """The `data` fields of a vision recipe. The image size is the encoder's `config.image_size`."""

    crop: Literal["random_resized", "shift", "none"] = field(
        default="random_resized",
        metadata={
            "help": "random_resized: a part of random area and aspect; shift: moved by up to shift_pixels, for tiny "
            "images; none: the whole image. All are resized to the encoder's image size"
        },
    )
    crop_area: list[float] = field(
        default_factory=lambda: [0.08, 1.0], metadata={"help": "smallest and largest area of a random_resized crop"}
    )
    shift_pixels: int = field(default=0, metadata={"help": "how far `crop: shift` moves an image; edges are repeated"})
    flip: float = field(default=0.5, metadata={"help": "probability of a horizontal flip; 0 for digits and text"})
    color_jitter: float = field(
        default=0.4, metadata={"help": "brightness, contrast and saturation change by up to this share"}
    )
    upscale: bool = field(
        default=False,
        metadata={"help": "allow images smaller than the encoder's image size, and enlarge them"},
    )
    grayscale: bool = field(default=False, metadata={"help": "allow colour images if the encoder's num_channels is 1"})
    image_mean: list[float] | None = field(
        default=None, metadata={"help": "mean of each channel, for values in [0, 1] (default: 0.5)"}
    )
    image_std: list[float] | None = field(
        default=None, metadata={"help": "standard deviation of each channel, for values in [0, 1] (default: 0.5)"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        low_to_high = len(self.crop_area) == 2 and 0 < self.crop_area[0] <= self.crop_area[1] <= 1
        self.require(low_to_high, "crop_area", "use two shares, [smallest, largest], in (0, 1]")
        shifts = (self.crop == "shift") == (self.shift_pixels > 0)
        self.require(shifts and self.shift_pixels >= 0, "shift_pixels", "use 1 or more with crop: shift, 0 without")
        self.require(0 <= self.flip <= 1, "flip", "use a probability")
        self.require(0 <= self.color_jitter <= 1, "color_jitter", "use 0 (off) to 1")
        positive = self.image_std is None or all(value > 0 for value in self.image_std)
        self.require(positive, "image_std", "use positive numbers")


class ImageCollator(Collator):
    """Stacks images; `grid` is the patch grid (height, width)."""

    def __init__(self, objective: ObjectiveConfig | None, grid: tuple[int, int], seed: int):
        super().__init__(objective, seed)
        self.layout = TokenLayout(grid)

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """pixel_values (batch, channels, height, width) fp32"""
        return {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}, self.layout


@dataclass(frozen=True)
class ImageComparison:
    """What an encoder of a size makes of images; sizes are (width, height)."""

    looked_at: int
    small: list[tuple[int, int]]
    large: list[tuple[int, int]]
    coloured: int  # that an encoder of one channel sees in grey

    def lost(self, size: tuple[int, int]) -> str | None:
        """What of them is lost at a size (height, width), in words; None if nothing is."""
        lost = [f"{self.coloured} lose their colour"] if self.coloured else []
        for found, what in ((self.large, "shrunk"), (self.small, "enlarged")):
            if found:
                (width, height), number = found[0], len(found)
                lost.append(f"{number} are {what} to {size[0]} x {size[1]}, one from {height} x {width}")
        return f"of {self.looked_at} images looked at, {'; '.join(lost)}" if lost else None


def compare_images(rows: Iterable[Row], size: tuple[int, int], channels: int) -> ImageComparison:
    """Compare images with what an encoder reads, (height, width) and channels. Unreadable ones are passed over."""
    sizes, coloured = [], 0
    for row in rows:
        with contextlib.suppress(BadExample), open_image(row[IMAGE.column], "") as file:
            sizes.append(file.size)
            coloured += channels == 1 and in_colour(file)
    small = [found for found in sizes if found[0] < size[1] or found[1] < size[0]]
    large = [found for found in sizes if found[0] > size[1] and found[1] > size[0]]
    return ImageComparison(len(sizes), small, large, coloured)


class ImageData(Modality[ImageDataArguments]):
    """See `Modality`. An example is {"pixel_values": (channels, height, width) fp32}."""

    name = "images"
    arguments_class = ImageDataArguments
    kind = IMAGE
    config_fields = ("image_size", "patch_size", "num_channels")
    processor_class = AutoImageProcessor
    shapes = ("(batch, channels, height, width)", "(batch, CLS and patches, dim)")

    def __init__(self, args: ImageDataArguments, config: PreTrainedConfig, processor: Any = None):
        self.args = args
        self.size = as_pair(config.image_size)  # (height, width)
        self.grid, _ = self.smallest_grid(args, config)
        self.channels = int(config.num_channels)
        if self.channels not in (1, 3):
            raise ValueError(f"num_channels = {self.channels} is invalid: images are grey (1) or RGB (3).")
        self.processor = processor or BeitImageProcessorPil(
            size={"height": self.size[0], "width": self.size[1]},
            do_center_crop=False,
            do_convert_rgb=self.channels == 3,
            image_mean=args.image_mean or [0.5] * self.channels,
            image_std=args.image_std or [0.5] * self.channels,
        )
        self.mean = self._per_channel("image_mean", self.processor.image_mean)  # (channels, 1, 1)
        self.std = self._per_channel("image_std", self.processor.image_std)

    @classmethod
    def smallest_grid(cls, args: ImageDataArguments, config: PreTrainedConfig) -> tuple[tuple[int, int], str]:
        size, patch = as_pair(config.image_size), as_pair(config.patch_size)
        words = f"model.image_size = {config.image_size} and model.patch_size = {config.patch_size}"
        return (size[0] // patch[0], size[1] // patch[1]), words

    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        name = describe(row, IMAGE.column)
        height, width = self.size
        with open_image(row[IMAGE.column], name) as file:
            if rng is not None and self.args.crop == "random_resized":
                image = random_resized_crop(file, self.size, self.args.crop_area, self.channels, name, rng)
            else:
                image = decode(file, self.channels, name).resize((width, height), BICUBIC)
        if rng is not None:
            image = self._augment(image, rng)
        pixels = (
            np.asarray(image).reshape(height, width, self.channels).transpose(2, 0, 1).astype(np.float32, order="C")
        )
        pixels *= 1 / (255 * self.std)
        pixels -= self.mean / self.std
        return {"pixel_values": torch.from_numpy(pixels)}

    @staticmethod
    def real_tokens(encoder: Any, inputs: Mapping[str, Tensor], time: int) -> Tensor:
        images, patch = inputs["pixel_values"], as_pair(encoder.config.patch_size)
        patches = (images.shape[-2] // patch[0]) * (images.shape[-1] // patch[1])
        real = torch.arange(time, device=images.device) >= time - patches  # what is more stands in front
        return real.expand(len(images), time)

    def inspect(self, rows: Iterator[Row]) -> str | None:
        found = compare_images(rows, self.size, self.channels)
        height, width = self.size
        if 2 * len(found.small) > found.looked_at and not self.args.upscale:
            raise ValueError(
                f"{len(found.small)} of {found.looked_at} images are smaller than model.image_size = {height} x "
                f"{width}, one is {found.small[0][1]} x {found.small[0][0]}: set it to theirs, or data.upscale = true "
                "to enlarge them."
            )
        if found.coloured and not self.args.grayscale:
            raise ValueError(
                f"{found.coloured} of {found.looked_at} images are in colour, and model.num_channels = 1 is grey: set "
                "it to 3, or data.grayscale = true to drop the colour."
            )
        return found.lost(self.size)

    def collator(self, objective: ObjectiveConfig | None, seed: int) -> ImageCollator:
        return ImageCollator(objective, self.grid, seed)

    def _augment(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if self.args.crop == "shift":
            x, y = rng.integers(-self.args.shift_pixels, self.args.shift_pixels + 1, size=2).tolist()
            image = shift(image, x, y)
        if rng.random() < self.args.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return color_jitter(image, self.args.color_jitter, rng) if self.args.color_jitter else image

    def _per_channel(self, name: str, values: Any) -> np.ndarray:
        if len(values) != self.channels:
            raise ValueError(
                f"data.{name} = {list(values)} is invalid: give one number for each of the encoder's "
                f"num_channels = {self.channels}."
            )
        return np.asarray(values, dtype=np.float32)[:, None, None]


def open_image(value: Any, name: str) -> Image.Image:
    """The image of a path, bytes or {"bytes", "path"}, not decoded yet; `BadExample` where it is none or too large."""
    try:
        content = content_of(value)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # of a damaged TIFF, whose error follows
            image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadExample(f"{name}: {error} Shrink or remove it.", problem="too large") from error
    except Exception as error:  # a damaged file can raise anything in Pillow's decoders
        raise _not_opened(value, name, error) from error
    if max(image.size) > LONGEST_SIDE:  # Pillow keeps some bytes of every line, and bounds the pixels alone
        image.close()
        raise BadExample(f"{name} is {image.width} x {image.height} pixels: cut or remove it.", problem="too large")
    return image


def _not_opened(value: Any, name: str, error: Exception) -> BadExample:
    if TOO_LARGE in str(error) or TRUNCATED in str(error).lower():
        return _not_decoded(name, error)
    return unopened(value, name, "an image", IMAGE_TYPES, error)


def _not_decoded(name: str, error: Exception) -> BadExample:
    problem = "truncated" if TRUNCATED in str(error).lower() else "damaged"
    if TOO_LARGE in str(error) or isinstance(error, MemoryError):  # text or a colour profile in a PNG can be a bomb
        problem = "too large"
    return BadExample(f"{name} cannot be decoded ({error}): repair or remove it.", problem=problem)


def decode(file: Image.Image, channels: int, name: str, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The pixels, upright (EXIF), in mode L (1 channel) or RGB (3), from any mode.

    A JPEG may come at a half, a quarter or an eighth of its size, but no smaller than `at_least` (width, height).
    """
    try:
        if at_least is not None:
            file.draft(None, at_least)
        file.load()
        image = ImageOps.exif_transpose(file) if orientation(file) != 1 else file
    except Exception as error:
        raise _not_decoded(name, error) from error
    if image.mode.startswith("I;16"):  # scaled to 8 bits; Pillow's own conversion clips
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise BadExample(
            f"{name} has pixels of mode {image.mode!r}, whose range is not known: save it with 8 or 16 bits.",
            problem="pixel format",
        )
    elif image.mode == "LAB":  # Pillow has no way from it to grey
        image = image.convert("RGB")
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def in_colour(file: Image.Image) -> bool:
    """Whether red, green and blue differ, by more than JPEG makes of grey; False for a file that cannot be decoded."""
    if file.mode in GREY:
        return False
    try:
        file.draft(None, (64, 64))
        pixels = np.asarray(file.convert("RGB").resize((64, 64)), dtype=np.int64)
    except Exception:  # it is counted when it is read
        return False
    return bool(np.ptp(pixels, axis=-1).max() > 16)


def orientation(file: Image.Image) -> int:
    """EXIF orientation, 1 = upright; 5 to 8 swap width and height."""
    value = file.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def random_resized_crop(
    file: Image.Image, size: tuple[int, int], area: list[float], channels: int, name: str, rng: np.random.Generator
) -> Image.Image:
    """A crop of random area and aspect, resized to (height, width).

    The place is chosen from the header alone, so that of a JPEG much larger than its crop needs less is decoded.
    """
    try:
        upright, swapped = orientation(file) == 1, orientation(file) >= 5
    except Exception as error:
        raise _not_decoded(name, error) from error
    full = file.size[::-1] if swapped else file.size  # (width, height) as it is shown
    left, top, width, height = choose_crop(*full, area, rng)
    at_least = (math.ceil(full[0] * size[1] / width), math.ceil(full[1] * size[0] / height))
    image = decode(file, channels, name, at_least if upright else None)
    across, down = image.width / full[0], image.height / full[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    return image.resize((size[1], size[0]), BICUBIC, box=box)


def choose_crop(width: int, height: int, area: list[float], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height): area and log-aspect uniform, ten attempts, then the largest central fit."""
    for _ in range(10):
        target = width * height * rng.uniform(area[0], area[1])
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        wide, high = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = rng.integers(width - wide + 1), rng.integers(height - high + 1)
            return int(left), int(top), wide, high
    wide = min(width, max(1, round(height * ASPECTS[1])))
    high = min(height, max(1, round(width / ASPECTS[0])))
    return (width - wide) // 2, (height - high) // 2, wide, high


def shift(image: Image.Image, x: int, y: int) -> Image.Image:
    """Moved right by x and down by y pixels; what comes in repeats the edge."""
    border = max(abs(x), abs(y))
    padded = np.pad(np.asarray(image), [(border, border), (border, border)] + [(0, 0)] * (image.mode == "RGB"), "edge")
    top, left = border - y, border - x
    return Image.fromarray(padded[top : top + image.height, left : left + image.width])


def color_jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, each by a factor uniform in 1 -+ strength, in random order."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in rng.permutation(len(enhancers)):
        factor = rng.uniform(1 - strength, 1 + strength)
        image = enhancers[i](image).enhance(factor)
    return image
