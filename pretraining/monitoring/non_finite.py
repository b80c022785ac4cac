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
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..engine.async_scalar import AsyncScalar


logger = logging.get_logger(__name__)

EXAMPLES = "examples"  # the batch's entry that holds what its examples are called
NAMED = 16  # examples of a rank in a message


class NamedBatches:
    """A collate function that adds to the batch what its examples are called; take it out before the model."""

    def __init__(self, collate: Callable[[Sequence[dict[str, Any]]], Any]):
        self.collate = collate

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Any:
        called = [
            f"{example.get('name', 'example')} (epoch {example['epoch']}, index {example['index']})"
            for example in examples
        ]
        return {**self.collate(examples), EXAMPLES: called}


class NonFiniteGuard(TrainerCallback):
    """Judges every optimizer step: the trainer calls `judge` in front of it and `stepped` behind it.

    Args:
        trainer: whose steps these are.
        patience: steps in a row after which the run stops.

    Attributes:
        deferred: the verdict on a fused step is read in the next one.
        count, in_a_row: steps left out, of the whole run and since the last good one.
        explanation: set when the run was stopped.
    """

    def __init__(self, trainer: Any, patience: int):
        self.trainer, self.patience = trainer, patience
        self.deferred = trainer.args.device.type != "cpu"
        self.count = self.in_a_row = 0
        self.explanation: str | None = None
        self._unread: tuple[int, Sequence[str], AsyncScalar] | None = None  # a step, its examples and its verdict
        self._blamed: list[str] = []  # examples of the last step that was left out
        self._news = False  # steps were left out that no log has told of
        self._window = [0, 0]  # steps left out since the last log, and the step of that log

    # ---- called by the trainer ----

    def judge(self, loss: Tensor, gradient_norm: Any, examples: Sequence[str]) -> tuple[Tensor, bool | None]:
        """Whether this step is to be left out, by its loss and its gradient's norm on all ranks.

        Returns:
            The answer on the device, and the same for the host: None where it does not know yet.
        """
        self._read()  # the verdict on the step before
        norm = gradient_norm.full_tensor() if hasattr(gradient_norm, "full_tensor") else gradient_norm
        norm = loss.new_zeros(()) if norm is None else torch.as_tensor(norm, device=loss.device)
        bad_here = torch.stack([~torch.isfinite(loss).all(), ~torch.isfinite(norm).all()]).float()
        bad = self.trainer.accelerator.reduce(bad_here.clone(), "sum")
        self._unread = (self.trainer.state.global_step + 1, examples, AsyncScalar(torch.cat((bad, bad_here))))
        unknown = self.deferred and self.trainer.step_is_fused()
        return bad.any(), None if unknown else self._read()

    def stepped(self, skipped: bool | None, examples: Sequence[str]) -> bool:
        """Whether the optimizer changed something, as far as the host knows; `skipped` is what `judge` said."""
        if self.trainer.accelerator.optimizer_step_was_skipped and not skipped:
            skipped = True
            self._left_out(self.trainer.state.global_step + 1, "gradient overflowed", examples)
        if not skipped and not self.trainer.step_is_fused():
            self.in_a_row = 0
        return not skipped

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
        if self.trainer.is_deepspeed_enabled and not self.trainer.accelerator.optimizer_step_was_skipped:
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
        if self.in_a_row >= self.patience:
            self.explanation = (
                f"Loss or gradient were not finite in {self.in_a_row} steps in a row, up to step {state.global_step}; "
                f"none of them changed the weights. The last batch held {_listed(self._blamed)}. Look at these; "
                "else lower learning_rate, raise adam_epsilon, or compute in bf16 or fp32 instead of fp16."
            )
            logger.error(self.explanation)
            control.should_training_stop = True

    def on_epoch_end(self, *_: Any, **kwargs: Any) -> None:
        self._read()  # the end of an epoch may save

    def _left_out(self, step: int, why: str, names: Sequence[str]) -> None:
        self._blamed = gather_object(names[:NAMED])
        self._news = True
        self.count += 1
        self.in_a_row += 1
        self._window[0] += 1
        logger.warning(
            f"step {step}: the {why}, so it is left out ({self.count} so far). The batch held {_listed(self._blamed)}."
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
