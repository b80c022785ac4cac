"""`Data2VecTrainer`: a `Trainer` with a teacher; and `UpdateTrainer`, the update that it shares with fine-tuning.

Notable here:

- one update is one method, [`UpdateTrainer.update`], from micro-batches to the checkpoint;
- the loss is divided by the masked positions of the whole effective batch, over micro-batches and ranks;
- a step whose loss or gradient is not finite changes nothing; on a GPU the host never waits to learn of it;
- the teacher moves once per optimizer step;
- the same layers are dropped on all ranks, and again after a resume.

Killing and continuing a run is checkpoints/resume.py, what engines do differently engine/distributed.py.
"""

import math
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import skip_first_batches
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.optimization import GreedyLR
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy

from ..modeling import Data2VecForPreTrainingOutput
from .checkpoints.resume import ResumableTrainer
from .checkpoints.run_files import WHOLE
from .checkpoints.signals import start_worker
from .checkpoints.storage import WRITING, move_files
from .data.build import PretrainingData
from .data.joint import MODALITY
from .data.loader import make_loader
from .data.own_dataset import wrap_dataset
from .data.streaming import StreamingBatches
from .engine.batch_layout import BY_COST, COUNTED, STREAM, Layout
from .engine.launch_check import is_reentrant, leaves_unused
from .engine.layerdrop import fill_gradients, forget_gradients, kept_layers
from .engine.optimizer_step import fused_step, gradient_norm
from .engine.param_groups import decayed_names, split_param_groups
from .engine.sharded_weights import held, refresh
from .evaluation.online_probe import last_scores
from .monitoring.callbacks import CollapseGuard, DivergenceGuard
from .monitoring.clock import TrainingClock
from .monitoring.logs import prefix_of
from .monitoring.metrics import HealthMeter
from .monitoring.non_finite import EXAMPLES, NamedBatches, NonFiniteGuard
from .shared_arguments import PretrainingArguments, SharedArguments


__all__ = ["Data2VecTrainer", "PretrainingArguments", "UpdateTrainer"]


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


