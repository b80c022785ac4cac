"""The teacher's weights: copied from the student at the start, then an exponential moving average of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


HALF = (torch.float16, torch.bfloat16)
Held = Callable[[Tensor], Tensor]  # a parameter or buffer -> what this rank has of it


class Teacher(nn.Module):
    """A teacher's weights. They stay in fp32 whatever the rest of the model is cast to, however that is done.

    In half precision an average with a decay of 0.999 and more does not move.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Teacher":
        def keep_precision(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return tensor.to(applied.device) if applied.dtype in HALF else applied

        return super()._apply(keep_precision, recurse)


def _local(tensor: Tensor) -> Tensor:
    """The shard of a tensor on this rank; teacher and student are sharded alike, so shards can be averaged."""
    data: Any = tensor.data
    return data.to_local() if hasattr(tensor, "to_local") else data


def _pairs(teacher: nn.Module, student: nn.Module, held: Held) -> dict[str, tuple[Tensor, Tensor]]:
    """Every tensor of the teacher, buffers included, with the student's of the same name."""
    averages = dict(teacher.named_parameters()) | dict(teacher.named_buffers())
    weights: dict[str, Tensor] = dict(student.named_parameters(remove_duplicate=False))
    weights |= dict(student.named_buffers(remove_duplicate=False))
    if missing := [name for name in averages if name not in weights]:
        raise ValueError(f"The student has nothing for the teacher's {missing[:3]}: their structures differ.")
    return {name: (held(tensor), held(weights[name])) for name, tensor in averages.items()}


@torch.no_grad()
def ema_update(
    teacher: nn.Module,
    student: nn.Module,
    decay: float,
    averaged: tuple[str, ...] = ("",),
    held: Held = _local,
    made: Tensor | None = None,
) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, in place, in the teacher's fp32 (data2vec, section 3.3).

    Tensors are paired by name: the student has every one that the teacher has.

    Args:
        averaged: prefixes of the parameters that are averaged, all by default; the others, and buffers, are copied.
        held: what this rank has of a tensor, where that is not the tensor itself or its shard (DeepSpeed keeps the
            weights that the optimizer moves elsewhere).
        made: scalar on the device, 1 where the optimizer made its step, 0 where it left it out, as it does on its own
            word; the teacher then stays. `None` if the step was made.

    Raises:
        ValueError: the student lacks a tensor that the teacher has, or holds another part of it.
    """
    moving: list[tuple[Tensor, Tensor]] = []
    copied: list[tuple[Tensor, Tensor]] = []
    parameters = {name for name, _ in teacher.named_parameters()}
    for name, pair in _pairs(teacher, student, held).items():
        if pair[0].shape != pair[1].shape:
            raise ValueError(
                f"The teacher's {name} is {tuple(pair[0].shape)} on this rank, the student's {tuple(pair[1].shape)}: "
                "they must be sharded alike."
            )
        (moving if name in parameters and name.startswith(averaged) else copied).append(pair)
    if moving:
        targets, weights = zip(*moving, strict=True)
        weights = tuple(weight.to(target.dtype) for target, weight in moving)
        share = 1.0 - decay
        torch._foreach_lerp_(targets, weights, share if made is None else [made * share] * len(targets))
    if copied:
        targets, weights = zip(*copied, strict=True)
        torch._foreach_copy_(targets, weights)


def copy_student(teacher: nn.Module, student: nn.Module) -> None:
    """Make the teacher equal to the student, as at the start of a run."""
    ema_update(teacher, student, decay=0.0, averaged=())
