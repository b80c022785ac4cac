"""Activation recomputation: what is cheap to compute is recomputed in backward instead of kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def recompute_in(module: nn.Module, replacements: Mapping[Any, type[nn.Module]]) -> None:
    """Turn `transformers` layers in `module` into the classes of `replacements`; parameters, names, results stay."""
    for layer in module.modules():
        layer.__class__ = replacements.get(type(layer), type(layer))


def recompute_norm(activation: Callable[[Tensor], Tensor], norm: nn.Module, tokens: Tensor) -> Tensor:
    """`activation(norm(tokens))`, which keeps only `tokens` for backward and recomputes the norm there.

    Behind convolutions over every sample of a clip that is a tenth of a step's memory, for 1 % of its time.
    """

    def both(tokens: Tensor) -> Tensor:
        return activation(norm(tokens))

    if not torch.is_grad_enabled() or not tokens.requires_grad:
        return both(tokens)
    return checkpoint(both, tokens, use_reentrant=False, preserve_rng_state=False)


class _Keep(torch.autograd.Function):
    """Holds a tensor for the gradient as any operation does, so that checkpointing around it holds it its own way."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return tokens.new_empty(0)


@contextmanager
def recompute_activation(
    activation: Callable[[Tensor], Tensor], tokens: Tensor, enabled: bool = True
) -> Iterator[Tensor]:
    """`activation(tokens)`, of which the linear layer in the `with` keeps nothing: backward recomputes it.

    A feed-forward network keeps its widest tensor once instead of twice. Only the layer belongs in the `with`: what
    else it keeps is out of the reach of checkpointing around it. A compiled graph keeps what it likes.
    """
    activated = activation(tokens)
    if not enabled or not torch.is_grad_enabled() or not tokens.requires_grad or torch.compiler.is_compiling():
        yield activated
        return
    place, number, before = activated.data_ptr(), activated.numel(), _Keep.apply(tokens)

    def pack(saved: Tensor) -> Tensor | torch.Size:
        return saved.shape if (saved.data_ptr(), saved.numel()) == (place, number) else saved

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        return activation(before.grad_fn.saved_tensors[0].detach()).view(kept)

    with saved_tensors_hooks(pack, unpack):
        yield activated