class Data2VecTrainer(UpdateTrainer):
    """Trains a `...ForPreTraining` model on a [`PretrainingData`].

    Args:
        model: a model with [`PreTrainingMixin`].
        args: [`PretrainingArguments`].
        data: what [`pretraining.data.build_data`] returned; or a dataset, see [`wrap_dataset`].
        processing_class: of a dataset, what is saved beside the weights; text needs its tokenizer.
    """

    args: PretrainingArguments
    uses_all_parameters = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: PretrainingArguments,
        data: PretrainingData | Any,
        processing_class: Any = None,
        **kwargs: Any,
    ):
        if not isinstance(data, PretrainingData):
            data = wrap_dataset(data, model, args, processing_class)
        probed = [part.probe_test for part in data.parts.values()]
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.train_dataset,
            eval_dataset=data.eval_dataset or next(filter(None, probed), None),  # the probe alone is one, too
            data_collator=data.collator,
            processing_class=data.processor,
            **kwargs,
        )
        self.data = data
        parts = self.unwrapped().parts
        self.meters = {name: HealthMeter() for name in parts}
        self.guards = {
            name: CollapseGuard(
                start_step=args.guard_start_step,
                patience=args.guard_patience,
                utterance_only=part.objective.regression_weight == 0,
                modality=name,
            )
            for name, part in parts.items()
        }
        for guard in self.guards.values() if args.guard_patience else ():
            self.add_callback(guard)
        # loss and updates of each modality since the last log; of a single one the trainer has them
        self._losses = {name: torch.zeros(2, device=args.device) for name in parts if name}
        self._evaluated = ""  # the modality that is evaluated
        self._seen = torch.zeros(2, device=args.device)  # samples and real tokens of this rank since the last log
        self._last_log: float | None = None  # begins when the first micro-batch is done: set-up is no speed

    @property
    def collapsed(self) -> str | None:
        """Why the last `train` was stopped early, where a representation has collapsed."""
        return next((guard.explanation for guard in self.guards.values() if guard.explanation), None)

    def part(self, batch: dict[str, Any]) -> Any:
        """The model that reads a batch: in a joint run that of its modality."""
        return self.unwrapped().parts[batch.get(MODALITY, "")]

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        how = self.data.loader_arguments()
        return self._dataloader(self.data.train_dataset, how | {"collate_fn": NamedBatches(how["collate_fn"])})

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        # of a joint run `Trainer` asks for one modality after the other, by name
        part = self.data.parts[eval_dataset if isinstance(eval_dataset, str) else ""]
        how = {"batch_sampler": part.eval_batch_sampler, "collate_fn": part.collator}
        return self._dataloader(part.eval_dataset, how)

    def _dataloader(self, dataset: Any, how: dict[str, Any]) -> DataLoader:
        """A loader over batches of keys; or, streaming, over lists of examples that were sharded before."""
        loader = make_loader(dataset, self.args, worker_init_fn=start_worker, **how)
        return self.accelerator.prepare(loader) if "batch_sampler" in how else loader

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        if self.data.eval_dataset is not None:
            self._evaluated = eval_dataset if isinstance(eval_dataset, str) else ""  # of a joint run, by name
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        metrics: dict[str, float] = {}
        for name in self.data.parts:
            metrics |= last_scores(
                self.state, f"{metric_key_prefix}_{name}_" if name else f"{metric_key_prefix}_", name
            )
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluation_loop(self, *args: Any, **how: Any) -> EvalLoopOutput:
        """With what the online probe last measured, which `metric_for_best_model` may then name."""
        output = super().evaluation_loop(*args, **how)
        scores = last_scores(self.state, f"{how.get('metric_key_prefix', 'eval')}_", self._evaluated)
        return output._replace(metrics={**(output.metrics or {}), **scores})

    def start_pass(self, epoch: int) -> None:
        # Not left to the loader, which does not reach a sampler behind both a resume and several ranks.
        streaming = isinstance(self.data.train_dataset, StreamingBatches)
        source: Any = self.data.train_dataset if streaming else self.data.batch_sampler
        source.set_epoch(epoch)

    # ---- loss ----

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        completed: dict[str, Any] = self.part(batch).at_step(batch, self.state.global_step)
        return completed

    def count_items(self, batches: list[dict[str, Any]]) -> Tensor:
        scored = torch.stack([batch.get("scored", batch["masked"]).sum() for batch in batches]).sum()
        return scored.to(self.args.device, non_blocking=True)

    def add_loss(self, loss: Tensor, left_out: Tensor, batches: list[dict[str, Any]]) -> None:
        super().add_loss(loss, left_out, batches)
        if (name := batches[0].get(MODALITY)) is not None:
            self._losses[name] += torch.stack((torch.where(left_out, 0.0, loss), (~left_out).to(loss.dtype)))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        layers = kept_layers(self.part(inputs).config, self.args.seed, self.state.global_step)
        if model.training and layers is not None:
            inputs = inputs | {"kept_layers": layers}
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._observe(output, inputs.get(MODALITY, ""))
        return (loss, output) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, None, None]:
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(self.part(inputs).at_step(inputs, None)))
        return loss.detach().mean(), None, None

    # ---- teacher ----

    def after_step(self, made: Tensor | None) -> None:
        """Move the teacher by the optimizer's weights, shard by shard, on all ranks."""
        model = self.unwrapped()
        model.update_teacher(model.objective.decay_at(self.state.global_step + 1), held=held, made=made)
        refresh(model.teacher)

    # ---- optimizer ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        if self.args.decay_everything:
            return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        return decayed_names(model)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        made, trained = self.optimizer is not None, model or self.model
        optimizer = super().create_optimizer(model)
        if not made and trained is not None:
            split_param_groups(optimizer, trained, self.unwrapped().rate_factor)
        return optimizer

    # ---- health ----

    def _observe(self, output: Data2VecForPreTrainingOutput, modality: str) -> None:
        if self._last_log is None:
            self._last_log = self.clock.seconds()
        else:
            batch, time_steps = output.all_targets.shape[:2]
            self._seen[0] += batch
            self._seen[1] += batch * time_steps if output.real is None else output.real.sum()
        step, every = self.state.global_step + 1, max(int(self.state.logging_steps or 1), 1)
        if step % every == 0 or step in (1, self.state.max_steps):  # the steps that are logged
            self.meters[modality].update(output)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["loss"] = self.non_finite.mean_of_applied(logs["loss"], self.state.global_step)
            for name, meter in self.meters.items():
                logs |= {prefix_of(name) + key: value for key, value in meter.summary(self._sum_over_ranks).items()}
            for name, sums in self._losses.items():
                loss, updates = self._sum_over_ranks(sums).tolist()
                logs |= {f"{prefix_of(name)}loss": loss / updates} if updates else {}
                sums.zero_()
            samples, tokens = self._sum_over_ranks(self._seen).tolist()
            now = self.clock.seconds()
            seconds = now - (self._last_log or now)
            if samples:
                logs["samples_per_second"], logs["tokens_per_second"] = samples / seconds, tokens / seconds
            logs["ema_decay"] = self.unwrapped().objective.decay_at(self.state.global_step)
            self._last_log = now
            self._seen.zero_()
            self.data.exchange_skipped(gather_object, self.args.process_index)
        logs["training_seconds"] = self.clock.seconds()
        super().log(logs, start_time)

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, "sum")

    # ---- checkpoints ----

    def unlogged(self) -> dict[str, Any]:
        return super().unlogged() | {"of_modalities": {name: sums.tolist() for name, sums in self._losses.items()}}

    def restore_unlogged(self, ranks: list[dict[str, Any]]) -> None:
        super().restore_unlogged(ranks)
        for rank in ranks:
            for name, sums in rank["of_modalities"].items():
                self._losses[name] += torch.tensor(sums, device=self.args.device) / len(ranks)

    def layout(self) -> Layout:
        sampler = self.data.batch_sampler
        return Layout.of(self.args, STREAM if sampler is None else COUNTED if sampler.cost is None else BY_COST)

    def write_finished(self, folder: Path) -> None:
        """The plain encoder at the top of the run folder, and the whole model in `pretraining/`.

        Both are written aside, and then replace the files that were there one by one: none is ever half written.
        """
        model, aside = self.model_to_save(), folder / WRITING
        if self.args.should_save:
            self.write_whole(model, str(aside / WHOLE))
            model.save_encoder(aside / "encoder")
            self.data.processor.save_pretrained(aside / "encoder")
            move_files(aside / WHOLE, folder / WHOLE)
            move_files(aside / "encoder", folder)
