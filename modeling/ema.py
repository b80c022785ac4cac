"""The teacher's weights: copied from the student at the start, then an exponential moving average of them."""

import torch
from torch import Tensor, nn


def _local(tensor: Tensor) -> Tensor:
    """The shard of a tensor on this rank; teacher and student are sharded alike, so shards can be averaged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _pairs(teacher: nn.Module, student: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Every tensor of the teacher, buffers included, with the student's of the same name."""
    averages = dict(teacher.named_parameters()) | dict(teacher.named_buffers())
    weights = dict(student.named_parameters()) | dict(student.named_buffers())
    if missing := [name for name in averages if name not in weights]:
        raise ValueError(f"The student has nothing for the teacher's {missing[:3]}: their structures differ.")
    return {name: (_local(tensor.data), _local(weights[name].data)) for name, tensor in averages.items()}


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, averaged: tuple[str, ...] = ("",)) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, in place, in the teacher's fp32 (data2vec, section 3.3).

    Tensors are paired by name: the student has every one that the teacher has.

    Args:
        averaged: prefixes of the parameters that are averaged, all by default; the others, and buffers, are copied.

    Raises:
        ValueError: the student lacks a tensor that the teacher has.
    """
    moving: list[tuple[Tensor, Tensor]] = []
    copied: list[tuple[Tensor, Tensor]] = []
    parameters = {name for name, _ in teacher.named_parameters()}
    for name, pair in _pairs(teacher, student).items():
        (moving if name in parameters and name.startswith(averaged) else copied).append(pair)
    if moving:
        targets, weights = zip(*moving, strict=True)
        weights = tuple(weight.to(target.dtype) for target, weight in moving)
        torch._foreach_lerp_(targets, weights, 1.0 - decay)
    if copied:
        targets, weights = zip(*copied, strict=True)
        torch._foreach_copy_(targets, weights)


def copy_student(teacher: nn.Module, student: nn.Module) -> None:
    """Make the teacher equal to the student, as at the start of a run."""
    ema_update(teacher, student, decay=0.0, averaged=())
