"""Checkpoints of fairseq, data2vec_vision and Lightning as plain data, and how one is written; see `pickles`."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .pickles import Limit, Refused, StandIn, Stored, read_pickle


REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+){0,7})\}")  # OmegaConf's, to a field of the same configuration
LONGEST_NAME = 300  # of a tensor
WEIGHTS = "model.safetensors"  # of a folder of the Hub
FUNASR = "d2v_model."  # in front of the names of emotion2vec+, which is published without a configuration
LIGHTNING = "lightning"  # the name of a model in a checkpoint of Lightning, which has none
MOST_SHARED = 4  # times the file: more bytes than that its tensors never have, by sharing parts of it


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


def plain(value: Any, limit: Limit, depth: int = 0) -> Any:
    """Stand-ins become what they stand for, at any depth; what is no plain data becomes `None`."""
    limit.spend(depth)
    if isinstance(value, StandIn):
        return plain(value.plain(), limit, depth + 1)
    if isinstance(value, dict):
        pairs = [(plain(name, limit, depth + 1), plain(entry, limit, depth + 1)) for name, entry in value.items()]
        return {name: entry for name, entry in pairs if not isinstance(name, dict | list)}
    if isinstance(value, list | tuple):
        return [plain(entry, limit, depth + 1) for entry in value]
    return value if isinstance(value, str | int | float) else None


def resolved(value: Any, limit: Limit, parents: tuple[dict[str, Any], ...] = (), depth: int = 0) -> Any:
    """References like "${optimization.max_update}" become what they refer to, in the nearest tree that has it."""
    limit.spend(depth)
    if isinstance(value, dict):
        inner = (*parents, value)
        return {name: resolved(entry, limit, inner, depth + 1) for name, entry in value.items()}
    if isinstance(value, list):
        return [resolved(entry, limit, parents, depth + 1) for entry in value]
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if reference is None:
        return value
    limit.spend(depth, len(parents))
    for tree in reversed(parents):
        found: Any = tree
        for name in reference[1].split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if found is not None and found != value:
            return resolved(found, limit, parents, depth + 1)
    return None


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """The teacher is a dict inside the `model` dict: join the names with dots."""
    return dict(_leaves(tree, "", Limit(), 0))


def _leaves(tree: dict[str, Any], prefix: str, limit: Limit, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        limit.spend(depth)
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.", limit, depth + 1)
        else:
            yield f"{prefix}{name}", value


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of fairseq, data2vec_vision or Lightning, or a folder as it is published on the Hub.

    Raises:
        ValueError: a damaged file, one that names a class that is not allowed, or no checkpoint of these.
    """
    if path.is_dir():
        return _read_folder(path)
    content = read_pickle(path)
    if isinstance(content, dict) and "pytorch-lightning_version" in content:
        return _lightning(content, path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise Refused(f"{path} has no entry 'model': it is no checkpoint of fairseq or data2vec_vision.")
    model = dict(content["model"])
    if isinstance(content.get("model_ema"), dict):  # data2vec_vision
        model["_ema"] = content["model_ema"]
    try:
        tensors = _tensors(flatten(model), path)
        history = plain(content.get("optimizer_history"), Limit())
        given = [plain(content.get(name), Limit()) for name in ("cfg", "args")]
        says = any(given) or not any(name.startswith(FUNASR) for name in tensors)
        cfg = _cfg(*given) if says else {}
    except Refused as error:
        raise Refused(f"{path} {error}") from error
    last = history[-1] if isinstance(history, list) and history else None
    updates = last.get("num_updates") if isinstance(last, dict) else None
    return Checkpoint(cfg, tensors, updates if type(updates) is int and 0 <= updates < 2**48 else None, path)


def _read_folder(folder: Path) -> Checkpoint:
    """`config.json` is the section `model`, under the name of its `model_type`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise Refused(f"{folder} cannot be read as a folder of the Hub: {error}") from error
    if not isinstance(config, dict):
        raise Refused(f"{folder / 'config.json'} holds no configuration.")
    floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return Checkpoint({"model": config | {"_name": config.get("model_type")}}, floats, path=folder)


def _lightning(content: dict[str, Any], path: Path) -> Checkpoint:
    """Its hyper-parameters are the section `model`; the student's second name, in Point2Vec's teacher, is left out."""
    state, parameters = content.get("state_dict"), content.get("hyper_parameters")
    if not isinstance(state, dict) or not isinstance(parameters, dict):
        raise Refused(f"{path} has no state_dict and hyper_parameters: it is no checkpoint of a Lightning model.")
    kept = {name: tensor for name, tensor in state.items() if not str(name).startswith("teacher.online_model.")}
    try:
        tensors, limit = _tensors(kept, path), Limit()
        model = {"_name": LIGHTNING} | plain(parameters, limit)
        trainer = plain({name: content.get(name) for name in ("epoch", "global_step")}, limit)
    except Refused as error:
        raise Refused(f"{path} {error}") from error
    for name in ("teacher.initted", "teacher.step"):
        found = tensors.pop(name, None)
    updates = None if found is None or found.numel() != 1 else int(found)  # of the teacher
    return Checkpoint({"model": model, "task": {}, "trainer": trainer}, tensors, updates, path)


def _tensors(stored: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Views of the file, but for those in half precision, which are widened."""
    for name, tensor in stored.items():
        if len(name) > LONGEST_NAME:
            raise Refused(f"has a tensor whose name has {len(name)} letters.")
        if not isinstance(tensor, Stored):
            kind = tensor.name if isinstance(tensor, StandIn) else type(tensor).__name__
            raise Refused(f"holds a {kind} as model.{name}, not a tensor.")
        if 0 in tensor.size:
            raise Refused(f"holds an empty tensor, model.{name}.")
    size = path.stat().st_size
    if sum(tensor.nbytes for tensor in stored.values()) > MOST_SHARED * size:
        raise Refused(
            f"has {size} bytes, its tensors more than {MOST_SHARED} times as many: they share their numbers."
        )
    data = torch.UntypedStorage.from_file(str(path), False, size)
    tensors = {name: tensor.load(data) for name, tensor in stored.items()}
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def _cfg(cfg: Any, args: Any) -> dict[str, Any]:
    if cfg is None:
        if not isinstance(args, dict):
            raise Refused("holds neither 'cfg' nor 'args': its configuration is unknown.")
        # an older fairseq kept everything in one namespace
        cfg = {"model": {"_name": args.get("arch")} | args, "task": {"_name": args.get("task")} | args, "args": args}
    if not isinstance(cfg, dict) or not isinstance(cfg.get("model"), dict):
        raise Refused("has no section 'model' in its configuration.")
    resolved_cfg: dict[str, Any] = resolved(cfg, Limit())
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
