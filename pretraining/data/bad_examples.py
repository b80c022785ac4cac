"""Files that cannot be trained on: counted by kind, named, bounded in number, and told to all ranks.

A file is left out once and reported once, whichever loader worker or rank met it. The `Ledger` of a dataset lives in
shared memory, so that the main process sees what its workers find; `skipped.jsonl` in the run folder names each file.
Above `data.max_bad_share` the run stops.
"""

import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info


logger = logging.getLogger(__name__)

PROBLEMS = (
    "missing",  # no such file, or no right to read it
    "unreadable",  # no decoder opens it
    "wrong type",  # it is something else, such as an HTML page or a picture named .wav
    "empty",
    "truncated",  # it ends before its header says
    "damaged",  # it opens, and fails in its midst
    "silent",
    "not finite",
    "too short",
    "too few points",
    "too small",
    "too large",
    "sampling rate",
    "pixel format",
    "encoding",  # text that is no UTF-8
    "binary",  # text with NUL bytes
)
SKIP = "With data.max_bad_share above 0 such files are left out, counted and named, up to that share."
JUDGED_FROM = 1000  # files of a larger source: a share of fewer says little
FEW = 10  # unusable files that stop no run, as long as they are not most of its files
LISTED_BYTES = 4 << 20  # of skipped.jsonl: some 10,000 files; all are counted
NAMED = 5  # files in the message that stops a run
READERS = 256  # rows of counters: the main process and its workers each write their own


class BadExample(ValueError):
    """A file or row that cannot be trained on; `problem`, one of `PROBLEMS`, is what it is counted under."""

    def __init__(self, message: str, problem: str = "unreadable"):
        if message.startswith("Caught ") and "Traceback" in message:  # a loader's, with the worker's traceback in it
            message = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(message)
        self.problem = problem


class TooManyBad(BadExample):
    """More of a dataset is unusable than the recipe allows."""


@dataclass(frozen=True)
class Record:
    """A line of `skipped.jsonl`; `index` is None where the file has no place among the examples."""

    part: str
    name: str
    problem: str
    detail: str
    index: int | None = None


