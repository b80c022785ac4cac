"""The optimizer step as one kernel that also clips and, on the device's own word, leaves itself out.

`torch`'s fused optimizers read two numbers of the device, meant for a gradient scaler: what to divide gradients by,
and whether to change nothing. With them clipping costs no pass over the gradients, and a step whose loss or gradient
is not finite is left out before the host knows of it.
"""

from typing import Any

from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class UpdateTrainer(Trainer):
    """A base class beside `Trainer`'s other ones: the gradients are read once for their norm, and clipped in the step.

    That holds for a fused optimizer on whole weights (one process, DDP). With another one, a gradient scaler, FSDP2
    and DeepSpeed the gradients are clipped in front of the step, as `Trainer` does it.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._divisor: Tensor | None = None  # of the gradients in the step at hand; None leaves them
        self.left_out: Tensor | None = None  # 1.0 where the step at hand is to change nothing, else 0.0; on the device
        self.add_callback(_TellOptimizer(self))

    def step_is_fused(self) -> bool:
        """Whether the optimizer clips and leaves steps out by itself."""
        whole = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        return (
            self.accelerator.distributed_type in whole
            and self.args.device.type in ("cpu", "cuda")
            and self.accelerator.scaler is None
            and getattr(_inner(self.optimizer), "_step_supports_amp_scaling", False)
        )

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if not self.step_is_fused():
            return super()._clip_grad_norm(model)
        norm = _gradient_norm(model)
        self._divisor = ((norm + 1e-6) / self.args.max_grad_norm).clamp(min=1.0)  # as `clip_grad_norm_`
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None and self.step_is_fused():  # `Trainer` would multiply all gradients by 1
            return _gradient_norm(model)
        return super()._get_grad_norm(model, grad_norm)


class _TellOptimizer(TrainerCallback):
    """Hands the two numbers to the fused optimizer for one step."""

    def __init__(self, trainer: UpdateTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer.step_is_fused():
            optimizer = _inner(self.trainer.optimizer)
            optimizer.grad_scale, optimizer.found_inf = self.trainer._divisor, self.trainer.left_out

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer.step_is_fused():
            optimizer = _inner(self.trainer.optimizer)
            optimizer.grad_scale = optimizer.found_inf = self.trainer._divisor = self.trainer.left_out = None


def _inner(optimizer: Any) -> Any:
    """The optimizer of torch inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _gradient_norm(model: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])
