"""Map-style examples: `dataset[(epoch, index)]` is a pure function of the run's seed, the epoch and the index."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .bad_examples import BadExample, Ledger, TooManyBad
from .collators import generator
from .modality import Modality, Row, Rows, Survey, path_of
from .sources import LABEL


logger = logging.getLogger(__name__)

MOST_REPLACEMENTS = 100  # neighbours tried for one unusable file before the run stops


class PretrainingDataset(Dataset[dict[str, Any]]):
    """Examples of one or several sources, numbered through: {input, "epoch", "index", "name"}, and "labels".

    A plain index is read as epoch 0, so that held-out examples keep their masks. Rows that the length filters leave
    out are counted in the log. An unusable file is replaced by the next usable one, never longer than itself, and by
    the same one whenever it is met with the same key; it is counted and named once.

    Args:
        max_bad_share: the share of files that may be unusable; above it, and at the first where it is 0, reading
            raises `BadExample`.
        part: what `skipped.jsonl` calls this dataset.

    Attributes:
        ledger: which files were left out.
        lengths: (examples,) int64, the most samples or tokens of each; None where all are alike.
        sizes: examples of each source.
    """

    def __init__(
        self,
        sources: Sequence[Rows],
        modality: Modality[Any],
        *,
        seed: int,
        augment: bool = True,
        max_bad_share: float = 0.0,
        filtered: bool = True,
        part: str = "train",
    ):
        self.sources, self.modality, self.seed = list(sources), modality, seed
        self.augment = augment
        kept, found = [], []
        for number, rows in enumerate(self.sources):
            survey = self.modality.survey(rows, filtered)
            kept.append(_kept(rows, survey))
            if survey is not None:
                found.append((self._unusable(rows, number, survey), survey))
        self._rows = [rows for rows, _ in kept]
        self.sizes = [len(rows) for rows in self._rows]
        self._ends = np.cumsum(self.sizes)
        lengths = [lengths for _, lengths in kept if lengths is not None]
        self.lengths: np.ndarray | None = np.concatenate(lengths) if lengths else None
        self.ledger = Ledger(part, max_bad_share, len(self))
        for number, (bad, survey) in enumerate(found):
            self.ledger.leave_out_before(bad, survey.looked_at or len(self.sources[number]), survey.uncounted)
        for number, size in enumerate(self.sizes):
            if size == 0:
                raise ValueError(
                    f"data source number {number + 1} has no usable example: the log says what was left out."
                )

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        limit = None if self.lengths is None else int(self.lengths[index])
        first = ""
        tried = min(MOST_REPLACEMENTS, len(self))
        for attempt in range(tried):
            candidate = (index + attempt) % len(self)
            source, number = self.place(candidate)
            row = self.sources[source][number]
            name = self._name(row, source, number)
            rng = generator(self.seed, epoch, candidate, "read") if self.augment else None
            try:
                example = self.modality.read(row, rng, limit)
            except BadExample as error:
                self.ledger.leave_out(name, error, candidate)
                first = first or name
                continue
            self.ledger.used(candidate)
            label = {"labels": int(row[LABEL])} if LABEL in row else {}
            return {**example, **label, "epoch": epoch, "index": index, "name": name}
        raise TooManyBad(
            f"None of {tried} neighbouring files can be used, the first is {first!r}: repair them, or name another "
            "source."
        )

    def name_of(self, index: int) -> str:
        """What an example is called; one that is replaced, as unusable, has the name of another."""
        source, number = self.place(index)
        return self._name(self.sources[source][number], source, number)

    def _name(self, row: Row, source: int, number: int) -> str:
        """What an example is called: its file, or its row where it has none."""
        path = path_of(row, self.modality.kind.column) if self.modality.named else None
        return path or f"row {number} of data source {source + 1}"

    def _unusable(self, rows: Rows, source: int, survey: Survey) -> dict[str, BadExample]:
        bad = {self._name(rows[row], source, row): error for row, error in survey.bad.items()}
        gone = {f"document {number} of data source {source + 1}": error for number, error in survey.gone.items()}
        return bad | gone

    def place(self, index: int) -> tuple[int, int]:
        """(source, row in it) of an example."""
        source = int(np.searchsorted(self._ends, index, side="right"))
        first = self._ends[source] - self.sizes[source]
        return source, int(self._rows[source][index - first])


def _kept(rows: Rows, survey: Survey | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows of a source to keep, and their lengths."""
    if survey is None:
        return np.arange(len(rows)), None
    for reason, out in survey.filtered.items():
        if len(out):
            logger.warning("%d of %d examples are left out: %s", len(out), len(rows), reason)
    bad = np.fromiter(survey.bad, dtype=np.int64)
    kept = np.setdiff1d(np.arange(len(rows)), np.concatenate([bad, *survey.filtered.values()]))
    return kept, survey.lengths[kept]
