"""`Data2VecTrainer`: a `Trainer` with a teacher.

What it adds, and nothing else: the teacher moves once per optimizer step; the loss is divided by the masked positions
of the whole effective batch; weight decay spares what it should not touch; the run's health is logged and guarded;
batches come from our sampler; and a finished run leaves the plain encoder at the top of its folder. That a run can be
killed and continued is checkpoints/resume.py's.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..modeling import Data2VecForPreTrainingOutput
from ..modeling.conv import set_channels_last
from ..modeling.masking import mask_seeds
from .checkpoints.resume import ResumableTrainer
from .checkpoints.signals import start_worker
from .checkpoints.storage import WRITING, move_files
from .data.build import PretrainingData
from .data.loader import make_loader
from .data.streaming import StreamingBatches
from .engine.batch_layout import BY_COST, COUNTED, STREAM, Layout
from .engine.distributed import EngineTrainer
from .engine.optimizer_step import UpdateTrainer
from .engine.param_groups import split_param_groups
from .engine.schedules import ScheduleTrainer
from .monitoring.callbacks import CollapseGuard, TeacherCallback
from .monitoring.clock import TrainingClock
from .monitoring.metrics import HealthMeter
from .monitoring.non_finite import EXAMPLES, NamedBatches, NonFiniteGuard
from .shared_arguments import SharedArguments


WHOLE_MODEL = "pretraining"  # sub-folder that holds student, teacher and head of a finished run

# Weight decay pulls towards zero what a layer multiplies with; these are read, added or scaled with instead.
NO_DECAY = (
    "mask_token",
    "masked_spec_embed",
    "cls_token",
    "extra_tokens",
    "position_embeddings",
    "relative_position_bias_table",
)


@dataclass(repr=False)  # that of `TrainingArguments` shows no token
class PretrainingArguments(SharedArguments):
    """`TrainingArguments` with what pretraining adds; the defaults that differ are those that it needs."""

    adam_beta2: float = field(default=0.98, metadata={"help": "beta2 of the papers' speech and text recipes"})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "epsilon of the papers' recipes"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "gradient clipping; 0 is off and still logs the norm"})
    ddp_find_unused_parameters: bool | None = field(
        default=None, metadata={"help": "a walk over the graph in every step; on by itself where LayerDrop needs it"}
    )
    decay_everything: bool = field(
        default=False, metadata={"help": "weight decay on every parameter, biases and norms too, as the original did"}
    )
    channels_last: bool = field(
        default=True, metadata={"help": "layout of convolutions over tokens, faster; off: the plain kernels"}
    )
    probe_steps: int = field(default=0, metadata={"help": "updates between two k-NN probes on data.probe; 0 is off"})
    guard_start_step: int = field(default=5000, metadata={"help": "updates before which no collapse is declared"})
    guard_patience: int = field(default=3, metadata={"help": "unhealthy logs in a row that stop the run; 0 is off"})
    max_nonfinite_steps: int = field(
        default=10,
        metadata={"help": "steps in a row, left out for a loss or gradient that is not finite, that stop the run"},
    )

    def __post_init__(self) -> None:
        chosen = self.accelerator_config is not None
        super().__post_init__()
        if not chosen:  # batches in pinned memory go to the device beside its work
            self.accelerator_config.non_blocking = self.dataloader_pin_memory  # type: ignore[union-attr]


class Data2VecTrainer(ResumableTrainer, EngineTrainer, UpdateTrainer, ScheduleTrainer):
    """Trains a `...ForPreTraining` model on a [`PretrainingData`].

    Args:
        model: a model with [`PreTrainingMixin`].
        args: [`PretrainingArguments`].
        data: what [`pretraining.data.build_data`] returned.
        kwargs: as in `Trainer`.
    """

    args: PretrainingArguments

    def __init__(self, model: PreTrainedModel, args: PretrainingArguments, data: PretrainingData, **kwargs: Any):
        if args.ddp_find_unused_parameters is None:  # all others are used in every step
            args.ddp_find_unused_parameters = bool(getattr(model.config, "layerdrop", 0.0))
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.train_dataset,
            eval_dataset=data.eval_dataset,
            data_collator=data.collator,
            processing_class=data.processor,
            **kwargs,
        )
        set_channels_last(model, args.channels_last)
        self.data = data
        self.meter = HealthMeter()
        self.clock = TrainingClock()
        self.guard = CollapseGuard(start_step=args.guard_start_step, patience=args.guard_patience)
        self.non_finite = NonFiniteGuard(self, args.max_nonfinite_steps)
        self.add_callback(self.non_finite)
        self.add_callback(TeacherCallback(self))
        if args.guard_patience:
            self.add_callback(self.guard)
        self._seen = torch.zeros(2, device=args.device)  # samples and real tokens of this rank since the last log
        self._last_log: float | None = None  # begins when the first micro-batch is done: set-up is no speed

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        how = self.data.loader_arguments()
        return self._dataloader(self.data.train_dataset, how | {"collate_fn": NamedBatches(how["collate_fn"])})

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        how = {"batch_sampler": self.data.eval_batch_sampler, "collate_fn": self.data.collator}
        return self._dataloader(self.data.eval_dataset, how)

    def _dataloader(self, dataset: Any, how: dict[str, Any]) -> DataLoader:
        """A loader over batches of keys; or, streaming, over lists of examples that were sharded before."""
        loader = make_loader(dataset, self.args, worker_init_fn=start_worker, **how)
        return self.accelerator.prepare(loader) if "batch_sampler" in how else loader

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Said here as well: the `Trainer` does not reach a sampler behind both a resume and several ranks.
        streaming = isinstance(self.data.train_dataset, StreamingBatches)
        source: Any = self.data.train_dataset if streaming else self.data.batch_sampler
        source.set_epoch(kwargs["epoch"])
        self.clock.start(max((log.get("training_seconds", 0.0) for log in self.state.log_history), default=0.0))
        super()._run_epoch(*args, **kwargs)

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, Tensor) and data.is_pinned():  # a stream's batch; others are on the device already
            data = data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    # ---- loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """Masked positions of all micro-batches of all ranks: what the summed loss is divided by."""
        if not batch_samples:
            return None
        count = torch.stack([batch["masked"].sum() for batch in batch_samples]).sum().to(device, non_blocking=True)
        return self.vote(count.view(1)).squeeze(0)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if model.training:
            inputs = inputs | self._layerdrop()
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._observe(output)
        return (loss, output) if return_outputs else loss

    def _layerdrop(self) -> dict[str, list[bool]]:
        """Layers that this update keeps, by (seed, step): alike in all its micro-batches, on all ranks, resumed."""
        config: Any = self.unwrapped().config
        probability = getattr(config, "layerdrop", 0.0)
        if not probability:
            return {}
        seed = int(mask_seeds(self.args.seed, self.state.global_step, [0], 1))
        draws = torch.rand(
            config.num_hidden_layers + getattr(config, "num_prenet_layers", 0),
            generator=torch.Generator().manual_seed(seed),
        )
        return {"kept_layers": (draws >= probability).tolist()}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        self.non_finite.note(inputs.pop(EXAMPLES))
        return super().training_step(model, inputs, num_items_in_batch)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.non_finite.judge(norm)
        return norm

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, None, None]:
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach().mean(), None, None

    # ---- optimizer ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if self.args.decay_everything:
            return names
        shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
        return [name for name in names if shapes[name] > 1 and not any(spared in name for spared in NO_DECAY)]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        made, trained = self.optimizer is not None, model or self.model
        optimizer = super().create_optimizer(model)
        if not made and trained is not None:
            split_param_groups(optimizer, trained, self.unwrapped().rate_factor)
        return optimizer

    # ---- health ----

    def _observe(self, output: Data2VecForPreTrainingOutput) -> None:
        if self._last_log is None:
            self._last_log = self.clock.seconds()
        else:
            batch, time_steps = output.all_targets.shape[:2]
            self._seen[0] += batch
            self._seen[1] += batch * time_steps if output.real is None else output.real.sum()
        upcoming = self.state.global_step + 1
        every = max(int(self.state.logging_steps or 1), 1)
        if upcoming % every == 0 or (upcoming == 1 and self.args.logging_first_step):
            self.meter.update(output)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["loss"] = self.non_finite.mean_of_applied(logs["loss"], self.state.global_step)
            logs |= self.meter.summary(self._sum_over_ranks)
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

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.clock.paused():
            return super().evaluate(*args, **kwargs)

    # ---- checkpoints ----

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.clock.paused():
            super()._save_checkpoint(*args, **kwargs)

    def layout(self) -> Layout:
        sampler = self.data.batch_sampler
        return Layout.of(self.args, STREAM if sampler is None else COUNTED if sampler.cost is None else BY_COST)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model; at the top of the run folder the plain encoder, and the whole in `pretraining/`.

        A checkpoint, or any other folder, holds student, teacher and head. The files at the top are written aside and
        then replaced one by one, so that none is ever half written.
        """
        top: Any = self.args.output_dir
        if output_dir is not None and os.path.abspath(output_dir) != os.path.abspath(top):
            super().save_model(output_dir, _internal_call)
            return
        whole, encoder = Path(top) / WRITING / WHOLE_MODEL, Path(top) / WRITING / "encoder"

        def write() -> None:
            model = self.model_to_save()
            if self.args.should_save:
                self.write_whole(model, str(whole))
                model.save_encoder(encoder)
                self.data.processor.save_pretrained(encoder)
                move_files(whole, Path(top) / WHOLE_MODEL)
                move_files(encoder, Path(top))

        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self._on_all_ranks(write, Path(top) / "model.safetensors", exchanges=sharded)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)
