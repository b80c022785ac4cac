"""`builtin:shapes`: solids in a row, as points on their surfaces; what is in the middle says the class.

A cloud holds three of four solids (ball, box, cone, ring) that touch in a chain, turned at random and noisy. There are
12 classes: which three, and which of them is between the others. Which solids there are can be told from any place of
the cloud; which is in the middle only from how they lie to each other.
"""

import io
from collections.abc import Callable
from itertools import combinations
from typing import Any

import datasets
import numpy as np


POINTS = 512
NOISE = 0.02  # standard deviation, where a solid is about 1 wide
SIZES = {"train": 1200, "validation": 240, "test": 600}
Rng = np.random.Generator


def ball(count: int, rng: Rng) -> np.ndarray:
    """(count, 3) on the surface of a solid about the origin, of height 1 along the last axis."""
    directions = rng.normal(size=(count, 3))
    return 0.5 * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def box(count: int, rng: Rng) -> np.ndarray:
    points = rng.uniform(-0.5, 0.5, size=(count, 3))
    axis = rng.integers(3, size=count)
    points[np.arange(count), axis] = np.where(rng.random(count) < 0.5, -0.5, 0.5)
    return points


def cone(count: int, rng: Rng) -> np.ndarray:
    angle, side = rng.uniform(0, 2 * np.pi, count), rng.random(count) < 0.7  # or the base
    radius = 0.5 * np.sqrt(rng.random(count))
    height = np.where(side, 0.5 - 2 * radius, -0.5)
    return np.stack((radius * np.cos(angle), radius * np.sin(angle), height), axis=1)


def ring(count: int, rng: Rng) -> np.ndarray:
    around, through = rng.uniform(0, 2 * np.pi, size=(2, count))
    radius = 0.36 + 0.14 * np.cos(through)  # it stands on its edge
    return np.stack((0.14 * np.sin(through), radius * np.cos(around), radius * np.sin(around)), axis=1)


SOLIDS: dict[str, Callable[[int, Rng], np.ndarray]] = {"ball": ball, "box": box, "cone": cone, "ring": ring}
CLASSES = tuple(
    (middle, *(solid for solid in chosen if solid != middle))
    for chosen in combinations(SOLIDS, 3)
    for middle in chosen
)  # (middle, one end, the other)


def shape(number: int, rng: Rng) -> np.ndarray:
    """A cloud of a class, (512, 3) float32."""
    middle, *ends = CLASSES[number]
    chain = [ends[0], middle, ends[1]] if rng.random() < 0.5 else [ends[1], middle, ends[0]]
    sizes = rng.uniform(0.7, 1.3, size=(3, 3))  # of each solid along each axis
    places = np.array([-(sizes[0, 2] + sizes[1, 2]) / 2, 0, (sizes[1, 2] + sizes[2, 2]) / 2])
    counts = np.array([171, 171, 170])
    parts = []
    for solid, size, place, count in zip(chain, sizes, places, counts, strict=True):
        up = 1 if rng.random() < 0.5 else -1
        points = SOLIDS[solid](count, rng) * size * (1, 1, up)
        parts.append(points + rng.normal(size=3) * (0.1, 0.1, 0) + (0, 0, place))
    points = np.concatenate(parts)
    points += rng.normal(scale=NOISE, size=points.shape)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return rng.permutation(points @ turn).astype(np.float32)


def shapes() -> datasets.DatasetDict:
    """Columns points (the content of a .npy file) and label; 1200 to train, 240 to validate, 600 to test."""
    names = [f"{middle} between {first} and {last}" for middle, first, last in CLASSES]
    features = datasets.Features(
        {
            "points": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=names),
        }
    )
    splits = {}
    for part, (name, size) in enumerate(SIZES.items()):
        rng = np.random.default_rng(part)
        labels = [number % len(CLASSES) for number in range(size)]
        rows: dict[str, Any] = {"points": [_npy(shape(number, rng)) for number in labels], "label": labels}
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(splits)


def _npy(points: np.ndarray) -> dict[str, bytes | None]:
    file = io.BytesIO()
    np.save(file, points)
    return {"bytes": file.getvalue(), "path": None}
