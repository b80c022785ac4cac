"""Reads what `torch.save` wrote and runs none of it: plain data, stand-ins, and where in the file each tensor lies.

A checkpoint is a stranger's pickle, and this is what keeps it harmless:

- classes and functions that it names become inert stand-ins, and only names that checkpoints of data2vec hold may be
  named; nothing is imported or called;
- only the opcodes of plain data are read, keys of dicts are plain (the hash of shared, nested tuples takes for ever),
  and the pickle is small;
- a tensor is a part of the file: nothing is allocated for it, and it is never larger than what the file holds.
"""

import io
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor


MAX_PICKLE = 4 << 20  # bytes; 10,000 tensors take 1.2 MB
MAX_NODES, MAX_DEPTH = 50_000, 64  # of a tree that is read out of a pickle
MAGIC = 0x1950A86A20F9469CFC6C  # in front of torch's format before 1.6
NAMES = re.compile(
    r"argparse\.Namespace"
    r"|omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|nodes\.\w+Node|base\.(Container)?Metadata)"
    r"|typing\.(Any|Dict|List|Tuple|Union|Optional)"
    r"|(builtins|__builtin__)\.(int|float|str|bool|dict|list|tuple|set|bytes|bytearray|complex|object)"
    r"|collections\.(OrderedDict|defaultdict|Counter)"
    r"|numpy\.(_?core\.multiarray\.scalar|dtype|dtypes\.\w+DType|float64)|_codecs\.encode"
    r"|torch\.(\w+Storage|b?float\d+|u?int\d+|bool|Size|device|Tensor|nn\.parameter\.Parameter|_utils\._rebuild_\w+)"
    # OmegaConf notes the dataclass that a section was made from
    r"|(fairseq|examples\.data2vec|data2vec)\.[\w.]+Config"
    # what Lightning keeps of data sets and callbacks beside Point2Vec's weights
    r"|(point2vec|pytorch_lightning|pl_bolts|torch\.utils\.data)\.[\w.]+"
    r"|(examples\.)?data2vec\.(data\.modality\.Modality|models\.mae_image_classification\.PredictionMode)"
)
ENUMERATIONS = {
    "Modality": {1: "AUDIO", 2: "IMAGE", 3: "TEXT"},
    "PredictionMode": {1: "MEAN_POOLING", 2: "CLS_TOKEN", 3: "LIN_SOFTMAX"},
}
DTYPES = {
    "torch.DoubleStorage": torch.float64, "torch.FloatStorage": torch.float32, "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16, "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
    "torch.ByteStorage": torch.uint8, "torch.BoolStorage": torch.bool,
}  # fmt: skip


class Refused(ValueError):
    """A file that is no checkpoint of data2vec, or one that was made to do harm."""


@dataclass(eq=False)
class StandIn:
    """In the place of a class, a function or an object of a pickle: holds what it is given and does nothing."""

    name: str
    args: Any = ()
    state: Any = None

    def plain(self) -> Any:
        """The plain data that this stands for, `None` where there is none."""
        last = self.name.rpartition(".")[2]
        if last in ENUMERATIONS:  # pickled by its value
            value = self.args[0] if isinstance(self.args, tuple) and self.args else None
            return ENUMERATIONS[last].get(value, value) if isinstance(value, int) else None
        state = self.state if isinstance(self.state, dict) else {}
        if last == "Namespace":
            return state
        return state.get("_content") if last in ("DictConfig", "ListConfig") else state.get("_val")


@dataclass(eq=False)
class Storage:
    """Numbers in a row; `start` is their first byte in the file."""

    dtype: torch.dtype
    numel: int
    start: int = 0

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(eq=False)
class Stored:
    """A tensor that lies in the file."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.size) * self.storage.dtype.itemsize

    def load(self, data: torch.UntypedStorage) -> Tensor:
        """The tensor, a view of the file's bytes `data`."""
        start, item = self.storage.start, self.storage.dtype.itemsize
        numbers: Any = data[start : start + self.storage.nbytes]
        numbers = numbers.clone() if start % item else numbers  # unaligned
        return torch.empty(0, dtype=self.storage.dtype).set_(numbers, self.offset, self.size, self.stride)


class Limit:
    """What may still be read of a tree, in which shared or circular parts can stand for endlessly many."""

    def __init__(self) -> None:
        self.left = MAX_NODES

    def spend(self, depth: int, nodes: int = 1) -> None:
        self.left -= nodes
        if self.left < 0 or depth > MAX_DEPTH:
            raise Refused(
                f"holds more than {MAX_NODES} entries or {MAX_DEPTH} levels, or refers to itself: no checkpoint of "
                "data2vec does."
            )


