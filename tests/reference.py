"""The golden cases of the original implementation: where they are, and their names in ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data2vec.modeling.fairseq_checkpoint import flatten
from data2vec.modeling.fairseq_keys import FAMILIES, reshaped, to_ours, translated


__all__ = ["REFERENCE", "SHARED", "flatten", "load_case", "need", "part", "rename", "renamed", "reshaped"]

SHARED = Path(__file__).parents[2] / "shared"
REFERENCE = SHARED / "reference"


def need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the repository: golden cases and real data are not shipped with it")
    return path


def load_case(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """configuration, inputs and expectations, and the checkpoint's `model` entry of one case."""
    folder = need(REFERENCE / name)
    config = json.loads((folder / "config.json").read_text())
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return config, load_file(folder / "io.safetensors"), flatten(checkpoint["model"])


def rename(name: str, kind: str) -> str:
    """Our name of an original's tensor; the original's where we have none."""
    return translated(name, FAMILIES[kind]) or name


def renamed(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors under our names and in our shapes, and those that we have no name for."""
    ours, left = to_ours(tensors, kind, FAMILIES[kind])
    return ours | left


def part(io: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in io.items() if name.startswith(prefix)}
