"""Which examples make a batch, epoch after epoch: lists of (pass, index) keys for a map-style dataset.

Everything follows from (seed, epoch) and is the same on every rank, so a resumed run repeats what it would have done.
Every epoch has the same number of batches, whatever is shuffled: a `Trainer` counts them once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np
from torch.utils.data import Sampler


Key = tuple[int, int]
DRAWS, ROWS, BATCHES = 1, 2, 3  # independent random streams


def check_bounded(batch_size: int | None, batch_cost: int | None) -> None:
    """Raise a ValueError where neither is given."""
    if batch_size is None and batch_cost is None:
        raise ValueError(
            "A batch needs a bound: set training.per_device_train_batch_size, data.batch_seconds or data.batch_tokens."
        )


class BatchSampler(Sampler[list[Key]]):
    """Shuffled batches bounded by a count, by a padded cost, or both.

    With `lengths`, examples of similar length are batched together: rows * longest <= `batch_cost`, and lengths within
    a batch differ by about `bucket_width` (a share), so little is padded. Buckets are fixed, their contents shuffled.

    The first number of a key says how often the example's source was passed before: the epoch, unless sources have
    shares. A repeated example therefore has new crops and masks.

    For `accelerate`: `batch_size` is None since batches vary, and the number of batches is a multiple of
    `num_batches_multiple` (ranks * accumulated batches), so that every rank gets equally many, none twice. Where
    batches are bounded by a count alone, what an optimizer step sees is drawn first and then dealt out to those ranks
    and accumulated batches: it depends on the effective batch (`batch_size * num_batches_multiple`) only, and a run
    continues from the same example with another split. With a padded cost the multiple is reached by halving batches.

    `accelerate` passes `set_epoch` on where one process runs, and `Trainer` where several do, but
    neither to what `skip_first_batches` wraps: after a resume in the midst of an epoch call it on this object.

    Args:
        lengths: (size,) of every example, in the unit of `batch_cost`; None where all are alike.
        size: number of examples, the sources' one after the other.
        batch_size: most examples in a batch.
        batch_cost: the most that a padded batch may hold.
        sizes: examples of each source (default: one source).
        shares: each source's share of an epoch's examples, summing to 1. An epoch still has about `size` draws: a
            source with a large share is passed more than once, one with a small share over several epochs. None:
            every example once per epoch.

    Raises:
        ValueError: no bound is given, an example is above `batch_cost`, or there are too few examples.
    """

    batch_size = None
    drop_last = False

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray | None,
        size: int,
        *,
        seed: int,
        batch_size: int | None = None,
        batch_cost: int | None = None,
        bucket_width: float = 0.05,
        sizes: Sequence[int] | None = None,
        shares: Sequence[float] | None = None,
        num_batches_multiple: int = 1,
    ):
        check_bounded(batch_size, batch_cost)
        if batch_cost is not None and lengths is None:
            raise ValueError(f"batch_cost = {batch_cost} needs the examples' lengths: use batch_size instead.")
        self.size, self.seed, self.epoch = size, seed, 0
        self.rows, self.cost = batch_size, batch_cost
        self.parts = num_batches_multiple if batch_cost is None else 1  # batches that a step's examples are dealt to
        self.lengths = np.ones(size, dtype=np.int64) if lengths is None else np.asarray(lengths, dtype=np.int64)
        if batch_cost is not None and self.lengths.max() > batch_cost:
            raise ValueError(
                f"The longest example ({self.lengths.max()}) is above batch_cost = {batch_cost}: raise the batch's "
                "bound or crop to less."
            )
        self._buckets = self._make_buckets(bucket_width, list(sizes or [size]), shares)
        # More draws never make fewer batches, so this is the most that an epoch needs; one with fewer halves some.
        most = [np.empty((sum(ceil(cell.rate) for cell in cells), 2), dtype=np.int64) for _, cells in self._buckets]
        self.num_batches = ceil(len(self._cut(most)) * self.parts / num_batches_multiple) * num_batches_multiple
        fewest = sum(int(cell.rate) for _, cells in self._buckets for cell in cells)
        if self.num_batches > fewest:
            raise ValueError(
                f"{fewest} examples do not make {self.num_batches} batches, a multiple of the {num_batches_multiple} "
                "ranks * accumulated batches: use more data, fewer ranks or less accumulation."
            )

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        batches = self._cut([self._draw_bucket(bucket, self.epoch) for bucket in range(len(self._buckets))])
        while len(batches) * self.parts < self.num_batches:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            batch = batches[largest]
            batches[largest] = batch[::2]
            batches.append(batch[1::2])
        for i in self._generator(BATCHES, self.epoch).permutation(len(batches)):
            for part in range(self.parts):
                yield [(int(times), int(index)) for times, index in batches[i][part :: self.parts]]

    def _make_buckets(
        self, width: float, sizes: list[int], shares: Sequence[float] | None
    ) -> list[tuple[int, list["_Cell"]]]:
        """(longest, its part of each source) of every bucket, longest first."""
        steps = np.ceil(np.log(np.maximum(self.lengths, 1)) / log(1 + width) - 1e-9).astype(np.int64)  # (size,)
        source = np.repeat(np.arange(len(sizes)), sizes)  # (size,)
        drawn = sizes if shares is None else [share * self.size for share in shares]  # of each source in an epoch
        buckets, total = [], 0.0
        for step in np.unique(steps)[::-1]:
            members = np.flatnonzero(steps == step)
            cells = []
            for s, size in enumerate(sizes):
                own = members[source[members] == s]
                if len(own):
                    rate = len(own) * drawn[s] / size
                    cells.append(_Cell(own, rate, total % 1))
                    total += rate
            buckets.append((int(self.lengths[members].max()), cells))
        return buckets

    def _draw_bucket(self, bucket: int, epoch: int) -> np.ndarray:
        """The keys of an epoch in one bucket, shuffled: (draws, 2)."""
        parts = [np.empty((0, 2), dtype=np.int64)]
        for number, cell in enumerate(self._buckets[bucket][1]):
            # The part of this epoch in an endless row of passes over the cell, each newly shuffled.
            first, last = cell.draws_before(epoch), cell.draws_before(epoch + 1)
            for times in range(first // len(cell.members), ceil(last / len(cell.members))):
                order = self._generator(DRAWS, times, bucket, number).permutation(cell.members)
                start = times * len(cell.members)
                part = order[max(first - start, 0) : last - start]
                parts.append(np.stack([np.full(len(part), times), part], axis=1))
        return self._generator(ROWS, epoch, bucket).permutation(np.concatenate(parts))

    def _cut(self, buckets: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Batches, (rows, 2) keys each, filled from the longest bucket to the shortest."""
        batches: list[np.ndarray] = []
        rest, room = np.empty((0, 2), dtype=np.int64), 0  # what a longer bucket left, and how many rows fit with it
        for (longest, _), keys in zip(self._buckets, buckets, strict=True):
            if len(rest):
                rest, keys = np.concatenate([rest, keys[: room - len(rest)]]), keys[room - len(rest) :]
                if len(rest) < room:
                    continue
                batches.append(rest)
            room = self._rows_of(longest)
            full = len(keys) // room * room
            batches.extend(keys[:full].reshape(-1, room, 2))
            rest = keys[full:]
        if len(rest) == 0:
            return batches
        if batches and len(rest) < max(room // 2, self.parts) and len(batches[-1]) == room:
            # A very small batch would be a whole optimizer step: share with the batch before.
            both = np.concatenate([batches.pop(), rest])
            return [*batches, both[::2], both[1::2]]
        return [*batches, rest]

    def _generator(self, *what: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *what))

    def _rows_of(self, longest: int) -> int:
        if self.cost is None:
            assert self.rows is not None  # one of the two bounds is given
            return self.rows * self.parts
        return min(self.cost // longest, self.cost if self.rows is None else self.rows)


class FixedBatches(Sampler[list[Key]]):
    """The batches of a sampler's first epoch, every time: for evaluation."""

    batch_size = None
    drop_last = False

    def __init__(self, batches: BatchSampler):
        batches.set_epoch(0)
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


@dataclass(frozen=True)
class _Cell:
    """The part of a source in a bucket, `rate` draws per epoch on average; `phase` staggers the rounding of cells."""

    members: np.ndarray  # (members,) int64
    rate: float
    phase: float

    def draws_before(self, epoch: int) -> int:
        return int(epoch * self.rate + self.phase)
