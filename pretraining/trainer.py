"""`Data2VecTrainer`: a `Trainer` with a teacher.

What it adds, and nothing else: the teacher moves once per optimizer step; the loss is divided by the masked positions
of the whole effective batch; weight decay spares what it should not touch; the run's health is logged and guarded;
batches come from our sampler; and a finished run leaves the plain encoder at the top of its folder.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType

from ..modeling import Data2VecForPreTrainingOutput
from ..modeling.masking import mask_seeds
from .callbacks import CollapseGuard, TeacherCallback
from .data import PretrainingData
from .data_streaming import StreamingBatches
from .metrics import HealthMeter
from .schedules import get_tri_stage_schedule


TRI_STAGE = "tri_stage"
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


@dataclass
class PretrainingArguments(TrainingArguments):
    """`TrainingArguments` with what pretraining adds; the defaults that differ are those that it needs.

    `lr_scheduler_type` also takes `tri_stage`, with `lr_scheduler_kwargs` `{warmup, hold, decay}`, shares of the run.
    """

    optim: str = field(default="adamw_torch_fused", metadata={"help": "3 to 4 times faster than the loop on CPU"})
    adam_beta2: float = field(default=0.98, metadata={"help": "beta2 of the papers' speech and text recipes"})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "epsilon of the papers' recipes"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "gradient clipping; 0 is off and still logs the norm"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "off: a NaN shall be seen"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collators decide what the model gets"})
    ddp_find_unused_parameters: bool | None = field(default=True, metadata={"help": "LayerDrop leaves some unused"})
    decay_everything: bool = field(
        default=False, metadata={"help": "weight decay on every parameter, biases and norms too, as the original did"}
    )
    probe_steps: int = field(default=0, metadata={"help": "updates between two k-NN probes on data.probe; 0 is off"})
    guard_start_step: int = field(default=5000, metadata={"help": "updates before which no collapse is declared"})
    guard_patience: int = field(default=3, metadata={"help": "unhealthy logs in a row that stop the run; 0 is off"})

    def __post_init__(self) -> None:
        tri_stage = self.lr_scheduler_type == TRI_STAGE
        if tri_stage:  # `transformers` knows its own schedules only
            self.lr_scheduler_type = SchedulerType.CONSTANT
        super().__post_init__()
        if tri_stage:
            self.lr_scheduler_type = TRI_STAGE


class Data2VecTrainer(Trainer):
    """Trains a `...ForPreTraining` model on a [`PretrainingData`].

    Args:
        model: a model with [`PreTrainingMixin`].
        args: [`PretrainingArguments`].
        data: what [`pretraining.data.build_data`] returned.
        kwargs: as in `Trainer`.
    """

    args: PretrainingArguments

    def __init__(self, model: PreTrainedModel, args: PretrainingArguments, data: PretrainingData, **kwargs: Any):
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.train_dataset,
            eval_dataset=data.eval_dataset,
            data_collator=data.collator,
            processing_class=data.processor,
            **kwargs,
        )
        self.data = data
        self.meter = HealthMeter()
        self.guard = CollapseGuard(start_step=args.guard_start_step, patience=args.guard_patience)
        self.add_callback(TeacherCallback(self))
        if args.guard_patience:
            self.add_callback(self.guard)
        self._micro_step = (-1, 0)  # (global step, micro-batches of it so far)
        self._seen = torch.zeros(2, device=args.device)  # samples and real tokens of this rank since the last log
        self._last_log: float | None = None  # the clock starts when the first micro-batch is done: set-up is no speed

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        return self._dataloader(self.data.train_dataset, self.data.loader_arguments())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        how = {"batch_sampler": self.data.eval_batch_sampler, "collate_fn": self.data.collator}
        return self._dataloader(self.data.eval_dataset, how)

    def _dataloader(self, dataset: Any, how: dict[str, Any]) -> DataLoader:
        """A loader over batches of keys; or, streaming, over lists of examples that were sharded before."""
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            dataset,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            **how,
        )
        return self.accelerator.prepare(loader) if "batch_sampler" in how else loader

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Said here as well: the `Trainer` does not reach a sampler behind both a resume and several ranks.
        streaming = isinstance(self.data.train_dataset, StreamingBatches)
        source: Any = self.data.train_dataset if streaming else self.data.batch_sampler
        source.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    # ---- loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """Masked positions of all micro-batches of all ranks: what the summed loss is divided by."""
        if not batch_samples:
            return None
        count = torch.stack([batch["masked"].sum() for batch in batch_samples]).sum().to(device)
        return self._sum_over_ranks(count)

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
        """Layers that this micro-batch keeps, by (seed, step, micro-batch): alike on all ranks and after a resume."""
        step, micro = self._micro_step
        self._micro_step = (step, micro + 1) if step == self.state.global_step else (self.state.global_step, 0)
        config: Any = self._unwrapped().config
        probability = getattr(config, "layerdrop", 0.0)
        if not probability:
            return {}
        step, micro = self._micro_step
        seed = int(mask_seeds(self.args.seed, step, [micro], 1))
        draws = torch.rand(
            config.num_hidden_layers + getattr(config, "num_prenet_layers", 0),
            generator=torch.Generator().manual_seed(seed),
        )
        return {"kept_layers": (draws >= probability).tolist()}

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

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.args.lr_scheduler_type != TRI_STAGE:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            shares: Any = self.args.lr_scheduler_kwargs or {}
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = get_tri_stage_schedule(optimizer, num_training_steps, **shares)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- health ----

    def _observe(self, output: Data2VecForPreTrainingOutput) -> None:
        if self._last_log is None:
            self._last_log = time.perf_counter()
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
            logs |= self.meter.summary(self._sum_over_ranks)
            samples, tokens = self._sum_over_ranks(self._seen).tolist()
            now = time.perf_counter()
            seconds = now - (self._last_log or now)
            if samples:
                logs["samples_per_second"], logs["tokens_per_second"] = samples / seconds, tokens / seconds
            logs["ema_decay"] = self._unwrapped().objective.decay_at(self.state.global_step)
            self._last_log = now
            self._seen.zero_()
        super().log(logs, start_time)

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, "sum")

    def _unwrapped(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    # ---- checkpoints ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model; at the top of the run folder the plain encoder, and the whole in `pretraining/`.

        A checkpoint, or any other folder, holds student, teacher and head.
        """
        top: Any = self.args.output_dir
        if output_dir is not None and os.path.abspath(output_dir) != os.path.abspath(top):
            super().save_model(output_dir, _internal_call)
            return
        super().save_model(str(Path(top) / WHOLE_MODEL), _internal_call=True)
        if self.args.should_save:
            self._unwrapped().save_encoder(top)
            self.data.processor.save_pretrained(top)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)
