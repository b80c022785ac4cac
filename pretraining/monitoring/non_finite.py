"""A step whose loss or gradient is not finite is left out: no optimizer step, no move of the teacher.

The step still counts: data, learning rate and decay go on as if it had been made, so a run has the same length and
the same schedules with and without it. Left out steps are counted in the log; after several in a row the run stops and
names the examples of the batch. All ranks leave the same steps out: loss and gradient are judged over all of them.

The device judges and, where the step is fused (engine/optimizer_step.py), acts on it; the host counts. On an
accelerator it reads a verdict while the device is busy with the next step, so that neither waits for the other: a
warning, a log and a stop then come one step later, except before a log or a checkpoint, which wait for the verdict.

DeepSpeed steps inside its backward pass, and a gradient scaler (fp16) judges gradients itself. Where they left a step
out it is counted here too; where DeepSpeed did not, the run stops at once. Both hold the learning rate for that step.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..engine.async_scalar import AsyncScalar
from ..engine.optimizer_step import UpdateTrainer


logger = logging.get_logger(__name__)

EXAMPLES = "examples"  # the batch's entry that holds what its examples are called
NAMED = 16  # examples of a rank in a message


class NamedBatches:
    """A collate function that adds to the batch what its examples are called; take it out before the model."""

    def __init__(self, collate: Callable[[Sequence[dict[str, Any]]], Any]):
        self.collate = collate

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Any:
        called = [f"{example['name']} (epoch {example['epoch']}, index {example['index']})" for example in examples]
        return {**self.collate(examples), EXAMPLES: called}


class NonFiniteGuard(TrainerCallback):
    """Judges every optimizer step. The trainer calls `note` for every micro-batch and `judge` before the step.

    Args:
        trainer: whose steps these are.
        patience: steps in a row after which the run stops; 0 never stops.

    Attributes:
        late: the verdict of a step is read in the next one.
        skipped: whether the step at hand is left out, as far as the host knows.
        made: where it does not know yet: 1.0 on the device if the step is made, 0.0 if it is left out.
        count, in_a_row: steps left out, of the whole run and since the last good one.
        explanation: set when the run was stopped.
    """

    def __init__(self, trainer: UpdateTrainer, patience: int):
        self.trainer, self.patience = trainer, patience
        self.late = trainer.args.device.type != "cpu"
        self.skipped, self.count, self.in_a_row = False, 0, 0
        self.made: Tensor | None = None
        self.explanation: str | None = None
        self._names: list[str] = []
        self._loss_before: Tensor | None = None
        self._unread: tuple[int, list[str], AsyncScalar] | None = None  # a step, its examples and its verdict
        self._blamed: list[str] = []  # examples of the last step that was left out
        self._news = False  # steps were left out that no log has told of
        self._window = [0, 0]  # steps left out since the last log, and the step of that log

    # ---- called by the trainer ----

    def note(self, examples: Sequence[str]) -> None:
        """The examples of a micro-batch."""
        self._names += examples

    def judge(self, gradient_norm: Any) -> None:
        """Whether this step is to be left out, by its loss so far and its gradient's norm over all ranks."""
        self._read()  # that of the step before
        trainer, loss = self.trainer, self.trainer._tr_loss
        norm = gradient_norm.full_tensor() if hasattr(gradient_norm, "full_tensor") else gradient_norm
        norm = loss.new_zeros(()) if norm is None else torch.as_tensor(norm, device=loss.device)
        bad_here = torch.stack([~torch.isfinite(loss).all(), ~torch.isfinite(norm).all()]).float()
        bad = trainer.accelerator.reduce(bad_here.clone(), "sum")
        left_out = bad.any()
        assert self._loss_before is not None
        loss.copy_(torch.where(left_out, self._loss_before, loss))  # a NaN would stay in the logged loss for ever
        self._unread = (trainer.state.global_step + 1, self._names, AsyncScalar(torch.cat((bad, bad_here))))
        if trainer.step_is_fused():
            trainer.left_out = left_out.float()
        if self.late and trainer.step_is_fused():
            self.made = (~left_out).float()
        else:
            self.skipped = self._read()

    def _read(self) -> bool:
        """Take notice of the verdict that was not read yet; whether it left the step out."""
        if self._unread is None:
            return False
        (step, names, verdict), self._unread = self._unread, None
        loss, gradient, loss_here, _ = verdict.tolist()
        if not (loss or gradient):
            if self.trainer.step_is_fused():  # else it may yet be left out
                self.in_a_row = 0
            return False
        if self._deepspeed() and not self.trainer.accelerator.optimizer_step_was_skipped:
            raise FloatingPointError(
                f"step {step}: DeepSpeed made a step whose loss or gradient is not "
                "finite, which spoils the weights. Start from the last checkpoint with check_grad_overflow: true "
                "in the bf16 section of its configuration, so that such steps are left out."
            )
        blamed = loss_here or not loss  # a gradient is everybody's, a loss its rank's
        self._left_out(step, f"{'loss' if loss else 'gradient'} is not finite", names if blamed else [])
        return True

    def mean_of_applied(self, loss: float, step: int) -> float:
        """The logged mean loss of steps (since the last log) without those that were left out."""
        left_out, last = self._window
        self._window = [0, step]
        applied = step - last - left_out
        if not left_out:
            return loss
        return loss * (step - last) / applied if applied else math.nan

    # ---- called by the `Trainer` as a callback ----

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        self.count = self.in_a_row = 0
        self._window, self._unread, self._news = [0, 0], None, False
        for logs in state.log_history:  # of a run that is continued
            if "skipped_steps" in logs:
                self._window[0] += int(logs["skipped_steps"]) - self.count
                self.count = int(logs["skipped_steps"])
                self.in_a_row = int(logs["skipped_in_a_row"]) if logs["step"] == state.global_step else 0
            elif "loss" in logs:
                self._window = [0, int(logs["step"])]

    def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
        self.skipped, self.made, self._names = False, None, []
        self._loss_before = self.trainer._tr_loss.clone()

    def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        # Without gradients an optimizer of torch does nothing, not even to its moments. A scaler skips by itself.
        by_itself = self.trainer.step_is_fused() or self.trainer.accelerator.scaler is not None or self._deepspeed()
        if self.skipped and not by_itself:
            self.trainer.model_wrapped.zero_grad(set_to_none=True)

    def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        if self.trainer.accelerator.optimizer_step_was_skipped and not self.skipped:
            self.skipped = True
            self._left_out(self.trainer.state.global_step + 1, "gradient overflowed", self._names)
        if not self.skipped and not self.trainer.step_is_fused():
            self.in_a_row = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_log or control.should_save or control.should_evaluate or control.should_training_stop:
            self._read()
        if not self._news:
            return
        self._news = False
        # At once, not with the next log: a run that is resumed from here knows of it.
        due = control.should_log  # which any log takes back
        self.trainer.log({"skipped_steps": self.count, "skipped_in_a_row": self.in_a_row})
        control.should_log = due
        if self.patience and self.in_a_row >= self.patience:
            self.explanation = (
                f"Loss or gradient were not finite in {self.in_a_row} steps in a row, up to step {state.global_step}; "
                f"none of them changed the weights. The last batch held {_listed(self._blamed)}. Look at these; "
                "else lower learning_rate, raise adam_epsilon, or compute in bf16 or fp32 instead of fp16."
            )
            logger.error(self.explanation)
            control.should_training_stop = True

    def on_epoch_end(self, *_: Any, **kwargs: Any) -> None:
        self._read()  # the end of an epoch may save

    def _left_out(self, step: int, why: str, names: list[str]) -> None:
        self._blamed = gather_object(names[:NAMED])
        self._news = True
        self.count += 1
        self.in_a_row += 1
        self._window[0] += 1
        logger.warning(
            f"step {step}: the {why}, so it is left out ({self.count} so far). The batch held {_listed(self._blamed)}."
        )

    def _deepspeed(self) -> bool:
        return self.trainer.accelerator.distributed_type == DistributedType.DEEPSPEED


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
