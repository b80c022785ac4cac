"""What a run is about to do, said before its first step, and how long it will take, said soon after."""

import platform
import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


SLOW_BF16 = "but this processor has no bf16 products, so bf16 is several times slower than fp32: remove bf16"
UNTIMED, TIMED = 3, 10  # steps: the first ones are slower than the rest


class RunSummary(TrainerCallback):
    """Prints a few lines on the main process.

    Args:
        facts: more of them, in front: what is trained on, for example.
    """

    def __init__(self, facts: Mapping[str, str]):
        self.facts = facts
        self._first = 0
        self._began: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._first, self._began = state.global_step, None
        if not state.is_world_process_zero:
            return
        done = f", {state.global_step:,} of them done" if state.global_step else ""
        passes = state.num_train_epochs
        epochs = f" ({passes:,} {'epoch' if passes == 1 else 'epochs'})" if passes < 1e6 else ""  # a stream has no end
        lines = {
            **self.facts,
            "model": describe_model(kwargs["model"]),
            "device": describe_device(args),
            "steps": f"{state.max_steps:,}{done}{epochs}",
            "folder": str(args.output_dir),
        }
        width = max(map(len, lines))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()), flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        done = state.global_step - self._first
        if done == UNTIMED:
            self._began = time.perf_counter()
        elif done == UNTIMED + TIMED and self._began is not None and state.is_world_process_zero:
            seconds = (time.perf_counter() - self._began) / TIMED
            left = seconds * (state.max_steps - state.global_step)
            print(f"{seconds:.3g} s per step: about {duration(left)} to go", flush=True)


def describe_model(model: Any) -> str:
    """Its type and how many parameters are trained, e.g. "data2vec-vision, 0.42 M parameters, 0.22 M trained"."""
    model = getattr(model, "module", model)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, trained = (sum(number for number, wanted in counts if wanted >= least) for least in (False, True))
    return f"{model.config.model_type}, {total / 1e6:,.3g} M parameters, {trained / 1e6:,.3g} M of them trained"


def describe_device(args: TrainingArguments) -> str:
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    if precision == "bf16" and args.device.type == "cpu" and not has_bf16_products():
        precision = f"bf16, {SLOW_BF16}"
    processes = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
    return f"{args.device.type}, {processes}, {precision}"


def has_bf16_products() -> bool:
    """Whether this processor multiplies in bf16; others, with AVX-512 alone too, convert to fp32 and back."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def duration(seconds: float) -> str:
    """In the unit that a person would use: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
