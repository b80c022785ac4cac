"""What is asked about CIFAR-10: of an image its class, colour and spatial frequency; where a smaller copy of it was
placed on a grey canvas; by which quarter turn it was rotated.
"""

from typing import Any

import datasets
import numpy as np
import torch
from experiment import Experiment
from knows_probe import Inputs, Question, Splits
from PIL import Image


SIDE, SMALL = 32, 20  # pixels of an image, and of the copy that is placed
GREY = 120
TURNS = 4
IMAGES = 1000  # to train on, and to test on


def splits(of: Experiment, processor: Any) -> Splits:
    moments = processor.image_mean, processor.image_std
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in moments)

    def examples(images: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """As the encoder reads them."""
        pixels = (images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - mean) / std
        return [{"pixel_values": image} for image in torch.from_numpy(pixels)]

    parts = []
    for seed, name in enumerate(("train", "test")):
        rows = datasets.Dataset.from_parquet(str(of.prepared.probes / "test" / f"{name}.parquet"))
        rows = rows.shuffle(seed=0).select(range(IMAGES))
        images = np.stack([np.asarray(image.convert("RGB")) for image in rows["image"]])
        labels, rng = np.asarray(rows["label"][:]), np.random.default_rng(seed)
        corners, turns = rng.integers(0, SIDE - SMALL + 1, (len(images), 2)), rng.integers(0, TURNS, len(images))
        moved = np.stack([placed(image, *corner) for image, corner in zip(images, corners, strict=True)])
        turned = np.stack([np.rot90(image, turn) for image, turn in zip(images, turns, strict=True)])
        flat = {"pixels, 16 x 16": averaged(images)}
        frequency = np.log2([spatial_frequency(image) for image in images])[:, None]
        parts.append(
            [
                Inputs(
                    examples(images),
                    {
                        "class": Question(labels, flat),
                        "colour": Question(colour(images), flat),
                        "spatial frequency": Question(frequency, flat),
                    },
                ),
                Inputs(
                    examples(moved),
                    {"position": Question(corners.astype(np.float32), {"pixels, 16 x 16": averaged(moved)})},
                ),
                Inputs(examples(turned), {"rotation": Question(turns, {"pixels, 16 x 16": averaged(turned)})}),
            ]
        )
    return list(zip(*parts, strict=True))


def placed(image: np.ndarray, x: int, y: int) -> np.ndarray:
    """The image, smaller, with its upper left corner at (x, y) of a grey canvas, (side, side, channels) uint8."""
    canvas = np.full_like(image, GREY)
    canvas[y : y + SMALL, x : x + SMALL] = Image.fromarray(image).resize((SMALL, SMALL), Image.Resampling.BICUBIC)
    return canvas


def colour(images: np.ndarray) -> np.ndarray:
    """Mean of red against green and of yellow against blue, (images, 2), from -1 to 1."""
    red, green, blue = images.mean((1, 2)).T / 255
    return np.stack([red - green, (red + green) / 2 - blue], 1)


def spatial_frequency(image: np.ndarray) -> float:
    """Mean frequency of the power of the grey image, in cycles an image."""
    grey, side = image.mean(2), len(image)
    window = np.outer(np.hanning(side), np.hanning(side))
    power = np.abs(np.fft.fft2((grey - np.average(grey, weights=window)) * window)) ** 2
    frequency = side * np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    return float(np.average(frequency, weights=power + 1e-9))


def averaged(images: np.ndarray) -> np.ndarray:
    """Pixels averaged two by two, (images, dim)."""
    halves = images.reshape(len(images), SIDE // 2, 2, SIDE // 2, 2, -1).mean((2, 4))
    return halves.reshape(len(images), -1).astype(np.float32) / 255
