"""`builtin:figures`: a stick figure that moves in one of six ways, as video and as a skeleton of 15 joints.

The video is drawn from the skeleton, on a background of noise and in other colours each time: it is easier than a film
of people, and no evidence about one.
"""

import io
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageDraw


FRAMES, SIDE = 16, 32  # of a clip, and pixels of a frame
SIZES = {"train": 480, "validation": 96, "test": 240}
MOTIONS = ("wave", "clap", "jump", "squat", "kick", "walk")
BONES = (
    (0, 1), (1, 2), (1, 3), (3, 4), (4, 5), (1, 6), (6, 7), (7, 8), (2, 9), (9, 10), (10, 11), (2, 12), (12, 13),
    (13, 14),
)  # fmt: skip
# head, neck, hip; shoulder, elbow, hand of each arm; hip, knee, foot of each leg; the figure is 1 high, y goes down
REST = np.array(
    [(0, 0.05), (0, 0.2), (0, 0.55)]
    + [(-0.1, 0.22), (-0.14, 0.36), (-0.16, 0.5), (0.1, 0.22), (0.14, 0.36), (0.16, 0.5)]
    + [(-0.06, 0.56), (-0.07, 0.76), (-0.08, 0.97), (0.06, 0.56), (0.07, 0.76), (0.08, 0.97)]
)
Rng = np.random.Generator


def moved(motion: str, phase: np.ndarray) -> np.ndarray:
    """Joints (frames, 15, 2) of a figure at the `phase` (frames,) of its motion."""
    swing, lift = np.sin(phase), (1 - np.cos(phase)) / 2
    joints = np.repeat(REST[None], len(phase), axis=0)
    if motion == "wave":
        joints[:, 7] = joints[:, 6] + (0.15, -0.02)
        joints[:, 8] = joints[:, 7] + np.stack((0.12 * swing, np.full_like(phase, -0.15)), 1)
    elif motion == "clap":
        for hand, elbow, side in ((5, 4, -1), (8, 7, 1)):
            joints[:, elbow] = joints[:, elbow - 1] + (side * 0.1, 0.08)
            joints[:, hand] = np.stack((side * (0.02 + 0.25 * lift), np.full_like(phase, 0.3)), 1)
    elif motion == "jump":
        joints[..., 1] -= 0.2 * lift[:, None]
    elif motion == "squat":
        joints[:, :9, 1] += 0.2 * lift[:, None]
        joints[:, [9, 12], 1] += 0.2 * lift[:, None]
        joints[:, 10, 0] -= 0.12 * lift
        joints[:, 13, 0] += 0.12 * lift
    elif motion == "kick":
        joints[:, 13] += np.stack((0.12 * lift, -0.1 * lift), 1)
        joints[:, 14] += np.stack((0.35 * lift, -0.3 * lift), 1)
    else:
        for knee, foot, elbow, hand, side in ((10, 11, 4, 5, 1), (13, 14, 7, 8, -1)):
            joints[:, knee, 0] += side * 0.1 * swing
            joints[:, foot, 0] += side * 0.2 * swing
            joints[:, elbow, 0] -= side * 0.06 * swing
            joints[:, hand, 0] -= side * 0.14 * swing
    return joints


def skeleton(motion: str, rng: Rng) -> np.ndarray:
    """Joints of a clip in pixels, (frames, 1 person, 15, 2) float32: speed, size, place and trembling of its own."""
    phase = rng.uniform(0, 2 * np.pi) + rng.uniform(0.4, 0.9) * np.arange(FRAMES)
    joints = moved(motion, phase) - (0, 0.5)
    joints[..., 0] *= rng.choice((-1, 1))
    height = rng.uniform(0.6, 0.8) * SIDE
    place = SIDE / 2 + rng.uniform(-0.1, 0.1, 2) * SIDE
    joints = joints * height + place + rng.normal(scale=0.15, size=joints.shape)
    return joints[:, None].astype(np.float32)


def film(points: np.ndarray, rng: Rng, bones: Sequence[tuple[int, int]] = BONES, head: int = 0) -> np.ndarray:
    """The clip drawn: (frames, height, width, 3) uint8; `bones` are pairs of joints, `head` is one."""
    background = rng.normal(rng.uniform(60, 190, 3), 25, (SIDE, SIDE, 3))
    colour, width = tuple(int(level) for level in rng.integers(0, 256, 3)), int(rng.integers(1, 4))
    frames = []
    for (joints,) in points.tolist():
        noise = rng.normal(scale=12, size=background.shape)
        image = Image.fromarray(np.clip(background + noise, 0, 255).astype(np.uint8))
        pen = ImageDraw.Draw(image)
        for first, second in bones:
            pen.line(joints[first] + joints[second], fill=colour, width=width)
        x, y = joints[head]
        pen.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
        frames.append(np.asarray(image))
    return np.stack(frames)


def figures() -> datasets.DatasetDict:
    """Columns video and skeleton (contents of .npy files) and label; 480 to train, 96 to validate, 240 to test."""
    content = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features(
        {"video": content, "skeleton": content, "label": datasets.ClassLabel(names=list(MOTIONS))}
    )
    splits = {}
    for part, (name, size) in enumerate(SIZES.items()):
        rng = np.random.default_rng(part)
        rows: dict[str, list[Any]] = {"video": [], "skeleton": [], "label": []}
        for number in range(size):
            points = skeleton(MOTIONS[number % len(MOTIONS)], rng)
            rows["video"].append(_npy(film(points, rng)))
            rows["skeleton"].append(_npy(points))
            rows["label"].append(number % len(MOTIONS))
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(splits)


def _npy(array: np.ndarray) -> dict[str, bytes | None]:
    file = io.BytesIO()
    np.save(file, array)
    return {"bytes": file.getvalue(), "path": None}
