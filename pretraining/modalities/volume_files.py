"""Files of volumes -> an array (depth, height, width), or what is wrong with them.

nibabel reads NIfTI and pydicom DICOM; both come with the extra `medical`. What a header says of a patient is not read,
and no message repeats it.
"""

import gzip
import importlib
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.bad_examples import BadExample
from ..data.file_types import content_of, unopened
from ..data.sources import MediaKind


VOLUME = MediaKind(
    column="volume",
    feature=None,
    extensions=(".nii", ".dcm", ".npy"),
    known_columns=("volume", "image", "scan", "ct", "mr", "file", "path"),
)
OWN_TYPES = {"gzip-compressed", "text"}  # of file_types, what a volume may be
MOST_VOXELS = 2**29  # 2 GiB of fp32


def read_volume(value: Any, name: str) -> np.ndarray:
    """The intensities of a row, (depth, height, width) float32, finite; slices are the first axis.

    Args:
        value: a path, the bytes of a file, {"bytes", "path"}; or a list of such, the slices of a DICOM series in any
            order.

    Raises:
        BadExample: it cannot be read, is no volume, or holds NaN or infinity.
        ValueError: the extra that reads such files is not installed.
    """
    slices = value if isinstance(value, list) else [value]
    try:
        contents = [_bytes_of(part) for part in slices]
        if all(is_dicom(content) for content in contents):
            volume = _dicom(contents)
        elif len(contents) > 1:
            raise BadExample(f"{name} is a list of files that are not all DICOM: correct the source.", "wrong type")
        else:
            volume = _npy(contents[0]) if contents[0].startswith(b"\x93NUMPY") else _nifti(contents[0])
    except BadExample:
        raise
    except ModuleNotFoundError as error:
        raise ValueError(f"{name} needs the package {error.name}: pip install 'data2vec[medical]'.") from error
    except MemoryError as error:
        raise BadExample(f"{name} says that it is too large for the memory: remove it.", "too large") from error
    except EOFError as error:
        raise BadExample(f"{name} ends before its header says: repair it.", "truncated") from error
    except Exception as error:  # a damaged file can raise anything in a decoder, whose words may repeat a header
        raise unopened(slices[0], name, "a volume", OWN_TYPES, ValueError(type(error).__name__)) from None
    return _checked(volume, name)


def is_dicom(content: bytes) -> bool:
    return content[128:132] == b"DICM"


def _bytes_of(value: Any) -> bytes:
    content = content_of(value)
    if isinstance(content, str):
        with open(content, "rb") as file:
            content = file.read()
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else bytes(content)


def _npy(content: bytes) -> np.ndarray:
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _nifti(content: bytes) -> np.ndarray:
    nibabel = importlib.import_module("nibabel")
    kind = nibabel.Nifti2Image if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nibabel.Nifti1Image
    image = kind.from_bytes(content)
    if np.prod(image.shape, dtype=np.float64) > MOST_VOXELS:
        raise MemoryError
    data = np.asarray(nibabel.as_closest_canonical(image).dataobj, dtype=np.float32)
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    return data.transpose(2, 1, 0) if data.ndim == 3 else data  # from x, y, z


def _dicom(contents: list[bytes]) -> np.ndarray:
    pydicom = importlib.import_module("pydicom")
    parts = [pydicom.dcmread(io.BytesIO(content)) for content in contents]
    arrays = [_rescaled(part) for part in sorted(parts, key=_place)]
    if len(arrays) == 1:
        return arrays[0]
    return np.stack(arrays)


def _place(part: Any) -> tuple[float, float]:
    """Where a slice is: along the body or, where that is not said, by its number."""
    position = getattr(part, "ImagePositionPatient", None)
    direction = getattr(part, "ImageOrientationPatient", None)
    along = 0.0
    if position is not None and direction is not None:
        normal = np.cross(np.asarray(direction[:3], dtype=float), np.asarray(direction[3:], dtype=float))
        along = float(np.dot(normal, np.asarray(position, dtype=float)))
    return along, float(getattr(part, "InstanceNumber", 0) or 0)


def _rescaled(part: Any) -> np.ndarray:
    slope, intercept = (float(getattr(part, name, default)) for name, default in SCALE)
    pixels: np.ndarray = part.pixel_array.astype(np.float32) * slope + intercept
    return pixels


SCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))  # to Hounsfield units


def _checked(volume: np.ndarray, name: str) -> np.ndarray:
    if volume.ndim != 3 or volume.dtype.kind not in "biuf":
        raise BadExample(
            f"{name} has the shape {volume.shape} of {volume.dtype}: a volume is (depth, height, width) of numbers.",
            problem="pixel format",
        )
    if not volume.size:
        raise BadExample(f"{name} holds no voxels: remove it.", problem="empty")
    if volume.size > MOST_VOXELS:
        raise BadExample(f"{name} has {volume.size} voxels: cut it.", problem="too large")
    volume = volume.astype(np.float32, copy=False)
    if not np.isfinite(volume).all():
        raise BadExample(f"{name} holds NaN or infinite intensities: repair or remove it.", problem="not finite")
    return volume


def series_of(path: Any) -> str | None:
    """The folder of a DICOM file, whose files are the slices of one volume."""
    path = path.get("path") if isinstance(path, Mapping) else path
    return os.path.dirname(path) if isinstance(path, str) and path.lower().endswith(".dcm") else None
