"""The optimizer step as one kernel that also clips and, on the device's own word, leaves itself out.

`torch`'s fused optimizers read two numbers of the device, meant for a gradient scaler: what to divide gradients by,
and whether to change nothing. With them clipping costs no pass over the gradients, and a step whose loss or gradient
is not finite is left out before the host knows of it.

That holds for whole weights (one process, DDP). With another optimizer, a gradient scaler, FSDP2 and DeepSpeed the
gradients are clipped in front of the step, as `Trainer` does it.
"""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn


WHOLE_WEIGHTS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def is_fused(optimizer: Any, accelerator: Accelerator) -> bool:
    """Whether the optimizer itself clips gradients and skips steps."""
    return (
        accelerator.distributed_type in WHOLE_WEIGHTS
        and accelerator.device.type in ("cpu", "cuda")
        and accelerator.scaler is None
        and getattr(_inner(optimizer), "_step_supports_amp_scaling", False)
    )


def gradient_norm(model: nn.Module) -> Tensor:
    """The norm of all gradients, which are only read."""
    return nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])


def fused_step(optimizer: Any, norm: Tensor, max_norm: float, left_out: Tensor) -> None:
    """Clip to `max_norm` (0: do not) and step, unless `left_out` is true on the device."""
    inner = _inner(optimizer)
    inner.grad_scale = ((norm + 1e-6) / max_norm).clamp(min=1.0) if max_norm > 0 else None  # as `clip_grad_norm_`
    inner.found_inf = left_out.float()
    try:
        optimizer.step()
    finally:
        inner.grad_scale = inner.found_inf = None


def _inner(optimizer: Any) -> Any:
    """The optimizer of torch inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)
