"""Training on several processes: DDP, FSDP2 and DeepSpeed ZeRO-1, 2 and 3 do the same, to float tolerance.

Engines are those of `accelerate`, chosen by `accelerate launch --config_file pretraining/launch/ENGINE.yaml`. Where
they differ from each other by default, this says what they do:

- `bf16` is fp32 weights, bf16 autocast and gradients summed in fp32, on every engine;
- the teacher is fp32 and follows the weights that the optimizer moves, not a rounded copy;
- batch norm counts the batches of all ranks, where the original of a model did (Point2Vec) and there are GPUs;
- a saved model is whole, in fp32.
"""

import contextlib
import copy
import logging
import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from .optimizer_step import is_fused
from .schedules import SCHEDULES
from .sharded_weights import is_spread, whole_state_dict


logger = logging.getLogger(__name__)


class EngineTrainer(Trainer):
    """A `Trainer` that gives the same result on every engine."""

    _unwrapped: tuple[Any, Any] | None = None  # a model and what is in its wrappings

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self.args.world_size > 1 and getattr(self.unwrapped(), "sync_batch_norm", False):
            share_statistics(self.unwrapped(), self.args.device)
        if asks_for_fsdp(self.args) and state.distributed_type == DistributedType.MULTI_CPU:
            shard_on_cpu(self.accelerator, FullyShardedDataParallelPlugin(**(self.args.fsdp_plugin_args or {})))
            self.is_fsdp_enabled = True
        if self.is_fsdp_enabled:
            prepare_fsdp(state.fsdp_plugin, self.unwrapped())
        if self.is_deepspeed_enabled and self.args.bf16:
            autocast_under_deepspeed(state.deepspeed_plugin)

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        stack = super().compute_loss_context_manager()
        if self.is_fsdp_enabled and self.args.bf16:
            stack.enter_context(torch.autocast(self.args.device.type, torch.bfloat16))
        return stack

    def unwrapped(self) -> Any:
        """The trained model. Asked for several times a step, and accelerate takes a millisecond for its answer."""
        if self._unwrapped is None or self._unwrapped[0] is not self.model:
            self._unwrapped = (self.model, self.accelerator.unwrap_model(self.model))
        return self._unwrapped[1]

    # ---- optimizer ----

    def step_is_fused(self) -> bool:
        return is_fused(self.optimizer, self.accelerator)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        schedule = SCHEDULES.get(self.args.lr_scheduler_type)
        if schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        settings: Any = self.args.lr_scheduler_kwargs or {}
        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        self.lr_scheduler = schedule(optimizer, num_training_steps, **settings)
        return self.lr_scheduler

    # ---- weights ----

    def whole_model(self) -> Any:
        """A model that one process can run: the trained one where it is whole, else a copy of it on the main process.

        All ranks call it; the others get `None` where it is a copy.
        """
        trained = self.unwrapped()
        model = self._gathered(keep=self.is_world_process_zero())
        return model if model is None or model is trained else model.to(self.args.device).train(trained.training)

    def _gathered(self, keep: bool) -> Any:
        """The trained model where it is whole, else an ordinary module with its weights on the CPU, if to `keep`."""
        model = self.unwrapped()
        if not is_spread(model):
            return model
        weights = whole_state_dict(model, keep=keep)
        if not keep:
            return None
        config = copy.deepcopy(model.config)  # models keep the object, and write to it
        model_class: Any = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
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

        All ranks call it; those that do not save get `None` for a copy. `Trainer` would save what the module of this
        rank holds: a part of the weights, or a rounded copy, or FSDP2's module, whose class is another one.
        """
        return self._gathered(keep=self.args.should_save)

    def write_whole(self, model: Any, output_dir: str) -> None:
        """What `Trainer` writes into a folder: the model, the processor and the arguments."""
        model.save_pretrained(output_dir)
        processor: Any = self.processing_class
        processor.save_pretrained(output_dir)
        torch.save(self.args, os.path.join(output_dir, TRAINING_ARGS_NAME))

    def _writes_shards(self) -> bool:
        return self.is_fsdp_enabled and "SHARDED" in str(self.accelerator.state.fsdp_plugin.state_dict_type)


def shard_on_cpu(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Let accelerate use FSDP2 on a CPU: it knows it on accelerators only, and would use DDP without a word."""
    accelerator.state.fsdp_plugin = plugin
    # private: every new `AcceleratorState` takes the type from here, and no argument reaches it
    PartialState._shared_state["distributed_type"] = accelerator.state.distributed_type = DistributedType.FSDP


def prepare_fsdp(plugin: FullyShardedDataParallelPlugin, model: PreTrainedModel) -> None:
    """Shard block by block, the teacher's as the student's, and leave precision to autocast."""
    # those of our class: the instance has the stock encoder's too, and we call some of these in parts
    plugin.transformer_cls_names_to_wrap = list(type(model)._no_split_modules or ())
    plugin.mixed_precision_policy = None


def share_statistics(model: PreTrainedModel, device: torch.device) -> None:
    """Let batch norm count the batches of all ranks, which PyTorch does on accelerators only."""
    if device.type == "cpu":
        logger.warning("without a GPU, batch norm counts each process's batch apart: results differ a little.")
    else:
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)


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
