"""`UpdateTrainer`: the update that pretraining and fine-tuning share, and the pass over the data around it.

Notable here:

- one update is one method, [`UpdateTrainer.update`], from micro-batches to the checkpoint;
- the loss is divided by what is counted in the whole effective batch, over micro-batches and ranks;
- a step whose loss or gradient is not finite changes nothing; on a GPU the host never waits to learn of it.

Killing and continuing a run is checkpoints/resume.py, what engines do differently engine/distributed.py.
"""

import math
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import skip_first_batches
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.optimization import GreedyLR
from transformers.trainer_utils import IntervalStrategy

from .checkpoints.resume import ResumableTrainer
from .engine.launch_check import is_reentrant, leaves_unused
from .engine.layerdrop import fill_gradients, forget_gradients
from .engine.optimizer_step import fused_step, gradient_norm
from .monitoring.callbacks import DivergenceGuard
from .monitoring.clock import TrainingClock
from .monitoring.non_finite import EXAMPLES, NonFiniteGuard
from .shared_arguments import SharedArguments


class UpdateTrainer(ResumableTrainer):
    """The training loop of pretraining and fine-tuning; what differs between them are the first few methods."""

    args: SharedArguments
    uses_all_parameters = False  # DDP then need not search each graph for parameters without a gradient

    def __init__(self, model: PreTrainedModel, args: SharedArguments, **kwargs: Any):
        unused = leaves_unused(args, model.config)
        if args.ddp_find_unused_parameters is None:
            searched = not self.uses_all_parameters and not is_reentrant(args)  # such recomputing forbids the search
            args.ddp_find_unused_parameters = unused is not None or searched
        super().__init__(model=model, args=args, **kwargs)
        self.clock = TrainingClock()
        parts: Any = getattr(model, "parts", {"": model})  # by modality
        self.fills_gradients = len(parts) > 1 or any(getattr(part.config, "layerdrop", 0.0) for part in parts.values())
        self.non_finite = NonFiniteGuard(self, args.max_nonfinite_steps)
        self.divergences = [DivergenceGuard(patience=args.guard_patience, modality=name) for name in parts]
        self.add_callback(self.non_finite)
        for guard in self.divergences if args.guard_patience else ():
            self.add_callback(guard)

    @property
    def diverged(self) -> str | None:
        """Why the last `train` was stopped early, where the loss was not finite or has exploded."""
        found = (self.non_finite.explanation, *(guard.explanation for guard in self.divergences))
        return next((explanation for explanation in found if explanation), None)

    # ---- what differs ----

    def start_pass(self, epoch: int) -> None:
        """In front of a pass over the data."""
        raise NotImplementedError

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch with what depends on the update."""
        return batch

    def count_items(self, batches: list[dict[str, Any]]) -> Tensor:
        """What the summed loss of this rank's micro-batches is divided by, `()`."""
        raise NotImplementedError

    def add_loss(self, loss: Tensor, left_out: Tensor, batches: list[dict[str, Any]]) -> None:
        """Add up the loss of an update, `()`, for the next log; one that is left out counts nothing."""
        self._tr_loss += torch.where(left_out, 0.0, loss)

    def after_step(self, made: Tensor | None) -> None:
        """Behind an optimizer step. `made`: None, or where only the device knows, 1.0, and 0.0 if it was left out."""

    # ---- the loop ----

    def update(self, model: nn.Module, batches: list[dict[str, Any]], epoch: float, **how: Any) -> dict[str, Any]:
        """One update: an optimizer step and everything around it. Returns what a log says of it."""
        args, state, events = self.args, self.state, self.callback_handler
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        self.control = events.on_step_begin(args, state, self.control)
        if self.fills_gradients:
            forget_gradients(self.model_wrapped)

        # 1. Micro-batches: all that this update reads, so that its items are counted before the first loss
        examples = [name for batch in batches for name in batch.pop(EXAMPLES)]
        batches = [self.complete(batch) for batch in batches]
        items = self.vote(self.count_items(batches).view(1)).squeeze(0)  # () of all ranks
        self.current_gradient_accumulation_steps = len(batches)

        # 2. Loss and gradients, summed up; ranks exchange gradients with the last one, under DeepSpeed with each
        loss = torch.zeros((), device=args.device)
        for i, batch in enumerate(batches, start=1):
            last = self.accelerator.sync_gradients = i == len(batches)
            inputs = send_to_device(batch, args.device, non_blocking=args.dataloader_pin_memory)
            with nullcontext() if last or self.is_deepspeed_enabled else self.accelerator.no_sync(model):
                loss += self.training_step(model, inputs, items)
            self.current_flos += self.floating_point_ops(inputs)
            self._track_num_input_tokens(inputs)
            if not last:
                self.control = events.on_substep_end(args, state, self.control)

        # 3. The gradient's norm over all ranks; a fused optimizer clips in its step, others are clipped for here
        if self.fills_gradients and not self.is_deepspeed_enabled:
            fill_gradients(optimizer)
        fused, clip = self.step_is_fused(), self.accelerator.clip_grad_norm_
        norm: Any = gradient_norm(model) if fused else clip(model.parameters(), args.max_grad_norm or math.inf)
        self.control = events.on_pre_optimizer_step(args, state, self.control)

        # 4. Skip or step, alike on all ranks; `skip` is None where the device knows and the host does not yet
        left_out, skip = self.non_finite.judge(loss, norm, examples)
        self.add_loss(loss, left_out, batches)
        if fused:
            fused_step(optimizer, norm, args.max_grad_norm, left_out)
        elif not skip or self.is_deepspeed_enabled or self.accelerator.scaler is not None:  # these two skip themselves
            optimizer.step()

        # 5. The teacher follows; in fine-tuning the average of the weights
        if self.non_finite.stepped(skip, examples):
            self.after_step((~left_out).float() if skip is None else None)
        self.control = events.on_optimizer_step(args, state, self.control)

        # 6. Schedules go on, after a step that was left out as well; a scaler and DeepSpeed hold them then
        said = {"grad_norm": norm, "learning_rate": self._get_learning_rate()}
        held_back = self.accelerator.optimizer_step_was_skipped
        if not held_back and not isinstance(scheduler, ReduceLROnPlateau | GreedyLR):  # these follow a metric
            scheduler.step()
        model.zero_grad()
        state.global_step, state.epoch = state.global_step + 1, epoch

        # 7. Guards and signals; then log, evaluate and write a checkpoint where one of these is due
        self.control = events.on_step_end(args, state, self.control)
        if state.global_step >= state.max_steps and args.logging_strategy != IntervalStrategy.NO:
            self.control.should_log = True
        with self.clock.paused():
            self._maybe_log_save_evaluate(self._tr_loss, model=model, epoch=epoch, **how, **said)
        return said

    def _run_epoch(  # type: ignore[override]  # private: `Trainer`'s pass has no update that could be replaced
        self,
        *,
        model: nn.Module,
        epoch: int,
        train_dataloader: DataLoader,
        steps_in_epoch: int,
        num_update_steps_per_epoch: int,
        resume_from_checkpoint: str | None,
        epochs_trained: int,
        steps_trained_in_current_epoch: int,
        **how: Any,
    ) -> None:
        """One pass over the data; a resumed one begins behind the micro-batches that were trained on."""
        self.control.should_training_stop = self.state.global_step >= self.state.max_steps  # if resumed from the last
        if self.control.should_training_stop:
            return
        self.start_pass(epoch)
        self.clock.start(max((log.get("training_seconds", 0.0) for log in self.state.log_history), default=0.0))
        resumed = resume_from_checkpoint is not None and epoch == epochs_trained
        done = steps_trained_in_current_epoch if resumed else 0
        if resumed and not done:  # a loader draws from the random state when it starts ...
            self._load_rng_state(resume_from_checkpoint)
        if done:
            train_dataloader = skip_first_batches(train_dataloader, done)
        if hasattr(train_dataloader, "set_epoch"):
            train_dataloader.set_epoch(epoch)
        micro_batches, size = iter(train_dataloader), self.args.gradient_accumulation_steps
        said: dict[str, Any] = {"grad_norm": None}
        for start in range(done, steps_in_epoch, size):
            batches = list(islice(micro_batches, min(size, steps_in_epoch - start)))
            if done and start == done:  # ... which had happened before, and what the checkpoint holds came after
                self._load_rng_state(resume_from_checkpoint)
            if not batches:
                raise ValueError(f"The data ended after {start} of {steps_in_epoch} batches of pass {epoch}.")
            said = self.update(model, batches, epoch + (start + len(batches)) / steps_in_epoch, **how)
            if self.control.should_epoch_stop or self.control.should_training_stop:
                break
        self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        with self.clock.paused():
            self._maybe_log_save_evaluate(self._tr_loss, model=model, epoch=epoch, **how, **said)
