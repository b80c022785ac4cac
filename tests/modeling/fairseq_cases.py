"""Checkpoints of the original for tests, and the command on them."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from data2vec.modeling.convert.command import main
from data2vec.tests.reference import folder_of


def checkpoint_of(case: str) -> dict:
    return torch.load(folder_of(case) / "checkpoint.pt", weights_only=True)


def io_of(case: str) -> dict:
    return load_file(folder_of(case) / "io.safetensors")


def converted(content: dict, folder: Path, *options: str) -> Path:
    """The folder that the command makes of a checkpoint with such content."""
    source = folder / "checkpoint.pt"
    torch.save(content, source)
    assert main([str(source), str(folder / "out"), *options]) == 0
    return folder / "out"


def refusal(content: dict | Path, folder: Path, capsys, *options: str) -> str:
    """The one line with which the command refuses it; nothing is left behind."""
    source = content if isinstance(content, Path) else folder / "checkpoint.pt"
    if isinstance(content, dict):
        torch.save(content, source)
    before = sorted(folder.iterdir())
    capsys.readouterr()
    assert main([str(source), str(folder / "out"), *options]) == 2
    assert sorted(folder.iterdir()) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def close(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() / max(1.0, expected.abs().max()) < tolerance


# Fine-tuned ones, in the original's layout


def wrapped(case: str, prefix: str, drop: tuple[str, ...]) -> dict:
    tensors = {n: t for n, t in checkpoint_of(case)["model"].items() if isinstance(t, torch.Tensor)}
    return {prefix + name: tensor for name, tensor in tensors.items() if not any(d in name for d in drop)}


def random_layer(prefix: str, outputs: int, inputs: int = 48) -> dict:
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    return {f"{prefix}weight": weight, f"{prefix}bias": torch.randn(outputs, generator=generator)}
