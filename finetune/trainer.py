"""`FineTuneTrainer`: a `Trainer` that trains a [`Task`].

What it adds, and nothing else: batches of (epoch, index) keys, so that augmentation and a resumed run are exact; the
task's loss; layer-wise learning rates; an encoder frozen at first; an average of the weights. Checkpoints, signals and
full disks are those of pretraining.
"""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback

from ..pretraining.checkpoints.resume import ResumableTrainer
from ..pretraining.checkpoints.signals import start_worker
from ..pretraining.data.loader import make_loader
from ..pretraining.data.sampler import BatchSampler
from ..pretraining.engine.batch_layout import BY_COST, COUNTED, Layout
from ..pretraining.engine.schedules import ScheduleTrainer
from .optim import decayed_names, parameter_groups
from .task import Task, TaskData
from .training_arguments import FineTuneArguments
from .weights_average import WeightsAverage


__all__ = ["FineTuneArguments", "FineTuneTrainer"]


class FineTuneTrainer(ResumableTrainer, ScheduleTrainer):
    """Trains `model` on `data.train` and evaluates it on `data.validation` as `args` say.

    Args:
        model: with a head; its `base_model` is the encoder.
        args: [`FineTuneArguments`].
        task, data: a task and what its `build_data` returned.
        kwargs: as in `Trainer`.

    Raises:
        ValueError: `args.freeze_feature_encoder` for a model without a convolutional front end.
    """

    args: FineTuneArguments

    def __init__(
        self, model: PreTrainedModel, args: FineTuneArguments, task: Task[Any, Any], data: TaskData, **kwargs: Any
    ):
        if args.freeze_feature_encoder:
            freeze_feature_encoder(model)
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.train,
            eval_dataset=data.validation,
            data_collator=data.collator,
            processing_class=data.processor,
            compute_metrics=task.compute_metrics,
            preprocess_logits_for_metrics=task.preprocess_logits,
            **kwargs,
        )
        # The loss is the mean of a batch whatever the model: a stock head would divide its sum by a count of labels.
        self.model_accepts_loss_kwargs = False
        self.task, self.data = task, data
        self.batches = BatchSampler(
            data.train.lengths,
            len(data.train),
            seed=args.seed,
            batch_size=args.per_device_train_batch_size if data.batch_cost is None else None,
            batch_cost=data.batch_cost,
            num_batches_multiple=args.world_size * args.gradient_accumulation_steps,
        )
        self.average: WeightsAverage | None = None
        if args.weights_ema_decay is not None:
            self.average = WeightsAverage(model, args.weights_ema_decay)
        self.add_callback(_StepCallback(self))

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        collate = self.data.train_collator or self.data.collator
        how = {"batch_sampler": self.batches, "collate_fn": collate, "worker_init_fn": start_worker}
        loader = make_loader(self.data.train, self.args, **how)
        return self.accelerator.prepare(loader)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Said here as well: the `Trainer` does not reach a sampler behind both a resume and several ranks.
        self.batches.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    # ---- loss ----

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = self.task.loss(model, inputs)
        if model.training and num_items_in_batch is not None:
            # The `Trainer` divides by the batches of a step, and DDP by the ranks: every example shall count alike,
            # however many share its batch.
            share = _examples_of(inputs) / num_items_in_batch
            loss = loss * share * self.current_gradient_accumulation_steps * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """Examples of an optimizer step: of all its batches, on all ranks."""
        if not batch_samples:
            return None
        count = torch.tensor(float(sum(map(_examples_of, batch_samples))), device=device)
        return self.vote(count.view(1)).squeeze(0)

    # ---- optimizer ----

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            own: Any = self.model
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, own)
            groups = parameter_groups(
                own,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                layer_decay=self.args.layer_decay,
                decay_embeddings=self.args.layer_decay_embeddings,
                head_learning_rate=self.args.head_learning_rate,
            )
            groups = [{key: value for key, value in group.items() if key != "names"} for group in groups]
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return list(decayed_names(model))

    # ---- checkpoints ----

    def layout(self) -> Layout:
        return Layout.of(self.args, COUNTED if self.data.batch_cost is None else BY_COST)

    # ---- average of the weights ----

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        with nullcontext() if self.average is None else self.average.applied():
            return super().evaluation_loop(*args, **kwargs)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None:
            self.average.load(str(self.state.best_model_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            self.average.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.average is not None and checkpoint is not None:
            self.average.load(checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; at the top of the run folder with the averaged weights, where there is an average."""
        top = os.path.abspath(output_dir or str(self.args.output_dir)) == os.path.abspath(str(self.args.output_dir))
        if not top:  # a checkpoint, which is written aside
            super().save_model(output_dir, _internal_call)
            return

        def write() -> None:
            with nullcontext() if self.average is None else self.average.applied():
                super(FineTuneTrainer, self).save_model(output_dir, _internal_call)

        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self._on_all_ranks(write, Path(str(self.args.output_dir)) / "model.safetensors", exchanges=sharded)


class _StepCallback(TrainerCallback):
    """What happens around an optimizer step: the encoder thaws, the average moves."""

    def __init__(self, trainer: FineTuneTrainer):
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not args.freeze_encoder_steps:
            return
        frozen = state.global_step < args.freeze_encoder_steps
        for parameter in self._trained_encoder():
            parameter.requires_grad_(not frozen)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.average is not None and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.average.update()

    def _trained_encoder(self) -> list[nn.Parameter]:
        """The encoder's parameters that the optimizer has: all but what is frozen for good."""
        assert self.trainer.optimizer is not None
        trained = {id(p) for group in self.trainer.optimizer.param_groups for p in group["params"]}
        model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return [parameter for parameter in model.base_model.parameters() if id(parameter) in trained]


def freeze_feature_encoder(model: PreTrainedModel) -> None:
    """No gradient for the convolutional front end of a speech model; ValueError where there is none."""
    freeze = getattr(model, "freeze_feature_encoder", None)
    if freeze is None:
        raise ValueError(
            f"training.freeze_feature_encoder = true is not possible: {type(model).__name__} has no convolutional "
            "front end, leave it out."
        )
    freeze()


def _examples_of(batch: dict[str, Any]) -> int:
    return len(next(iter(batch.values())))
