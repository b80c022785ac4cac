"""How a run's batches are split, and what changes when it continues with another split."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from transformers import TrainingArguments


COUNTED, BY_COST, STREAM = "counted", "bounded by cost", "streamed"


@dataclass(frozen=True)
class Layout:
    """Written into every checkpoint.

    Attributes:
        processes, batch_size, accumulation: their product is the effective batch, where batches are counted.
        workers: loader workers of a process.
        batches: what bounds a batch, or that the examples are streamed.
        threads: of a process, for CPU kernels; sums depend on it.
        torch: its version.
    """

    processes: int
    batch_size: int
    accumulation: int
    workers: int
    batches: str
    threads: int
    torch: str

    @classmethod
    def of(cls, args: TrainingArguments, batches: str) -> Self:
        """That of this process's run."""
        return cls(
            processes=args.world_size,
            batch_size=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            workers=args.dataloader_num_workers,
            batches=batches,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
        )

    @property
    def effective(self) -> int:
        return self.processes * self.batch_size * self.accumulation

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def changes(before: Layout, now: Layout) -> list[str]:
    """What a continued run cannot repeat exactly, in sentences; empty where it is bit-identical."""
    found = []
    split_before = (before.processes, before.batch_size, before.accumulation)
    split_now = (now.processes, now.batch_size, now.accumulation)
    if split_before != split_now:
        how = "processes x batch size x accumulation: {} x {} x {} before, {} x {} x {} now.".format(
            *split_before, *split_now
        )
        found.append(f"{how} {_of_split(before, now)}")
    elif now.batches == STREAM and before.workers != now.workers:
        found.append(
            f"{before.workers} loader workers before, {now.workers} now: a stream is dealt out to the workers, so the "
            "order of its examples changes; some of the current pass are seen twice, others not."
        )
    for name, what in (("torch", "torch"), ("threads", "CPU threads of a process")):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            found.append(f"{what}: {old} before, {new} now. Sums may be rounded differently from here on.")
    return found


def _of_split(before: Layout, now: Layout) -> str:
    schedules = "The schedules continue from the same step"
    if now.batches == STREAM:
        return (
            f"{schedules}; a stream is dealt out to the processes, so some examples of the current pass are seen "
            "twice, others not."
        )
    if now.batches == BY_COST:
        return (
            f"{schedules}; batches bounded by cost are other ones after this change, and so is the number of updates "
            "in a pass: some examples of the current pass are seen twice, others not."
        )
    if before.effective != now.effective:
        return (
            f"{schedules}; the effective batch was {before.effective} and is {now.effective}, so a pass has another "
            "number of updates: some examples of the current pass are seen twice, others not."
        )
    return (
        f"{schedules}, and every update sees the examples and masks that it would have seen. Dropout and the order of "
        "sums differ: losses agree to rounding where there is no dropout, not bit by bit."
    )
