"""LayerDrop that is alike on every engine: which layers an update keeps, and zero gradients for the others.

Some engines take "no gradient" as zero and some skip it; with zeros the momentum goes on, as in the original.
"""

from typing import Any

import torch

from ...modeling.masking import mask_seeds


def kept_layers(config: Any, seed: int, step: int) -> list[bool] | None:
    """The layers that an update keeps, alike on all ranks, in its micro-batches, and resumed; None: all of them."""
    probability = getattr(config, "layerdrop", 0.0)
    if not probability:
        return None
    layers = config.num_hidden_layers + getattr(config, "num_prenet_layers", 0)
    generator = torch.Generator().manual_seed(int(mask_seeds(seed, step, [0], 1)))
    return (torch.rand(layers, generator=generator) >= probability).tolist()


def forget_gradients(engine: Any) -> None:
    """In front of an update: ZeRO-3 would take the gradient that a dropped layer had when it was last there."""
    buffer = getattr(getattr(engine, "optimizer", None), "grad_partitions_flat_buffer", None)
    if buffer is not None:
        buffer.zero_()


def fill_gradients(optimizer: Any) -> None:
    """In front of the optimizer step: zeros for trained parameters without a gradient. DeepSpeed does it itself."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if all(parameter.grad is None for parameter in parameters):
        return  # no gradient at all: the step is left out
    for parameter in parameters:
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
