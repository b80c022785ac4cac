"""A run seen from outside: `health.json`, a rotated log, and one line at the end.

`health.json` is replaced whole at every log and every checkpoint, so a scheduler may read it at any time:

    state            running | finished | preempted | collapsed | diverged | failed
    step, max_steps, epoch, loss, learning_rate, target_std, prediction_std, position_std, effective_rank,
    prediction_rank, embedding_rank, embedding_share, samples_per_second, tokens_per_second
                     as last logged; null before the first log
    rescues          how often the rate was lowered because of a collapse (training.on_collapse); null where never
    loss_<term>, utterance_target_std, utterance_prediction_std    the same, of a loss with several terms
    <modality>/loss, <modality>/target_std, ...    the same, of each modality of a joint run
    last_checkpoint  the newest complete one, null before
    skipped          files left out so far, by kind
    message          why it stopped, where it did
    started, updated ISO 8601, UTC; a run that was killed says "running" and is no longer updated
    processes, host, pid
"""

import json
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoints.run_files import write_text
from ..checkpoints.storage import storage_error
from ..console.redact import mask_text


logger = logging.getLogger(__name__)

FILE = "health.json"
LOGS = "logs"
LOG_BYTES, LOG_FILES = 10 * 2**20, 5  # of each rank
WATCHED = (
    "loss",
    "learning_rate",
    "target_std",
    "prediction_std",
    "position_std",
    "effective_rank",
    "prediction_rank",
    "embedding_rank",
    "embedding_share",
    "rescues",
    "samples_per_second",
    "tokens_per_second",
)
OF_TERMS = ("loss_", "utterance_")  # what the names of further ones start with, where the loss has several terms


class Health(TrainerCallback):
    """Keeps `health.json` of a run folder, on the main process.

    Args:
        folder: the run folder.
        skipped: files left out so far.
    """

    def __init__(self, folder: Path, skipped: Callable[[], dict[str, Any]]):
        self.path, self.skipped = folder / FILE, skipped
        self.active = False
        self._started = time.monotonic()
        self.facts: dict[str, Any] = {
            "state": "running",
            "step": 0,
            "max_steps": None,
            "epoch": 0.0,
            **dict.fromkeys(WATCHED),
            "last_checkpoint": None,
            "skipped": {},
            "message": None,
            "started": _now(),
            "updated": None,
            "processes": 1,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.active = state.is_world_process_zero
        self.facts |= {"processes": args.world_size}
        if state.global_step:
            name = f"checkpoint-{state.global_step}"
            self.facts |= {"last_checkpoint": name, **_watched(state.log_history)}
            logger.info("continues from %s, of %d steps", name, state.max_steps)
        else:
            logger.info("starts, for %d steps", state.max_steps)
        self._write(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        self.facts |= _watched([logs])
        numbers = ", ".join(f"{k} {v:.6g}" for k, v in logs.items() if isinstance(v, int | float) and k != "epoch")
        logger.info("step %d of %d: %s", state.global_step, state.max_steps, numbers)
        self._write(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.facts["last_checkpoint"] = f"checkpoint-{state.global_step}"
        logger.info("checkpoint-%d is complete", state.global_step)
        self._write(state)

    def finish(self, how: str, message: str | None = None) -> str:
        """Write the last state; returns the summary line."""
        facts = self.facts | {"state": how, "message": None if message is None else mask_text(message)}
        self.facts = facts
        line = f"{how}: step {facts['step']} of {facts['max_steps']}"
        if facts["loss"] is not None:
            line += f", loss {facts['loss']:.4f}"
        if facts["samples_per_second"] is not None:
            line += f", {facts['samples_per_second']:.1f} samples/s"
        line += f", {(time.monotonic() - self._started) / 60:.1f} min, left out {_total(self.skipped())} files"
        line += f", newest checkpoint {facts['last_checkpoint'] or 'none'}, in {self.path.parent}"
        logger.info("%s", line)
        self._write(None)
        return line

    def _write(self, state: TrainerState | None) -> None:
        if state is not None:
            self.facts |= {"step": state.global_step, "max_steps": state.max_steps, "epoch": state.epoch}
        if not self.active:
            return
        self.facts |= {"skipped": self.skipped(), "updated": _now()}
        try:
            write_text(self.path, json.dumps(finite(self.facts), indent=1) + "\n")
        except OSError as error:
            raise storage_error(self.path, error) from error


def _watched(logs: list[dict[str, float]]) -> dict[str, float]:
    """What is watched; of a modality in a joint run under its name and a slash."""
    own = {name: name.rpartition("/")[2] for log in logs for name in log}
    kept = {name for name, last in own.items() if last in WATCHED or last.startswith(OF_TERMS)}
    return {name: log[name] for log in logs for name in log if name in kept}


def _total(skipped: dict[str, Any]) -> int:
    return sum(_total(value) if isinstance(value, dict) else int(value) for value in skipped.values())


def finite(facts: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity; their names as text can be read everywhere."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---- the log ----


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask_text(super().format(record))


@contextmanager
def logged_to(folder: Path, rank: int) -> Iterator[None]:
    """What this process logs also goes to `logs/rank-N.log` of the run folder, which is rotated.

    Loader workers write into the log of their process. What goes to the terminal stays as it is.

    Raises StorageError where the file cannot be made.
    """
    path = folder / LOGS / f"rank-{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    except OSError as error:
        raise storage_error(path, error) from error
    file.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = logging.StreamHandler(sys.stderr)  # Python's own last resort is silent once there is a handler
    terminal.setLevel(logging.WARNING)
    root, ours = logging.getLogger(), logging.getLogger(__name__)
    added: list[tuple[logging.Logger, logging.Handler]] = [(root, file)]
    if not root.handlers:
        added.append((root, terminal))
    # These libraries keep what they log from the root.
    added += [
        (logging.getLogger(name), file)
        for name in ("transformers", "datasets")
        if not logging.getLogger(name).propagate
    ]
    for target, handler in added:
        target.addHandler(handler)
    level = ours.level
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.setLevel(level)
        for target, handler in added:
            target.removeHandler(handler)
        file.close()
