"""`FineTuneTrainer`: a `Trainer` that trains a [`Task`].

What it adds, and nothing else: batches of (epoch, index) keys, so that augmentation and a resumed run are exact; the
task's loss; layer-wise learning rates; an encoder frozen at first; an average of the weights. The training loop, its
engines, checkpoints and signals are those of pretraining.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback

from ..pretraining.checkpoints.signals import start_worker
from ..pretraining.data.loader import make_loader
from ..pretraining.data.sampler import BatchSampler
from ..pretraining.engine.batch_layout import BY_COST, COUNTED, Layout
from ..pretraining.engine.param_groups import decayed_names
from ..pretraining.monitoring.non_finite import NamedBatches
from ..pretraining.update_trainer import UpdateTrainer
from .optim import parameter_groups
from .task import Task, TaskData
from .training_arguments import FineTuneArguments
from .weights_average import WeightsAverage


__all__ = ["FineTuneArguments", "FineTuneTrainer"]


class FineTuneTrainer(UpdateTrainer):
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
        self.add_callback(_Freeze(self))
        self.add_callback(_BestAverage(self))

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        collate = NamedBatches(self.data.train_collator or self.data.collator)
        how = {"batch_sampler": self.batches, "collate_fn": collate, "worker_init_fn": start_worker}
        return self.accelerator.prepare(make_loader(self.data.train, self.args, **how))

    def start_pass(self, epoch: int) -> None:
        # Said here as well: the `Trainer` does not reach a sampler behind both a resume and several ranks.
        self.batches.set_epoch(epoch)

    # ---- loss ----

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = self.task.loss(model, inputs)
        if model.training and num_items_in_batch is not None:
            # The `Trainer` divides by the batches of a step, and DDP by the ranks: every example must count alike,
            # however many share its batch.
            share = _examples_of(inputs) / num_items_in_batch
            loss = loss * share * self.current_gradient_accumulation_steps * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def count_items(self, batches: list[dict[str, Any]]) -> Tensor:
        return torch.tensor(float(sum(map(_examples_of, batches))), device=self.args.device)

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
        return decayed_names(model)

    # ---- checkpoints ----

    def layout(self) -> Layout:
        return Layout.of(self.args, COUNTED if self.data.batch_cost is None else BY_COST)

    # ---- average of the weights ----

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        with nullcontext() if self.average is None else self.average.applied():
            return super().evaluation_loop(*args, **kwargs)

    def after_step(self, made: Tensor | None) -> None:
        if self.average is not None:
            self.average.update()

    def save_more(self, folder: Path) -> None:
        super().save_more(folder)
        if self.average is not None and self.args.should_save:
            self.average.save(folder)

    def load_more(self, folder: Path, ranks: int) -> None:
        super().load_more(folder, ranks)
        if self.average is not None:
            self.average.load(folder)

    def write_finished(self, folder: Path) -> None:
        """The model with its head, with the averaged weights where there is an average."""
        with nullcontext() if self.average is None else self.average.applied():
            model = self.model_to_save()
            if self.args.should_save:
                self.write_whole(model, str(folder))


class _Freeze(TrainerCallback):
    """The encoder is frozen at first (`freeze_encoder_steps`)."""

    def __init__(self, trainer: FineTuneTrainer):
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not args.freeze_encoder_steps:
            return
        frozen = state.global_step < args.freeze_encoder_steps
        for parameter in self._trained_encoder():
            parameter.requires_grad_(not frozen)

    def _trained_encoder(self) -> list[nn.Parameter]:
        """The encoder's parameters that the optimizer has: all but what is frozen for good."""
        assert self.trainer.optimizer is not None
        trained = {id(p) for group in self.trainer.optimizer.param_groups for p in group["params"]}
        model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return [parameter for parameter in self.trainer.task.frozen_at_first(model) if id(parameter) in trained]


class _BestAverage(TrainerCallback):
    """`load_best_model_at_end`: the average of that checkpoint, too."""

    def __init__(self, trainer: FineTuneTrainer):
        self.trainer = trainer

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.average is not None and args.load_best_model_at_end and state.best_model_checkpoint:
            self.trainer.average.load(state.best_model_checkpoint)


def freeze_feature_encoder(model: PreTrainedModel) -> None:
    """No gradient for the convolutional front end of a speech model; ValueError where there is none."""
    freeze = getattr(model, "freeze_feature_encoder", None)
    if freeze is None:
        raise ValueError(
            f"training.freeze_feature_encoder = true is invalid: {type(model).__name__} has no convolutional "
            "front end, leave it out."
        )
    freeze()


def _examples_of(batch: dict[str, Any]) -> int:
    return len(next(iter(batch.values())))
