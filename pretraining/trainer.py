"""`Data2VecTrainer`: an [`UpdateTrainer`] with a teacher.

Notable here:

- the loss is divided by the masked positions of the whole effective batch, over micro-batches and ranks;
- the teacher moves once per optimizer step;
- the same layers are dropped on all ranks, and again after a resume.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ..modeling import Data2VecForPreTrainingOutput
from .checkpoints.resume import find_checkpoint
from .checkpoints.run_files import WHOLE
from .checkpoints.signals import start_worker
from .checkpoints.storage import WRITING, go_back, move_files
from .data.loader import make_loader
from .data.streaming import StreamingBatches
from .engine.batch_layout import BY_COST, COUNTED, STREAM, Layout
from .engine.layerdrop import kept_layers
from .engine.param_groups import decayed_names, split_param_groups
from .engine.sharded_weights import held, refresh
from .evaluation.online_probe import last_scores
from .modalities.build import PretrainingData
from .modalities.joint import MODALITY
from .modalities.own_dataset import wrap_dataset
from .monitoring.callbacks import CollapseGuard
from .monitoring.logs import prefix_of
from .monitoring.metrics import HealthMeter
from .monitoring.non_finite import NamedBatches
from .monitoring.rescue import Rescue
from .shared_arguments import STOP, PretrainingArguments
from .update_trainer import UpdateTrainer


__all__ = ["Data2VecTrainer", "PretrainingArguments"]


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
        self.rescue = None if args.on_collapse == STOP else Rescue(self, args.on_collapse)
        self.guards = {
            name: CollapseGuard(
                start_step=args.guard_start_step,
                patience=args.guard_patience,
                utterance_only=part.objective.regression_weight == 0,
                modality=name,
                rescue=self.rescue,
            )
            for name, part in parts.items()
        }
        rescue = [] if self.rescue is None else [self.rescue]
        for callback in (*rescue, *self.guards.values()) if args.guard_patience else ():
            self.add_callback(callback)
        # loss and updates of each modality since the last log; of a single one the trainer has them
        self._losses = {name: torch.zeros(2, device=args.device) for name in parts if name}
        self._evaluated = ""  # the modality that is evaluated
        self._seen = torch.zeros(2, device=args.device)  # samples and real tokens of this rank since the last log
        self._last_log: float | None = None  # begins when the first micro-batch is done: set-up is no speed

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:  # type: ignore[override]
        """As in `Trainer`; a run that collapses and shall be restarted goes back to an earlier checkpoint."""
        output = super().train(resume_from_checkpoint, **kwargs)
        while self.rescue is not None and self.rescue.restarting and not (self.preempted or self.diverged):
            for sums in (self._seen, *self._losses.values()):
                sums.zero_()
            for guard in self.guards.values():
                guard.reset()
            self._on_all_ranks(self._go_back, Path(str(self.args.output_dir)))
            output = super().train(find_checkpoint(self.args), **kwargs)
        return output

    def _go_back(self) -> None:
        """Remove the checkpoints that a restart does not go back to."""
        if self.args.should_save and self.rescue is not None:
            go_back(Path(str(self.args.output_dir)), self.rescue.last_good)

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
