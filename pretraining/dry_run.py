"""`data2vec pretrain RECIPE --dry-run`: what a run would be and cost, from a few steps of it. Writes no run folder."""

import logging
import tempfile
import time
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .arguments import Run, resolve
from .checkpoints.run_cost import peak_memory
from .engine.launch_check import check_launch
from .monitoring.run_summary import TIMED, UNTIMED, describe_device, describe_model, duration
from .run import build_model, open_data
from .trainer import Data2VecTrainer


# of the timed steps: one micro-batch each, and nothing written
TIMING = {
    "gradient_accumulation_steps": 1, "save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no",
    "logging_first_step": False, "report_to": "none", "disable_tqdm": True, "probe_steps": 0, "push_to_hub": False,
    "load_best_model_at_end": False, "metric_for_best_model": None,
}  # fmt: skip


def dry_run(run: Run) -> None:
    """Print parameters, effective batch, steps, memory and time of a run.

    Raises:
        ValueError: the launch, the data or the weights are refused.
    """
    args = run.training
    check_launch(args, config=run.config)
    data = open_data(run)
    model, loaded = build_model(run)
    with tempfile.TemporaryDirectory() as folder:
        recipe = {name: section for name, section in run.recipe.items() if name != "report"}
        recipe["training"] = {**recipe["training"], **TIMING, "output_dir": folder}
        trainer = Data2VecTrainer(model, resolve(recipe).training, data)
        clock = _Clock()
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        logging.getLogger("data2vec").setLevel(logging.WARNING)
        trainer.train()
    splits = args.gradient_accumulation_steps * args.world_size
    seconds = clock.seconds / max(clock.timed, 1) * args.gradient_accumulation_steps
    count = len(data.batch_sampler or ())  # of micro-batches of a pass; a stream has none
    a_pass = count / splits
    steps = args.max_steps if args.max_steps > 0 else round(args.num_train_epochs * a_pass)
    examples = float(args.per_device_train_batch_size)
    if data.batch_sampler is not None:
        examples = data.batch_sampler.size / count
    memory = peak_memory()
    lines = {
        "data": data.describe(),
        **loaded,
        "model": describe_model(model),
        "device": describe_device(args),
        "batch": f"{examples * splits:,.0f} examples: {examples:,.4g} in memory at once x "
        f"{args.gradient_accumulation_steps} accumulated x {args.world_size} devices",
        "steps": f"{steps:,}" + (f", {steps / a_pass:,.1f} passes over the data" if a_pass else ""),
        "memory": ", ".join(f"{value:.1f} GiB {MEMORY[name]}" for name, value in memory.items()),
        "time": f"{seconds:.3g} s per step: about {duration(seconds * steps)} here, without probes and saving",
    }
    if trainer.is_world_process_zero():
        width = max(map(len, lines))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()), flush=True)


MEMORY = {"peak_memory_gib": "of this process", "peak_gpu_memory_gib": "on its GPU"}


class _Clock(TrainerCallback):
    """Times some steps, then stops."""

    def __init__(self) -> None:
        self.steps = self.timed = 0
        self.seconds = self._began = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.steps += 1
        if self.steps == UNTIMED:
            self._began = time.perf_counter()
        self.timed = max(self.steps - UNTIMED, 0)
        self.seconds = time.perf_counter() - self._began
        control.should_training_stop = self.timed == TIMED
