"""Training on several processes: DDP, FSDP2 and DeepSpeed ZeRO-1, 2 and 3 do the same, to float tolerance.

Engines are those of `accelerate`, chosen by `accelerate launch --config_file pretraining/launch/ENGINE.yaml`. Where
they differ from each other by default, this says what they do:

- `bf16` is fp32 weights, bf16 autocast and gradients summed in fp32, on every engine;
- the teacher is fp32 and follows the weights that the optimizer moves, not a rounded copy;
- a layer that LayerDrop left out has a zero gradient, on every engine: some take "none" as zero, some skip it;
- a saved model is whole, in fp32.
"""

import contextlib
import copy
import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor
from transformers import (
    MODEL_FOR_PRETRAINING_MAPPING,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINING_ARGS_NAME

from .sharded_weights import held, is_spread, refresh, whole_state_dict


class EngineTrainer(Trainer):
    """A base class beside `Trainer`'s other ones, which gives the same result on every engine."""

    _unwrapped: tuple[Any, Any] | None = None  # a model and what is in its wrappings

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if getattr(self.unwrapped().config, "layerdrop", 0.0):
            self.add_callback(_DroppedLayers(self))

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if asks_for_fsdp(self.args) and state.distributed_type == DistributedType.MULTI_CPU:
            shard_on_cpu(self.accelerator, FullyShardedDataParallelPlugin(**(self.args.fsdp_plugin_args or {})))
            self.is_fsdp_enabled = True
        if self.is_fsdp_enabled:
            prepare_fsdp(state.fsdp_plugin, self.unwrapped())
        if self.is_deepspeed_enabled and self.args.bf16:
            autocast_under_deepspeed(state.deepspeed_plugin)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        autocast: Any = contextlib.nullcontext()
        if self.is_fsdp_enabled and self.args.bf16:
            autocast = torch.autocast(self.args.device.type, torch.bfloat16)
        with autocast:
            return super().compute_loss(*args, **kwargs)

    def unwrapped(self) -> Any:
        """The trained model. Asked for several times a step, and accelerate takes a millisecond for its answer."""
        if self._unwrapped is None or self._unwrapped[0] is not self.model:
            self._unwrapped = (self.model, self.accelerator.unwrap_model(self.model))
        return self._unwrapped[1]

    def move_teacher(self, decay: float, made: Tensor | None = None) -> None:
        """Move the teacher by the optimizer's weights, shard by shard. All ranks call it.

        `made` is that of [`modeling.ema.ema_update`].
        """
        model = self.unwrapped()
        model.update_teacher(decay, held=held, made=made)
        refresh(model.teacher)

    # ---- LayerDrop ----

    def forget_gradients(self) -> None:
        """In front of an update: ZeRO-3 would take the gradient that a layer had when it last was there."""
        buffer = getattr(getattr(self.model_wrapped, "optimizer", None), "grad_partitions_flat_buffer", None)
        if self.is_deepspeed_enabled and buffer is not None:
            buffer.zero_()

    def fill_gradients(self) -> None:
        """In front of the optimizer step: zeros for parameters without a gradient. DeepSpeed does it itself."""
        optimizer: Any = self.optimizer
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.is_deepspeed_enabled or all(parameter.grad is None for parameter in parameters):
            return  # no gradient at all: the step is left out
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    # ---- weights ----

    def whole_model(self) -> Any:
        """A model that one process can run: the trained one where it is whole, else a copy of it on the main process.

        All ranks call it; the others get `None` where it is a copy.
        """
        model = self.unwrapped()
        if not is_spread(model):
            return model
        weights = whole_state_dict(model, keep=self.is_world_process_zero())
        if not self.is_world_process_zero():
            return None
        return self._rebuilt(weights).to(self.args.device).train(model.training)

    def _rebuilt(self, weights: dict[str, Tensor]) -> Any:
        """An ordinary module with the weights that `whole_state_dict` gave, on the CPU."""
        config = copy.deepcopy(self.unwrapped().config)  # models keep the object, and write to it
        model_class: Any = MODEL_FOR_PRETRAINING_MAPPING[type(config)]
        with torch.random.fork_rng():  # training must not notice
            model = model_class(config)
        model.load_state_dict(weights)
        return model

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model; of a checkpoint whose engine writes shards (FSDP2), what makes them a model."""
        output_dir = output_dir or str(self.args.output_dir)
        if _internal_call and self._writes_shards():
            if self.args.should_save:
                self.unwrapped().config.save_pretrained(output_dir)
                processor: Any = self.processing_class
                processor.save_pretrained(output_dir)
            return
        if not is_spread(self.unwrapped()):
            super().save_model(output_dir, _internal_call)
            return
        model = self.model_to_save()
        if self.args.should_save:
            self.write_whole(model, output_dir)

    def model_to_save(self) -> Any:
        """The trained model, or an ordinary module with its weights where an engine has it in parts.

        All ranks call it.
        `Trainer` would save what the module of this rank holds, a part of the weights or a rounded copy, and FSDP2's
        module, whose class is another one, with other code. Ranks that do not save get `None` for a copy.
        """
        model = self.unwrapped()
        if not is_spread(model):
            return model
        weights = whole_state_dict(model, keep=self.args.should_save)
        return self._rebuilt(weights) if self.args.should_save else None

    def write_whole(self, model: Any, output_dir: str) -> None:
        """What `Trainer` writes into a folder: the model, the processor and the arguments."""
        model.save_pretrained(output_dir)
        processor: Any = self.processing_class
        processor.save_pretrained(output_dir)
        torch.save(self.args, os.path.join(output_dir, TRAINING_ARGS_NAME))

    def _writes_shards(self) -> bool:
        return self.is_fsdp_enabled and "SHARDED" in str(self.accelerator.state.fsdp_plugin.state_dict_type)


class _DroppedLayers(TrainerCallback):
    """What a layer that was dropped in an update has for a gradient: zero."""

    def __init__(self, trainer: EngineTrainer):
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.forget_gradients()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.fill_gradients()


def shard_on_cpu(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Let accelerate use FSDP2 on a CPU: it knows it on accelerators only, and would use DDP without a word."""
    accelerator.state.fsdp_plugin = plugin
    # every new `AcceleratorState` takes the type from here
    PartialState._shared_state["distributed_type"] = accelerator.state.distributed_type = DistributedType.FSDP


def prepare_fsdp(plugin: FullyShardedDataParallelPlugin, model: PreTrainedModel) -> None:
    """Shard block by block, the teacher's as the student's, and leave precision to autocast."""
    # those of our class: the instance has the stock encoder's too, and we call some of these in parts
    plugin.transformer_cls_names_to_wrap = list(type(model)._no_split_modules or ())
    plugin.mixed_precision_policy = None


def asks_for_fsdp(args: Any) -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" or args.fsdp_plugin_args is not None


def autocast_under_deepspeed(plugin: Any) -> None:
    """bf16 by autocast, as under DDP, instead of weights that are rounded to bf16."""
    plugin.deepspeed_config.pop("bf16", None)
    plugin.deepspeed_config["torch_autocast"] = {
        "enabled": True,
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],  # none: weights are gathered and gradients summed in fp32
    }
    plugin.hf_ds_config._dtype = torch.float32  # of the inputs
