"""One arm of step.py in its own process: trains, and lets one step pass at a time.

    python benchmarks/worker.py '{"arm": "data2vec", "system": "audio_v2", ...}'

Reads a command a line (`step`, `stages`, `stop`) and answers each with a line of JSON. The `Trainer` runs its own
loop; a callback holds it at the end of every step until it is told to go on.
"""

import json
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any


STAGES = ("data", "front end", "teacher", "forward", "loss", "backward", "clip", "optimizer", "ema", "rest")


class Channel:
    """Standard input and output for the protocol; what libraries print goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def answer(self, **what: Any) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()

    def command(self) -> str:
        return sys.stdin.readline().strip() or "stop"


class Clock:
    """Seconds of each stage of a step; each mark waits for a GPU, so `split` is off where the whole is timed."""

    def __init__(self, wait: Callable[[], None], now: Callable[[], float] = time.perf_counter):
        self.wait, self.now = wait, now  # `wait`: until the device is done
        self.split = True
        self.start()

    def start(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.wait()
        self.began = self.last = self.now()

    def mark(self, stage: str) -> None:
        """What has passed since the last mark belongs to `stage`."""
        if self.split:
            self.wait()
            now = self.now()
            self.spent[stage] += now - self.last
            self.last = now

    def stop(self) -> float:
        self.wait()
        self.mark("rest")
        return self.now() - self.began

    def around(self, stage: str, outer: str, function: Callable) -> Callable:
        """`function` as a stage of its own within `outer`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.mark(outer)
            result = function(*args, **kwargs)
            self.mark(stage)
            return result

        return timed


def watch(clock: Clock, model: Any, accelerator: Any) -> None:
    """Marks inside a step, where the model has such a part."""
    model.register_forward_pre_hook(lambda *_: clock.mark("rest"))
    model.register_forward_hook(lambda *_: clock.mark("forward"))
    base = getattr(model, "base_model", model)
    front_end = getattr(base, "feature_extractor", None) or getattr(base, "embeddings", None)
    if front_end is not None:
        front_end.register_forward_pre_hook(lambda *_: clock.mark("forward"))
        front_end.register_forward_hook(lambda *_: clock.mark("front end"))
    inside = {"run_teacher": "teacher", "_add_targets": "teacher", "compare": "loss", "update_teacher": "ema"}
    for name, stage in inside.items():
        if hasattr(model, name):
            outer = "optimizer" if stage == "ema" else "forward"
            setattr(model, name, clock.around(stage, outer, getattr(model, name)))
    accelerator.backward = clock.around("backward", "rest", accelerator.backward)


# what --clock names: seconds of the wall, or those for which this process had its core
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def peak_bytes() -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    channel = Channel()
    spec = json.loads(sys.argv[1])

    import torch
    from baseline import plain_trainer
    from systems import build
    from transformers import TrainerCallback, set_seed

    from data2vec.pretraining.trainer import Data2VecTrainer

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    set_seed(1)
    arm, now = spec.pop("arm"), CLOCKS[spec.pop("clock")]
    run, data = build(spec.pop("system"), **spec)
    if arm == "data2vec":
        trainer: Any = Data2VecTrainer(run.model_class(run.config), run.training, data)
    else:
        trainer = plain_trainer(run, data)
    clock = Clock(wait, now)
    watch(clock, trainer.model, trainer.accelerator)

    class Gate(TrainerCallback):
        def go(self, control: Any) -> None:
            command = channel.command()
            if command == "stop":
                control.should_training_stop = True
                return
            clock.split = command == "stages"
            clock.start()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
            every = sum(p.numel() for p in trainer.model.parameters())
            channel.answer(trained=trained, teacher=every - trained, threads=torch.get_num_threads())
            self.go(control)

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.mark("data")

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            clock.mark("clip")

        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            clock.mark("optimizer")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seconds = clock.stop()
            channel.answer(seconds=seconds, stages=dict(clock.spent), peak_bytes=peak_bytes())
            self.go(control)

    trainer.add_callback(Gate())
    trainer.train()


if __name__ == "__main__":
    main()
