"""Data of two streams for the experiments, one of them made up: figures of real skeletons, mouths of real speech.

Both are easier than films: what is drawn follows from the other stream, and nothing is hidden behind anything else.
"""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile

from data2vec.pretraining.data.builtin_figures import SIDE, film


CLIP = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}

# JHMDB's joints: neck, belly, face, then right and left of shoulder, hip, elbow, knee, wrist and ankle
FACE = 2
BONES = (
    (2, 0), (0, 1), (0, 3), (3, 7), (7, 11), (0, 4), (4, 8), (8, 12), (1, 5), (5, 9), (9, 13), (1, 6), (6, 10),
    (10, 14),
)  # fmt: skip


def figures(data: Path, split: str) -> datasets.Dataset:
    """Clips of JHMDB: a person's joints, and a figure drawn from them with noise, colours and strokes of its own."""
    rows: dict[str, list[Any]] = {"video": [], "skeleton": [], "label": []}
    of_split = datasets.load_dataset(str(data / "skeleton_jhmdb_split1"))[split]
    rng = np.random.default_rng(len(of_split))
    names = of_split.features["label"]
    for row in of_split:
        points = fitted(np.asarray(row["joints"], np.float32).reshape(-1, 1, 15, 2))
        rows["video"].append(npy(film(points, rng, BONES, FACE)))
        rows["skeleton"].append(npy(points))
        rows["label"].append(names.int2str(row["label"]) if hasattr(names, "int2str") else str(row["label"]))
    features = datasets.Features({"video": CLIP, "skeleton": CLIP, "label": datasets.Value("string")})
    return datasets.Dataset.from_dict(rows, features=features)


def fitted(points: np.ndarray) -> np.ndarray:
    """Joints (..., 2) of a clip in pixels of a frame that they fill to nine tenths, as a crop of the person would."""
    low, high = points.min((0, 1, 2)), points.max((0, 1, 2))
    middle, largest = (low + high) / 2, float((high - low).max())
    placed: np.ndarray = (points - middle) / largest * 0.9 * SIDE + SIDE / 2
    return placed.astype(np.float32)


FPS, MOUTH = 25, 16  # frames a second, and pixels of their sides
LOUDNESS = 30.0  # dB below a clip's loudest frame at which its mouth is shut
PITCH = (500.0, 2500.0)  # Hz of the spectral centroid at which it is narrowest and widest


def with_mouth(row: dict[str, Any], index: int) -> dict[str, Any]:
    """The clip's `video`: a mouth that opens with the sound's energy and widens with its spectral centroid."""
    wave, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
    return {"video": npy(mouth(*movement(wave, rate), np.random.default_rng(index)))}


def movement(wave: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """How far a mouth is open and how wide it is, 0 to 1, (frames,) each."""
    size = rate // FPS
    frames = np.pad(wave, (0, -len(wave) % size)).reshape(-1, size)
    level = 20 * np.log10(np.sqrt((frames**2).mean(1)) + 1e-6)
    opened = np.clip((level - level.max()) / LOUDNESS + 1, 0, 1)
    power = np.abs(np.fft.rfft(frames * np.hanning(size))) ** 2 + 1e-12
    centroid = (power * np.fft.rfftfreq(size, 1 / rate)).sum(1) / power.sum(1)
    return opened, np.clip((centroid - PITCH[0]) / (PITCH[1] - PITCH[0]), 0, 1)


def mouth(opened: np.ndarray, wide: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey frames (frames, 16, 16) uint8: place, size, skin, lips, light and noise are the clip's own."""
    fine = 3 * MOUTH  # drawn larger and averaged
    y, x = np.mgrid[0:fine, 0:fine] / fine - 0.5 - rng.uniform(-0.08, 0.08, (2, 1, 1))
    size, skin = rng.uniform(0.85, 1.15), rng.uniform(0.45, 0.75)
    lips, inside = skin - rng.uniform(0.1, 0.25), rng.uniform(0.02, 0.15)
    light = 0.15 * (rng.uniform(-1, 1) * x + rng.uniform(-1, 1) * y)
    across = size * (0.2 + 0.18 * wide)[:, None, None]
    down = size * (0.01 + 0.24 * opened)[:, None, None]
    thick = size * rng.uniform(0.06, 0.1)
    frames = np.full((len(opened), fine, fine), skin) + light
    for half_width, half_height, level in ((across + thick, down + thick, lips), (across, down, inside)):
        frames = np.where((x / half_width) ** 2 + (y / half_height) ** 2 < 1, level + light, frames)
    frames = frames.reshape(len(opened), MOUTH, 3, MOUTH, 3).mean((2, 4))
    return np.round(255 * np.clip(frames + rng.normal(scale=0.04, size=frames.shape), 0, 1)).astype(np.uint8)


def npy(array: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, array)
    return {"bytes": file.getvalue(), "path": None}
