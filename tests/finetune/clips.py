"""Clips of two streams, and what is fine-tuned on them."""

import io
from typing import Any

import numpy as np
import soundfile

from data2vec.modeling import AvData2VecFeatureExtractor, AvData2VecModel, SvData2VecFeatureExtractor, SvData2VecModel


ENCODERS: dict[str, tuple[Any, Any]] = {
    "sv": (SvData2VecModel, SvData2VecFeatureExtractor),
    "av": (AvData2VecModel, AvData2VecFeatureExtractor),
}
FRAMES = 11


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def figure_row(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """A person of five joints at the left or at the right; the film is dark or bright as well."""
    side = number % 2
    points = rng.normal(2 + 5 * side, 0.5, (FRAMES, 1, 5, 2)).astype(np.float32)
    film = rng.integers(100 * side, 100 * side + 120, (FRAMES, 10, 10, 3), dtype=np.uint8)
    return {"video": npy(film), "skeleton": npy(points), "label": ("left", "right")[side]}


def talk_row(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Noise of 11 to 13 frames, in which 1 to 4 letters are said."""
    frames, sound = FRAMES + number % 3, io.BytesIO()
    soundfile.write(sound, rng.normal(scale=0.1, size=640 * frames), 16000, format="wav")
    film = rng.integers(0, 255, (frames, 12, 11), dtype=np.uint8)
    return {"video": npy(film), "audio": sound.getvalue(), "text": "ab a"[: 1 + number % 4]}
