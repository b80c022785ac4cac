"""What a training costs, kept in `run.json` of its folder for the model card.

    compute: {wall_seconds, peak_memory_gib, peak_gpu_memory_gib}

Seconds of training with its probes, evaluation and saving, added up over the parts of a continued run; the most memory
that the main process held at once, and, of its GPU, what PyTorch had allocated there.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .run_files import write_text
from .storage import storage_error


FILE, KEY = "run.json", "compute"
STATUS = Path("/proc/self/status")


class ComputeCallback(TrainerCallback):
    """Measures on the main process and writes at every save and at the end, where the folder has a `run.json`."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._before: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._since = time.perf_counter()
        facts = read_facts(Path(str(args.output_dir))) or {}
        self._before = facts.get(KEY) or {} if state.global_step else {}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._write(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write(args, state)

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        facts = read_facts(Path(str(args.output_dir))) if state.is_world_process_zero else None
        if facts is None:
            return
        seconds = time.perf_counter() - self._since + self._before.get("wall_seconds", 0.0)
        now = {"wall_seconds": round(seconds, 1)} | peak_memory()
        facts[KEY] = now | {name: max(now.get(name, 0.0), self._before[name]) for name in self._before}
        path = Path(str(args.output_dir)) / FILE
        try:
            write_text(path, json.dumps(facts, indent=2) + "\n")
        except OSError as error:
            raise storage_error(path, error) from error


def peak_memory() -> dict[str, float]:
    """GiB that this process held at most, and that PyTorch had allocated at most on its GPU."""
    found = {"peak_memory_gib": round(_peak_resident_bytes() / 2**30, 2)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def _peak_resident_bytes() -> int:
    if STATUS.is_file():  # of Linux; what getrusage says there includes the process before it became this program
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What run.json of a folder holds, None where there is no such file. Raises ValueError where it is damaged."""
    path = folder / FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or remove it to go on without it.") from error
    if not isinstance(facts, dict | None):
        raise ValueError(f"{path} is damaged: it holds {facts!r}. Restore it, or remove it to go on without it.")
    return facts
