"""Preemption: SIGTERM or SIGINT ends a run after the step it is in, with a checkpoint."""

import atexit
import logging
import multiprocessing
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST = 2.0  # seconds: a scheduler and the launcher below it may both tell a process about one preemption


class Preemption:
    """While entered, the first signal is remembered; a second one, two seconds later or more, ends the process.

    Handlers can be set in the main thread only: elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        name = signal.Signals(number).name
        if self.received is None:
            self.received, self._since = signal.Signals(number), now
            # Not through logging: what was interrupted may hold its locks.
            os.write(2, f"{name}: this step is finished and saved, then the run stops. Again: at once.\n".encode())
        elif now - self._since >= SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class PreemptionCallback(TrainerCallback):
    """Saves and stops at the end of the step at which every rank knows that one was told to stop.

    Added before [`CollapseGuard`], which keeps an unhealthy state from being saved here too.
    """

    def __init__(self, trainer: Trainer):
        self.trainer: Any = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step < state.max_steps and self.trainer.told_to_stop():
            self.trainer.preempted = True
            control.should_save = control.should_training_stop = True


def _kill_workers() -> None:
    """What an error left running: at exit, `multiprocessing` waits for ever for workers that ignore its SIGTERM."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call each of them an error
    for worker in multiprocessing.active_children():
        worker.kill()


atexit.register(_kill_workers)


def start_worker(worker: int) -> None:
    """A loader worker leaves signals to the process it works for, and rotates no log of it.

    A scheduler signals every process of a job, and `torch` counts a worker that ends as an error.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for handler in logging.getLogger().handlers:
        if hasattr(handler, "maxBytes"):
            handler.maxBytes = 0
