"""Map-style examples: `dataset[(epoch, index)]` is a pure function of the run's seed, the epoch and the index."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .collators import generator
from .data_modality import PROBLEMS, SKIP, BadExample, Modality, Row, Rows, describe
from .data_sources import LABEL


logger = logging.getLogger(__name__)

MOST_REPLACEMENTS = 100  # neighbours tried for one unusable file before the run stops


class PretrainingDataset(Dataset[dict[str, Any]]):
    """Examples of one or several sources, numbered through: {input, "epoch", "index"} and "labels" where labelled.

    A plain index is read as epoch 0, so that held-out examples keep their masks. Rows that the length filters leave
    out are counted in the log. An unusable file stops the run with its name, or with `skip_bad` is replaced by the
    next usable one, never longer than itself; each is logged once and counted in `bad_counts`.

    Attributes:
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
        skip_bad: bool = False,
        filtered: bool = True,
    ):
        self.sources, self.modality, self.seed = list(sources), modality, seed
        self.augment, self.skip_bad = augment, skip_bad
        self._bad_headers: Counter[str] = Counter()
        kept = [self._survey(rows, filtered) for rows in self.sources]
        self._rows = [rows for rows, _ in kept]
        self.sizes = [len(rows) for rows in self._rows]
        self._ends = np.cumsum(self.sizes)
        lengths = [lengths for _, lengths in kept if lengths is not None]
        self.lengths: np.ndarray | None = np.concatenate(lengths) if lengths else None
        for number, size in enumerate(self.sizes):
            if size == 0:
                raise ValueError(
                    f"data source number {number + 1} has no usable example: the log says what was left out."
                )
        # Shared with the loader's workers: what was found wrong with each example, as 1 + place in PROBLEMS.
        self._bad = torch.zeros(len(self), dtype=torch.int8).share_memory_()

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        limit = None if self.lengths is None else int(self.lengths[index])
        for attempt in range(MOST_REPLACEMENTS):
            candidate = (index + attempt) % len(self)
            row = self._row(candidate)
            rng = generator(self.seed, epoch, candidate, "read") if self.augment else None
            try:
                example = self.modality.read(row, rng, limit)
            except BadExample as error:
                if not self.skip_bad:
                    raise BadExample(f"Example {candidate}: {error} {SKIP}", error.problem) from error
                self._remember(candidate, error)
                continue
            label = {"labels": int(row[LABEL])} if LABEL in row else {}
            return {**example, **label, "epoch": epoch, "index": index}
        raise ValueError(
            f"None of {MOST_REPLACEMENTS} neighbouring files can be used, the first is "
            f"{describe(self._row(index), self.modality.kind.column)}: the source is not what data.sources says."
        )

    @property
    def bad_counts(self) -> dict[str, int]:
        """How many files were left out so far, by what is wrong with them."""
        found = torch.bincount(self._bad.long(), minlength=len(PROBLEMS) + 1)[1:].tolist()
        return dict(self._bad_headers + Counter(dict(zip(PROBLEMS, found, strict=True))))

    def _survey(self, rows: Rows, filtered: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows of a source to keep, and their lengths."""
        survey = self.modality.survey(rows, filtered)
        if survey is None:
            return np.arange(len(rows)), None
        for reason, out in survey.filtered.items():
            if len(out):
                logger.warning("%d of %d examples are left out: %s", len(out), len(rows), reason)
        if survey.bad and not self.skip_bad:
            row, first = min(survey.bad.items())
            count = f"{len(survey.bad)} of {len(rows)} files are unusable"
            raise BadExample(f"{count}. Row {row}: {first} {SKIP}", first.problem)
        for error in survey.bad.values():
            self._bad_headers[error.problem] += 1
            logger.warning("left out (%s): %s", error.problem, error)
        bad = np.fromiter(survey.bad, dtype=np.int64)
        kept = np.setdiff1d(np.arange(len(rows)), np.concatenate([bad, *survey.filtered.values()]))
        return kept, survey.lengths[kept]

    def _remember(self, index: int, error: BadExample) -> None:
        if self._bad[index] == 0:
            self._bad[index] = 1 + PROBLEMS.index(error.problem)
            logger.warning("left out, its neighbour is read instead (%s): example %d: %s", error.problem, index, error)

    def _row(self, index: int) -> Row:
        source = int(np.searchsorted(self._ends, index, side="right"))
        first = self._ends[source] - self.sizes[source]
        return self.sources[source][int(self._rows[source][index - first])]
