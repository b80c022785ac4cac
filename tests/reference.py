"""The golden cases of the original implementation, the real samples, and names of the original's tensors in ours."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from data2vec.modeling.convert.checkpoint import flatten
from data2vec.modeling.convert.fairseq_multi_keys import shaped as reshaped
from data2vec.modeling.convert.keys import to_ours, translated
from data2vec.modeling.convert.sources import SOURCES


__all__ = [
    "EAT_CASES",
    "GOLDEN",
    "REFERENCE",
    "SAMPLES",
    "cases",
    "flatten",
    "folder_of",
    "load_case",
    "part",
    "rename",
    "renamed",
    "reshaped",
]

GOLDEN = Path(__file__).parent / "golden"
SAMPLES = Path(__file__).parent / "samples"
REFERENCE = Path(__file__).parents[2] / "shared" / "reference"  # full cases, beside a checkout


def folder_of(name: str) -> Path:
    """A case that comes with the package, else where the full cases are."""
    return GOLDEN / name if (GOLDEN / name).is_dir() else REFERENCE / name


def cases(pattern: str) -> list[str]:
    """Names of all cases that are here."""
    return sorted({path.name for folder in (GOLDEN, REFERENCE) for path in folder.glob(pattern)})


EAT_CASES = cases("eat_?")


def load_case(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """configuration, inputs and expectations, and the checkpoint's `model` entry of one case."""
    folder = folder_of(name)
    config = json.loads((folder / "config.json").read_text())
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return config, load_file(folder / "io.safetensors"), flatten(checkpoint["model"])


def rename(name: str, kind: str) -> str:
    """Our name of an original's tensor; the original's where we have none."""
    return translated(name, SOURCES[kind].rows) or name


def renamed(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors under our names and in our shapes, and those that we have no name for."""
    ours, left = to_ours(tensors, SOURCES[kind].rows, SOURCES[kind].shaped)
    return ours | left


def part(io: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in io.items() if name.startswith(prefix)}


def check_in_bf16(model: Any, batch: dict[str, Any], io: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
    """A step of `model` in bf16 is the original's in fp32 but for rounding: lengths of differences, relative.

    Targets are worst, up to 1.7e-2 in speech: their norm divides by small deviations.
    """
    model.train()  # dropout is 0
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**batch, num_items_in_batch=1)
    out.loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if name in gradients}
    assert set(found) == set(gradients)
    pairs = {
        "loss": (out.loss, io["loss"], 1e-2),
        "gradient": (joined(found), joined(gradients), 1.5e-2),
        "targets": (out.targets, io["reg.y"], 2e-2),
        "predictions": (out.predictions, io["reg.x"], 2e-2),
    }
    for what, (actual, expected, most) in pairs.items():
        error = float((actual.detach().float() - expected).norm() / expected.norm())
        assert 0 < error < most, f"{what} in bf16: off by {error:.2e}"
    assert out.loss.dtype == out.targets.dtype == torch.float32


def joined(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])