class _Unpickler(pickle._Unpickler):
    """Python's own in Python, whose opcodes can be chosen and whose memo cannot be made to fill the memory."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> StandIn:
        full = f"{module}.{name}"
        if not NAMES.fullmatch(full):
            raise Refused(f"names {full}, which no checkpoint of data2vec needs: refused, and nothing of it was run.")
        return StandIn(full)

    def persistent_load(self, pid: Any) -> Storage:
        _, kind, key, _, numel, *view = pid
        if kind.name not in DTYPES or any(part is not None for part in view):
            raise Refused(f"holds numbers as {kind.name}, which no checkpoint of data2vec does.")
        if type(numel) is not int or type(key) is not str or numel < 0:
            raise ValueError(f"storage {key!r} of {numel!r}")
        return self.storages.setdefault(key, Storage(DTYPES[kind.name], numel))

    def made(self) -> None:
        args, made = self.stack.pop(), self.stack[-1]
        if made.name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            storage, offset, size, stride = args[:4]
            sound = all(type(number) is int and 0 <= number < 2**48 for number in (offset, *size, *stride))
            if not sound or len(size) > 8 or not isinstance(storage, Storage) or math.prod(size) > storage.numel:
                raise Refused(f"holds a tensor of size {size} with fewer numbers than that.")
            self.stack[-1] = Stored(storage, offset, size, stride)
        elif made.name == "torch._utils._rebuild_parameter":
            self.stack[-1] = args[0]
        elif made.name in ("collections.OrderedDict", "collections.defaultdict"):
            self.stack[-1] = {}
        else:
            self.stack[-1] = StandIn(made.name, args)

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state[0] if isinstance(state, tuple) and state else state

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_entries([key, value])

    def setitems(self) -> None:
        self.set_entries(self.pop_mark())

    def set_entries(self, entries: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict | StandIn):
            raise ValueError("entries of something that has none")
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            if not isinstance(key, str | int | float | None | StandIn):
                raise Refused(f"has a {type(key).__name__} as a key, which no checkpoint of data2vec does.")
            if isinstance(target, dict):
                target[key] = value

    dispatch: ClassVar[dict[int, Any]] = {
        code: handler
        for code, handler in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (
            pickle.INST, pickle.OBJ, pickle.DICT, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
            pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8, pickle.NEXT_BUFFER,
            pickle.READONLY_BUFFER,
        )
    }  # fmt: skip
    dispatch |= {pickle.REDUCE[0]: made, pickle.NEWOBJ[0]: made, pickle.BUILD[0]: build}
    dispatch |= {pickle.SETITEM[0]: setitem, pickle.SETITEMS[0]: setitems}


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, as plain data with `StandIn`s and `Stored` tensors in it.

    Raises:
        ValueError: a damaged file, or one that no checkpoint of data2vec looks like.
    """
    try:
        with path.open("rb") as file:
            content, storages = (_read_zip if zipfile.is_zipfile(file) else _read_legacy)(file)
        end = path.stat().st_size
        if any(storage.start + storage.nbytes > end for storage in storages):
            raise EOFError("the file ends inside of a tensor")
        return content
    except Refused as error:
        raise Refused(f"{path} {error}") from error
    except Exception as error:  # whatever a damaged file leads to
        reason = f"{type(error).__name__}: {error}"
        raise Refused(f"{path} is no whole checkpoint of torch.save, is it truncated? ({reason[:150]})") from error


def _read_zip(file: BinaryIO) -> tuple[Any, list[Storage]]:
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    (description,) = [name for name in entries if name.endswith("/data.pkl")]
    root = description.removesuffix("data.pkl")

    def plain_entry(name: str) -> zipfile.ZipInfo:
        entry = entries[root + name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise Refused("is compressed, which torch.save never does.")
        return entry

    order = root + "byteorder"
    if order in entries and archive.read(plain_entry("byteorder")) != b"little":
        raise Refused("has the bytes of its numbers in another order than this machine: save it again on a usual one.")
    entry = plain_entry("data.pkl")
    if entry.file_size > MAX_PICKLE:
        raise Refused(f"describes its content in {entry.file_size} bytes: more than {MAX_PICKLE} no checkpoint needs.")
    unpickler = _Unpickler(io.BytesIO(archive.read(entry)))
    content = unpickler.load()
    for key, storage in unpickler.storages.items():
        entry = plain_entry(f"data/{key}")
        if entry.file_size != storage.nbytes:
            raise ValueError(f"{entry.filename} has {entry.file_size} bytes for {storage.nbytes}")
        file.seek(entry.header_offset + 26)
        storage.start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return content, list(unpickler.storages.values())


def _read_legacy(file: BinaryIO) -> tuple[Any, list[Storage]]:
    """Five pickles (magic number, version, machine, content, names of the storages), then the storages."""
    file.seek(0)
    pickles = io.BytesIO(file.read(MAX_PICKLE))
    if _Unpickler(pickles).load() != MAGIC:
        raise ValueError("another format")
    _Unpickler(pickles).load()
    if not _Unpickler(pickles).load()["little_endian"]:
        raise Refused("has the bytes of its numbers in another order than this machine: save it again on a usual one.")
    unpickler = _Unpickler(pickles)
    content, keys = unpickler.load(), _Unpickler(pickles).load()
    place = pickles.tell()
    for key in keys:
        storage = unpickler.storages[key]
        storage.start = place + 8  # behind their number
        place = storage.start + storage.nbytes
    if len(set(keys)) != len(unpickler.storages):
        raise ValueError("storages are missing")
    return content, list(unpickler.storages.values())
