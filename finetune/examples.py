"""Labelled examples: `examples[(epoch, index)]` is a pure function of the run's seed, the epoch and the index."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..pretraining.console.progress import progress
from ..pretraining.data.collators import generator
from ..pretraining.data.modality import BadExample, Rows


logger = logging.getLogger(__name__)

NAMED = 20  # rows that the log names; all are counted
Read = Callable[[Mapping[str, Any], np.random.Generator | None], dict[str, Any]]


class Examples(Dataset[dict[str, Any]]):
    """The rows of one split, read when they are asked for; each example also holds its "epoch" and "index".

    A plain index is read as epoch 0. An unusable row raises `BadExample`, which names the split, the row and the fix;
    with `skip_bad` every row is read once beforehand, and unusable ones are left out, logged and counted.

    Args:
        rows: a `datasets.Dataset` or anything with `len` and `[index]`.
        read: `(row, rng) -> {"pixel_values": ..., "labels": ...}`, without a batch axis; `rng` draws the augmentation,
            `None` asks for the plain reading of evaluation.
        name: of the split, for messages.
        augment: hand `read` an `rng`.
        labels: `(rows,)` numbers or `(rows, classes)` vectors, which become the examples' "labels"; `None`: `read`
            says it.
        lengths: `(rows,)` of every row, in the unit of the batches' cost; `None` where all are alike.
        keep: the rows that count, by their number in `rows`; all of them by default.
        bad: row -> what is wrong with it, where that is known beforehand. Raises for the first one unless `skip_bad`.
        checked: with `skip_bad`, the rows that are not `bad` are known to be good and need not be read beforehand.
        num_proc: threads that read beforehand.

    Attributes:
        kept: `(examples,)` numbers of the rows that are examples.
        labels, lengths: `(examples,)`, or `None`.
        left_out: how many rows `skip_bad` left out, by what is wrong with them.
    """

    def __init__(
        self,
        rows: Rows,
        read: Read,
        *,
        name: str,
        seed: int,
        augment: bool = False,
        skip_bad: bool = False,
        labels: np.ndarray | None = None,
        lengths: Sequence[int] | np.ndarray | None = None,
        keep: Sequence[int] | np.ndarray | None = None,
        bad: Mapping[int, BadExample] | None = None,
        checked: bool = False,
        num_proc: int = 1,
    ):
        self.rows, self.read, self.name, self.seed, self.augment = rows, read, name, seed, augment
        self.kept = np.arange(len(rows)) if keep is None else np.asarray(keep, dtype=np.int64)
        self.left_out: Counter[str] = Counter()
        if bad and not skip_bad:
            row, first = min(bad.items())
            others = f" {len(bad)} of {len(rows)} rows cannot be used." if len(bad) > 1 else ""
            raise BadExample(self._message(row, BadExample(f"{first}{others}")), first.problem)
        self._leave_out(bad or {})
        if skip_bad and not checked:
            self._leave_out(self._read_all(num_proc))
        self.labels = None if labels is None else np.asarray(labels)[self.kept]
        self.lengths = None if lengths is None else np.asarray(lengths)[self.kept]
        if len(self.kept) == 0:
            why = "the log says what was left out" if len(rows) else "there are no rows, name another file or split"
            raise ValueError(f"data.{name} has no usable example: {why}.")

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = int(self.kept[index])
        rng = generator(self.seed, epoch, row, "read") if self.augment else None
        try:
            example = self.read(self.rows[row], rng)
        except BadExample as error:
            raise BadExample(self._message(row, error), error.problem) from error
        if self.labels is not None:
            label = self.labels[index]
            example["labels"] = label.item() if label.ndim == 0 else torch.from_numpy(label)
        return {**example, "epoch": epoch, "index": index}

    def row(self, index: int) -> Mapping[str, Any]:
        """What example `index` was read from."""
        return self.rows[int(self.kept[index])]

    def only(self, positions: np.ndarray, **changed: Any) -> "Examples":
        """Some of the examples, by their position; `changed` sets attributes, such as `augment=False`."""
        part = copy.copy(self)
        part.kept = self.kept[positions]
        part.labels = None if self.labels is None else self.labels[positions]
        part.lengths = None if self.lengths is None else self.lengths[positions]
        for name, value in changed.items():
            setattr(part, name, value)
        return part

    def _read_all(self, num_proc: int) -> dict[int, BadExample]:
        """Read every row once; returns those that cannot be used."""

        def problem(row: int) -> BadExample | None:
            try:
                self.read(self.rows[row], None)
            except BadExample as error:
                return error
            return None

        with ThreadPoolExecutor(num_proc) as pool:
            read = pool.map(problem, self.kept.tolist())
            problems = list(progress(read, title=f"reading {self.name}", unit=" rows", total=len(self.kept)))
        return {row: error for row, error in zip(self.kept.tolist(), problems, strict=True) if error is not None}

    def _leave_out(self, bad: Mapping[int, BadExample]) -> None:
        for row, error in sorted(bad.items())[:NAMED]:
            logger.warning("data.%s: row %d is left out (%s): %s", self.name, row, error.problem, error)
        problems = Counter(error.problem for error in bad.values())
        for problem, count in problems.items():
            logger.warning("data.%s: %d of %d rows are left out: %s", self.name, count, len(self.rows), problem)
        self.left_out += problems
        self.kept = np.setdiff1d(self.kept, np.fromiter(bad, dtype=np.int64, count=len(bad)))

    def _message(self, row: int, error: BadExample) -> str:
        skip = "With data.skip_bad = true such rows are left out, counted and logged."
        return f"data.{self.name}, row {row}: {error} {skip}"
