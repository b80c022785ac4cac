"""Files and rows of video -> frames, or what is wrong with them.

PyAV reads films and comes with the extra `video`. Arrays of NumPy, and rows that hold a list of images, need it not.
"""

import importlib
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..data.bad_examples import BadExample
from ..data.file_types import content_of, unopened
from ..data.sources import MediaKind


VIDEO = MediaKind(
    column="video",
    feature=None,
    extensions=(".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg"),
    known_columns=("video", "frames", "clip", "file", "path"),
)
NUMPY = b"\x93NUMPY"
MOST_FRAMES = 20_000  # of a film
CHANNELS = {1: "gray", 3: "rgb24"}  # -> what PyAV calls such frames


class Clip(NamedTuple):
    """What a film holds."""

    frames: np.ndarray  # (frames, height, width, channels) uint8
    size: tuple[int, int]  # height and width of the film's own frames
    rate: float | None  # frames per second; None where nothing says


def read_video(value: Any, name: str, channels: int, size: tuple[int, int] | None = None) -> Clip:
    """The frames of a row.

    Args:
        value: a path, the bytes of a file, {"bytes", "path"}, or a list of images.
        channels: of a frame, 3 or 1 (grey).
        size: (height, width) that a film is scaled to while it is decoded, or it would not fit into memory.

    Raises:
        BadExample: it cannot be read, has no frame, or too many.
        ValueError: the extra that reads films is not installed.
    """
    try:
        frames, rate, own = _images(value), None, None
        if frames is None:
            content = content_of(value)
            frames, rate, own = (
                _film(content, channels, size) if not _is_array(content) else (_array(content), None, None)
            )
        frames = _with_channels(frames, channels)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name} needs the package {error.name}: pip install 'data2vec[video]'.") from error
    except (BadExample, MemoryError) as error:
        raise BadExample(
            f"{name} has more than {MOST_FRAMES} frames, or larger ones than fit: cut it.", "too large"
        ) from error
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise unopened(value, name, "a video", set(), error) from error
    if not len(frames):
        raise BadExample(f"{name} holds no frames: remove it.", "empty")
    return Clip(frames, own or frames.shape[1:3], rate)


def _images(value: Any) -> np.ndarray | None:
    """A list of pictures, decoded or as files."""
    if not isinstance(value, list) or not value:
        return None
    if isinstance(value[0], Mapping):
        image = importlib.import_module("PIL.Image")
        return np.stack([np.asarray(image.open(_opened(content_of(one)))) for one in value])
    return np.stack([np.asarray(one, dtype=np.uint8) for one in value])


def _opened(content: Any) -> Any:
    return io.BytesIO(content) if isinstance(content, bytes) else content


def _is_array(content: Any) -> bool:
    if isinstance(content, bytes):
        return content.startswith(NUMPY)
    with open(content, "rb") as file:
        return file.read(len(NUMPY)) == NUMPY


def _array(content: Any) -> np.ndarray:
    array: np.ndarray = np.load(_opened(content), allow_pickle=False)
    if array.dtype != np.uint8:
        raise ValueError(f"it holds {array.dtype}, not uint8")
    return array


def _with_channels(frames: np.ndarray, channels: int) -> np.ndarray:
    """(frames, height, width, channels), of frames with 3 channels, with 1 or without such an axis."""
    frames = frames[..., None] if frames.ndim == 3 else frames
    if frames.ndim != 4 or frames.shape[3] not in CHANNELS:
        raise ValueError(f"its shape is {frames.shape}, not (frames, height, width, 1 or 3)")
    if frames.shape[3] == channels:
        return frames
    if channels == 3:
        return frames.repeat(3, axis=3)
    grey = frames @ np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow and OpenCV
    return grey.round().astype(np.uint8)[..., None]


def _film(
    content: Any, channels: int, size: tuple[int, int] | None
) -> tuple[np.ndarray, float | None, tuple[int, int]]:
    av = importlib.import_module("av")
    with av.open(_opened(content)) as container:
        if not container.streams.video:
            raise ValueError("it has no pictures")
        stream = container.streams.video[0]
        rate, own = stream.average_rate, (stream.height, stream.width)
        high, wide = size or own
        found: list[np.ndarray] = []
        for frame in container.decode(stream):
            if len(found) == MOST_FRAMES:
                raise BadExample("too many frames", "too large")
            found.append(frame.to_ndarray(format=CHANNELS[channels], width=wide, height=high))
    shape = (0, high, wide) if channels == 1 else (0, high, wide, 3)
    return np.stack(found) if found else np.empty(shape, np.uint8), None if rate is None else float(rate), own


def read_sound(value: Any, name: str, rate: int) -> np.ndarray:
    """The sound of a film as (samples,) fp32, mono, at `rate`.

    Raises:
        BadExample: the film cannot be read, or is silent.
        ValueError: the extra that reads films is not installed.
    """
    try:
        av = importlib.import_module("av")
        with av.open(_opened(content_of(value))) as container:
            if not container.streams.audio:
                raise BadExample(f"{name} has no sound, and there is none beside it: remove it.", "silent")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            parts = [
                made.to_ndarray()[0]
                for frame in (*container.decode(container.streams.audio[0]), None)
                for made in resampler.resample(frame)
            ]
    except ModuleNotFoundError as error:
        raise ValueError(f"{name} needs the package {error.name}: pip install 'data2vec[video]'.") from error
    except BadExample:
        raise
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise unopened(value, name, "a video", set(), error) from error
    wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not len(wave) or wave.min() == wave.max():
        raise BadExample(f"{name} is silent: remove it.", "silent")
    return wave