class Ledger:
    """The unusable files of one dataset, shared by the loader's workers.

    Args:
        part: what the dataset is for, "train" or "eval".
        max_share: the share of files read that may be unusable; 0 stops at the first.
        size: number of examples; None for a stream, whose files are counted when it is first passed.
    """

    def __init__(self, part: str, max_share: float, size: int | None = None):
        self.part, self.max_share, self.size = part, max_share, size
        # Of each example: 0 not read yet, 1 usable, 2 + place in PROBLEMS. Two workers may write the same, no matter.
        self._marks = None if size is None else torch.zeros(size, dtype=torch.int8).share_memory_()
        # Of each reader: files read, unusable ones, and those not known from an earlier start, by problem.
        self._counters = torch.zeros(READERS, 2 + len(PROBLEMS), dtype=torch.int64).share_memory_()
        self._before: Counter[str] = Counter()  # found before any example is read: from headers, in documents
        self._no_fault: Counter[str] = Counter()
        self._surveyed = 0
        self._examples: deque[str] = deque(maxlen=NAMED)
        self._path: Path | None = None
        self._early: list[Record] = []  # found before there is a run folder
        self._known: dict[tuple[str, str], Record] = {}  # in the run folder already
        self._others: dict[int, _Found] = {}
        self._told: set[int] = set()  # examples that the other ranks know of
        self._scanned: tuple[int, Counter[str]] = (-1, Counter())

    # ---- while reading ----

    def used(self, index: int | None = None) -> None:
        """An example was read."""
        if self._marks is not None and index is not None:
            if self._marks[index]:
                return
            self._marks[index] = 1
        self._row()[0] += 1

    def leave_out(self, name: str, error: BadExample, index: int | None = None) -> None:
        """Count and name an unusable example. Raises `TooManyBad` above the share, and at once where it is 0."""
        if self.max_share == 0:
            raise BadExample(f"{_example(index)}{error} {SKIP}", error.problem) from error
        if self._marks is not None and index is not None:
            if self._marks[index] > 1:
                return
            self._marks[index] = 2 + PROBLEMS.index(error.problem)
        row = self._row()
        row[:2] += 1
        if self._write(Record(self.part, name, error.problem, str(error), index)):
            row[2 + PROBLEMS.index(error.problem)] += 1
            logger.warning("left out (%s): %s%s", error.problem, _example(index), error)
        self._examples.append(name)
        self._judge()

    def leave_out_before(self, found: dict[str, BadExample], surveyed: int, uncounted: Mapping[str, int] = {}) -> None:
        """As `leave_out`, for files of a source of `surveyed` that were found out before any example is read.

        `uncounted` are left out without being a fault, such as empty lines of a text: counted, not named.
        """
        self._surveyed += surveyed
        self._no_fault += Counter(uncounted)
        if found and self.max_share == 0:
            first = next(iter(found.values()))
            count = f"{len(found)} of {surveyed} files are unusable"
            raise BadExample(f"{count}. The first: {first} {SKIP}", first.problem)
        for name, error in found.items():
            self._before[error.problem] += 1
            logger.warning("left out (%s): %s", error.problem, error)
            self._write(Record(self.part, name, error.problem, str(error)))
        self._examples.extend(list(found)[:NAMED])
        self._judge()

    def _judge(self) -> None:
        read, found = self._counters[:, :2].sum(0).tolist()
        before = self._before.total()
        enough = JUDGED_FROM if self.size is None else min(self.size, JUDGED_FROM)
        few = FEW if self.size is None else min(FEW, self.size // 2)  # a small folder may hold a few bad ones
        too_many = found > max(self.max_share * max(read, enough), few)
        if self._surveyed:
            few = min(FEW, self._surveyed // 2)
            too_many |= before + found > max(self.max_share * self._surveyed, few)
        if not too_many:
            return
        kinds = ", ".join(f"{number} {problem}" for problem, number in sorted(self.counts().items()))
        names = ", ".join(self._examples)
        of = f"{found} of {read} files read" + (f" and {before} of {self._surveyed} looked at" if before else "")
        raise TooManyBad(
            f"{of} are unusable, more than data.max_bad_share = {self.max_share:g} allows: {kinds}; {names}, for "
            "instance. Repair or remove them (skipped.jsonl in the run folder names more), or raise the share."
        )

    def _row(self) -> torch.Tensor:
        worker = get_worker_info()
        return self._counters[(0 if worker is None else worker.id + 1) % READERS]

    # ---- seen from the main process ----

    def counts(self) -> dict[str, int]:
        """Unusable files by problem: of this rank and, as of the last `exchange`, of all."""
        new = self._counters[:, 2:].sum(0).tolist()
        total = self._before + Counter(dict(zip(PROBLEMS, new, strict=True)))
        if self._marks is None:
            total += Counter(record.problem for record in self._known.values() if record.part == self.part)
        else:
            total = self._before + self._of_marks()
        for found in self._others.values():
            total += Counter(PROBLEMS[code - 2] for index, code in found.marks.items() if not self._marked(index))
            total += found.streamed
        return dict(total + self._no_fault)

    def exchange(self, gather: Callable[[list[Any]], list[Any]], rank: int) -> None:
        """Tell the other ranks, and hear from them; `gather` joins the lists of all ranks. Call it on every rank."""
        new = Counter(dict(zip(PROBLEMS, self._counters[:, 2:].sum(0).tolist(), strict=True)))
        told = _Found(rank, self._untold(), +new if self._marks is None else Counter())
        for found in gather([told]):
            if found.rank == rank:
                continue
            elsewhere = {index for rank, other in self._others.items() if rank != found.rank for index in other.marks}
            marks = {index: code for index, code in found.marks.items() if index not in elsewhere}
            known = self._others.setdefault(found.rank, _Found(found.rank, {}, Counter()))
            self._others[found.rank] = _Found(found.rank, known.marks | marks, found.streamed)

    def _of_marks(self) -> Counter[str]:
        assert self._marks is not None
        version = int(self._counters[:, 1].sum())
        if version != self._scanned[0]:
            codes = self._marks[self._marks > 1].tolist()
            self._scanned = (version, Counter(PROBLEMS[code - 2] for code in codes))
        return self._scanned[1]

    def _untold(self) -> dict[int, int]:
        if self._marks is None or len(self._told) == self._of_marks().total():
            return {}
        found = (self._marks > 1).nonzero().flatten()
        codes = dict(zip(found.tolist(), self._marks[found].tolist(), strict=True))
        new = {index: code for index, code in codes.items() if index not in self._told}
        self._told.update(new)
        return new

    def _marked(self, index: int) -> bool:
        return self._marks is not None and int(self._marks[index]) > 1

    # ---- skipped.jsonl ----

    def open(self, folder: Path, rank: int = 0) -> None:
        """Name files in `folder` from now on, and remember those that an earlier start of this run named there.

        Every rank writes its own file (`skipped-rank1.jsonl`, ...): appending from several machines is not safe.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("skipped*.jsonl")):
            for record in _read(path):
                self._known[record.part, record.name] = record
                if record.part == self.part and record.index is not None and self._marks is not None:
                    if record.index < len(self._marks):
                        self._marks[record.index] = 2 + PROBLEMS.index(record.problem)
        self._scanned = (-1, Counter())
        self._path = folder / ("skipped.jsonl" if rank == 0 else f"skipped-rank{rank}.jsonl")
        early, self._early = self._early, []
        for record in early if rank == 0 else []:  # what all ranks found alike
            self._write(record)

    def _write(self, record: Record) -> bool:
        """False where an earlier start wrote it."""
        if self._path is None:
            self._early.append(record)
            return True
        if (record.part, record.name) in self._known:
            return False
        line = json.dumps(asdict(record), ensure_ascii=False)
        # One write at the end of the file: the workers of a rank do not cut each other's lines.
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.fstat(handle).st_size < LISTED_BYTES:
                os.write(handle, line.encode("utf-8", "backslashreplace") + b"\n")
        finally:
            os.close(handle)
        return True


@dataclass(frozen=True)
class _Found:
    """What one rank tells the others: new marks of examples, or the counts of its stream."""

    rank: int
    marks: dict[int, int]
    streamed: Counter[str]


def _example(index: int | None) -> str:
    return "" if index is None else f"example {index}: "


def _read(path: Path) -> list[Record]:
    """The lines of an earlier start; one that was cut by a crash is left out."""
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if record.problem in PROBLEMS:
            records.append(record)
    return records
