"""Reading and writing checkpoints of the original code. A checkpoint is a stranger's pickle: nothing in it is run.

Tensors and plain data are read by torch's own restricted unpickler. The few classes that old checkpoints name beside
them (`argparse.Namespace`, OmegaConf containers, enumerations, numpy scalars) become stand-ins of this file, which
hold what the pickle hands them and do nothing; neither fairseq nor OmegaConf is imported. Any other name is refused.
"""

import os
import pickle
import re
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass
class Checkpoint:
    """What a file holds, as plain data.

    Args:
        cfg: the configuration; `{"model": ..., "task": ..., ...}` of dicts, lists, strings and numbers.
        tensors: `state_dict` of the model, fp32 where it was a float; the teacher's under `_ema.`.
        num_updates: optimizer steps so far, `None` where the file does not say.
    """

    cfg: dict[str, Any]
    tensors: dict[str, Tensor]
    num_updates: int | None = None
    path: Path = field(default_factory=Path)


class StandIn:
    """In the place of a class or function that a pickle names: takes what it is given."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state[0] if isinstance(state, tuple) and state else state

    def plain(self) -> Any:
        """The plain data that this stands for."""
        return None


class NamespaceStandIn(StandIn):
    def plain(self) -> Any:
        return self.state if isinstance(self.state, dict) else {}


class ContainerStandIn(StandIn):
    """OmegaConf's dict or list."""

    def plain(self) -> Any:
        return self.state.get("_content") if isinstance(self.state, dict) else None


class NodeStandIn(StandIn):
    """OmegaConf's leaf."""

    def plain(self) -> Any:
        return self.state.get("_val") if isinstance(self.state, dict) else None


class EnumStandIn(StandIn):
    """An enumeration's member, which a pickle names by its value; it becomes its name."""

    members: ClassVar[dict[Any, str]] = {}

    def plain(self) -> Any:
        value = self.args[0] if self.args else None
        return self.members.get(value, value)


class ModalityStandIn(EnumStandIn):
    members = {1: "AUDIO", 2: "IMAGE", 3: "TEXT"}


class PredictionModeStandIn(EnumStandIn):
    members = {1: "MEAN_POOLING", 2: "CLS_TOKEN", 3: "LIN_SOFTMAX"}


NODES = ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String")
STAND_INS: dict[str, type[StandIn]] = {
    "argparse.Namespace": NamespaceStandIn,
    "omegaconf.dictconfig.DictConfig": ContainerStandIn,
    "omegaconf.listconfig.ListConfig": ContainerStandIn,
    **{f"omegaconf.nodes.{name}Node": NodeStandIn for name in NODES},
    **{f"omegaconf.base.{name}": StandIn for name in ("Metadata", "ContainerMetadata")},
    **{f"typing.{name}": StandIn for name in ("Any", "Dict", "List", "Tuple", "Union", "Optional")},
    **{
        f"{module}.{name}": StandIn
        for module in ("builtins", "__builtin__")
        for name in ("int", "float", "str", "bool", "dict", "list", "tuple", "bytes", "object")
    },
    "collections.defaultdict": StandIn,
    "examples.data2vec.data.modality.Modality": ModalityStandIn,
    "data2vec.data.modality.Modality": ModalityStandIn,
    "examples.data2vec.models.mae_image_classification.PredictionMode": PredictionModeStandIn,
    "data2vec.models.mae_image_classification.PredictionMode": PredictionModeStandIn,
    **{
        f"numpy.{name}": StandIn
        for name in ("core.multiarray.scalar", "_core.multiarray.scalar", "dtype", "dtypes.Float64DType", "float64")
    },
}
# OmegaConf notes the dataclass that a section was made from; it is named and never made
CONFIG_CLASS = re.compile(r"(fairseq|examples\.data2vec|data2vec)\.[\w.]+Config")


def plain(value: Any) -> Any:
    """Stand-ins become what they stand for, at any depth."""
    while isinstance(value, StandIn):
        value = value.plain()
    if isinstance(value, dict):
        return {plain(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def resolved(value: Any, parents: tuple[dict[str, Any], ...] = ()) -> Any:
    """References like "${optimization.max_update}" become what they refer to, in the nearest tree that has it."""
    if isinstance(value, dict):
        inner = (*parents, value)
        return {name: resolved(entry, inner) for name, entry in value.items()}
    if isinstance(value, list):
        return [resolved(entry, parents) for entry in value]
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if reference is None:
        return value
    for tree in reversed(parents):
        found: Any = tree
        for name in reference[1].split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if found is not None and found != value:
            return resolved(found, parents)
    return None


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The teacher is a dict inside the `model` dict: join the names with dots."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _load(path: Path) -> Any:
    """What `torch.save` wrote, with stand-ins in it."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file: give a checkpoint.")
    zipped = zipfile.is_zipfile(path)
    allowed = dict(STAND_INS)
    try:
        if zipped:
            named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            allowed |= {name: StandIn for name in named if CONFIG_CLASS.fullmatch(name)}
            if refused := sorted(set(named) - set(allowed)):
                raise ValueError(
                    f"{path} names {', '.join(refused[:5])}, which no checkpoint of data2vec needs: refused, and "
                    "nothing of it was run."
                )
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in allowed.items()]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        named_one = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named_one:
            raise ValueError(
                f"{path} names {named_one[1]}, which no checkpoint of data2vec needs: refused, and nothing of it was "
                "run."
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise ValueError(f"{path} is no whole checkpoint of torch.save, is it truncated? ({reason})") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of fairseq or of the data2vec_vision repository.

    Raises:
        ValueError: no file, a truncated one, one that names a class that is not allowed, or no checkpoint of these.
    """
    content = _load(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f"{path} has no entry 'model': it is no checkpoint of fairseq or data2vec_vision.")
    model = dict(content["model"])
    if isinstance(content.get("model_ema"), dict):  # data2vec_vision
        model["_ema"] = content["model_ema"]
    tensors = flatten(model)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: model.{name} is a {type(tensor).__name__}, not a tensor.")
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    history = plain(content.get("optimizer_history")) or [{}]
    updates = history[-1].get("num_updates") if isinstance(history[-1], dict) else None
    return Checkpoint(_cfg(content, path), tensors, updates if isinstance(updates, int) else None, path)


def _cfg(content: dict[str, Any], path: Path) -> dict[str, Any]:
    cfg = plain(content.get("cfg"))
    if cfg is None:
        args = plain(content.get("args"))
        if not isinstance(args, dict):
            raise ValueError(f"{path} holds neither 'cfg' nor 'args': its configuration is unknown.")
        # an older fairseq kept everything in one namespace
        cfg = {"model": {"_name": args.get("arch")} | args, "task": {"_name": args.get("task")} | args, "args": args}
    if not isinstance(cfg, dict) or not isinstance(cfg.get("model"), dict):
        raise ValueError(f"{path}: its configuration has no section 'model'.")
    resolved_cfg: dict[str, Any] = resolved(cfg)
    return resolved_cfg


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint in one go: a file of that name is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        torch.save(content, name)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
