"""What a rank holds of a tensor, and the whole of it: under DDP, FSDP2 and DeepSpeed ZeRO-1, 2 and 3.

FSDP2 leaves a `DTensor` whose shard is its local tensor. ZeRO-3 empties the tensor, keeps a flat shard beside it, and
elsewhere the weights that the optimizer moves. ZeRO-1 and 2 leave the weights whole. DeepSpeed is imported only where
its marks on a tensor say that it is at work.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def held(tensor: Tensor) -> Tensor:
    """What this rank holds of a parameter or buffer in full precision: a shard, or all of it.

    Teacher and student are sharded alike, so that their shards can be averaged.
    """
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    if hasattr(tensor, "ds_tensor"):  # ZeRO-3
        return _fp32_of_optimizer(tensor, local=True) if tensor.requires_grad else tensor.ds_tensor
    return tensor.data


def whole(tensor: Tensor) -> Tensor:
    """All of a parameter or buffer in full precision. A collective where it is sharded: all ranks call it."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if not hasattr(tensor, "ds_tensor"):
        found = held(tensor)
        return found.float() if found.is_floating_point() else found  # what is not trained has no fp32 master
    if tensor.requires_grad:
        return _fp32_of_optimizer(tensor, local=False)
    import deepspeed

    with deepspeed.zero.GatheredParameters([tensor]):
        return tensor.data.clone()


def is_spread(model: nn.Module) -> bool:
    """Whether a rank alone has not all weights of the model in full precision."""
    tensors = list(model.parameters())
    return any(isinstance(tensor, DTensor) or hasattr(tensor, "ds_tensor") for tensor in tensors)


@torch.no_grad()
def whole_state_dict(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The model's state dict with every tensor whole, on the CPU; tensor by tensor, so that no device holds it all.

    A collective where the model is sharded: all ranks call it.

    Args:
        keep: False gathers without keeping anything, for the ranks that do not write.
    """
    tensors = dict(_named_tensors(model))
    gathered = {}
    for name in model.state_dict():
        tensor = whole(tensors[name])
        if keep:
            gathered[name] = tensor.detach().to("cpu", copy=True)
    return gathered


@torch.no_grad()
def refresh(module: nn.Module) -> None:
    """Drop the gathered copies of ZeRO-3 parameters whose shards were written to; reading gathers them again."""
    parameter: Any  # DeepSpeed adds to it
    for parameter in module.parameters():
        if hasattr(parameter, "ds_tensor") and parameter.ds_status.name == "AVAILABLE":
            parameter.partition()


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # also the second name of a tensor that two modules share
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _fp32_of_optimizer(parameter: Tensor, local: bool) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_local_fp32_param

    return safe_get_local_fp32_param(parameter) if local else safe_get_full_fp32_param(parameter)
