"""Files and rows of point clouds and meshes -> a table of points, or what is wrong with them.

trimesh reads meshes and what else holds vertices, pypcd4 the format of the Point Cloud Library; both come with the
extra `points`. Arrays and text need neither.
"""

import importlib
import io
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..data.bad_examples import BadExample
from ..data.file_types import content_of, unopened
from ..data.sources import MediaKind


POINTS = MediaKind(
    column="points",
    feature=None,
    extensions=(".ply", ".npy", ".npz", ".pcd", ".xyz", ".txt", ".off", ".obj", ".stl"),
    known_columns=("points", "point_cloud", "pointcloud", "cloud", "xyz", "mesh", "file", "path"),
)
MAGIC = {
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
    b"ply": ".ply",
    b"OFF": ".off",
    b"# .PCD": ".pcd",
    b"VERSION": ".pcd",
}
ARRAYS = ("points", "xyz", "pos", "pc", "arr_0")  # what the cloud is called in an npz of several arrays
OWN_TYPES = {"text", "a ZIP archive"}  # of file_types, what a cloud may be


def read_points(value: Any, name: str, columns: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """The points of a row, (points, 3 or more) float32: finite coordinates, and what else the file has of each.

    Args:
        value: a path, the bytes of a file, {"bytes", "path"}, or the numbers themselves.
        columns: numbers per point in a flat list.
        samples: points that are drawn on the surface of a mesh, uniformly.

    Raises:
        BadExample: it cannot be read, is empty, or holds NaN or infinity.
        ValueError: the extra that reads such files is not installed.
    """
    if isinstance(value, str | bytes) or (isinstance(value, Mapping) and {"bytes", "path"} & value.keys()):
        table = _decoded(value, name, samples, rng)
    else:
        table = _numbers(value, name, columns)
    if table.ndim != 2 or table.shape[1] < 3:
        raise BadExample(
            f"{name} has the shape {table.shape}: a cloud is (points, 3) or more numbers per point.", problem="damaged"
        )
    if not len(table):
        raise BadExample(f"{name} holds no points: remove it.", problem="empty")
    if not np.isfinite(table[:, :3]).all():
        raise BadExample(f"{name} holds NaN or infinite coordinates: repair or remove it.", problem="not finite")
    return table


def _numbers(value: Any, name: str, columns: int) -> np.ndarray:
    try:
        table = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadExample(f"{name} holds no points, but {value!r:.60}: correct the source.") from error
    if table.ndim != 1:
        return table
    if len(table) % columns:
        raise BadExample(
            f"{name} is a flat list of {len(table)} numbers, which are no points of data.point_columns = {columns}.",
            problem="damaged",
        )
    return table.reshape(-1, columns)


def _decoded(value: Any, name: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    try:
        content = content_of(value)
        if isinstance(content, str):
            with open(content, "rb") as file:
                data = file.read()
        else:
            data = bytes(content)
        ending = next((kind for start, kind in MAGIC.items() if data.startswith(start)), _ending(value))
        table = READERS.get(ending, _text)(data, ending, samples, rng)
        return np.asarray(table, dtype=np.float32)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} needs the package {error.name}, which reads {ending} files: pip install 'data2vec[points]'."
        ) from error
    except MemoryError as error:
        raise BadExample(f"{name} says that it is too large for the memory: remove it.", "too large") from error
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise unopened(value, name, "a point cloud", OWN_TYPES, error) from error


def _ending(value: Any) -> str:
    path = value.get("path") if isinstance(value, Mapping) else value
    return os.path.splitext(path)[1].lower() if isinstance(path, str) else ""


def _text(data: bytes, *_: Any) -> np.ndarray:
    """Numbers in lines, between blanks, commas or semicolons; a first line of words or of a count is passed over."""
    text = data.decode("utf-8").replace(",", " ").replace(";", " ")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "//"))]
    if lines and (len(lines[0]) < 3 or not _is_number(lines[0][0])):
        lines = lines[1:]
    return np.array(lines, dtype=np.float32).reshape(len(lines), -1)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _npy(data: bytes, *_: Any) -> np.ndarray:
    array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def _npz(data: bytes, *_: Any) -> np.ndarray:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = arrays.files if len(arrays.files) == 1 else [name for name in ARRAYS if name in arrays.files]
        if not names:
            raise ValueError(f"it holds the arrays {', '.join(arrays.files)}, none of them called points")
        array: np.ndarray = arrays[names[0]]
    return array


def _pcd(data: bytes, *_: Any) -> np.ndarray:
    cloud = importlib.import_module("pypcd4").PointCloud.from_fileobj(io.BytesIO(data))
    points = cloud.numpy(("x", "y", "z"))  # (points, 3)
    return points[np.isfinite(points).all(axis=1)]  # in this format NaN is a pixel without a return


def _mesh(data: bytes, ending: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    trimesh = importlib.import_module("trimesh")
    # from bytes, so that an OBJ cannot name other files
    found = trimesh.load(io.BytesIO(data), file_type=ending.removeprefix("."), process=False)
    if isinstance(found, trimesh.Scene):
        found = found.to_mesh()
    if len(getattr(found, "faces", ())) and found.area > 0:
        points, _ = trimesh.sample.sample_surface(found, samples, seed=int(rng.integers(2**31)))
        return np.asarray(points)
    return np.asarray(found.vertices)


READERS: dict[str, Callable[..., np.ndarray]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pcd": _pcd,
    **dict.fromkeys((".ply", ".off", ".obj", ".stl"), _mesh),
}
