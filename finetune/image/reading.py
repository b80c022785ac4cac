"""A row with an image -> {"pixel_values": (channels, height, width)}: augmented for training, plain for evaluation.

Evaluation is the saved image processor's own work, so that a pipeline reads an image as the evaluation did.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from ...modeling.embed_image import as_pair
from ...pretraining.data.modality import describe
from ...pretraining.modalities.image import BICUBIC, IMAGE, decode, open_image, random_resized_crop, shift
from ..arguments import FineTuneRun
from .arguments import ImageClassificationArguments, ImageClassificationData
from .augment import RandAugment, random_erasing


class ImageReader:
    """Reads images for an encoder.

    Attributes:
        size: (height, width) of what is read.
        grid: its patches, (height, width).
        processor: that of the checkpoint, with the recipe's size.

    Raises:
        ValueError: the checkpoint has no image processor, or the size is not one of whole patches.
    """

    def __init__(self, run: FineTuneRun, args: ImageClassificationArguments, data: ImageClassificationData):
        config: Any = run.config
        self.args, self.channels = args, int(config.num_channels)
        self.size = as_pair(data.resolution or config.image_size)
        patch = as_pair(config.patch_size)
        if any(side % cell for side, cell in zip(self.size, patch, strict=True)):
            raise ValueError(
                f"data.resolution = {data.resolution or config.image_size} is invalid: use multiples of the "
                f"encoder's patch_size = {config.patch_size}."
            )
        self.grid = (self.size[0] // patch[0], self.size[1] // patch[1])
        self.processor = load_processor(run.checkpoint, self.size, data.center_crop, self.channels)
        mean, std = (
            np.asarray(values, dtype=np.float32)[:, None, None]
            for values in (self.processor.image_mean, self.processor.image_std)
        )  # (channels, 1, 1) each
        self.mean, self.std = torch.from_numpy(mean), torch.from_numpy(std)
        self.rand_augment = None
        if args.rand_augment_operations:
            fill = tuple(round(255 * value) for value in self.processor.image_mean)
            self.rand_augment = RandAugment(
                args.rand_augment_operations,
                args.rand_augment_magnitude,
                args.rand_augment_spread,
                args.rand_augment_probability,
                fill,
            )

    def read(self, row: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Tensor]:
        """One image; `rng` draws the augmentation, `None` is the processor's reading. Raises `BadExample`."""
        name = describe(row, IMAGE.column)
        with open_image(row[IMAGE.column], name) as file:
            if rng is None:
                image = decode(file, self.channels, name)
                return {"pixel_values": self.processor(image, return_tensors="pt")["pixel_values"][0]}
            image = self._crop(file, name, rng)
        if rng.random() < self.args.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment is not None:
            image = self.rand_augment(image, rng)
        pixels = (_to_tensor(image) - self.mean) / self.std  # (channels, height, width)
        if rng.random() < self.args.erasing:
            pixels = random_erasing(pixels, rng)
        return {"pixel_values": pixels}

    def _crop(self, file: Image.Image, name: str, rng: np.random.Generator) -> Image.Image:
        height, width = self.size
        if self.args.crop == "random_resized":
            return random_resized_crop(file, self.size, self.args.crop_area, self.channels, name, rng)
        image = decode(file, self.channels, name).resize((width, height), BICUBIC)
        if self.args.crop == "none":
            return image
        most = self.args.shift_pixels
        across, down = rng.integers(-most, most + 1, size=2).tolist()
        return shift(image, across, down)


def load_processor(checkpoint: str, size: tuple[int, int], center_crop: float | None, channels: int) -> Any:
    """The checkpoint's image processor, which then makes images of `size`.

    Raises:
        ValueError: there is none, or it is for another number of channels.
    """
    try:
        processor: Any = AutoImageProcessor.from_pretrained(checkpoint, backend="pil", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.model_name_or_path = {checkpoint!r} has no image processor (preprocessor_config.json), which says "
            f"how images are normalised: save the one it was pretrained with beside it. {error}"
        ) from error
    if len(processor.image_mean) != channels:
        raise ValueError(
            f"model.model_name_or_path = {checkpoint!r}: its image processor has {len(processor.image_mean)} "
            f"channels, the encoder num_channels = {channels}: correct preprocessor_config.json."
        )
    whole = {"height": size[0], "width": size[1]}
    if center_crop is None:
        changes: dict[str, Any] = {"size": whole, "do_center_crop": False}
    else:
        changes = {"size": {"shortest_edge": round(min(size) / center_crop)}, "do_center_crop": True}
        changes["crop_size"] = whole
    return type(processor)(**{**processor.to_dict(), **changes, "do_resize": True, "do_convert_rgb": channels == 3})


def _to_tensor(image: Image.Image) -> Tensor:
    """(channels, height, width) fp32 in [0, 1]."""
    values = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(values.reshape(*values.shape[:2], -1).transpose(2, 0, 1).copy()) / 255
