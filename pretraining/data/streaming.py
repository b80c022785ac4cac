"""Batches from streams of rows: mix, decode, filter, crop, bucket by length within a pool, number the examples.

A stream has no end here: pass follows pass, newly shuffled, and `max_steps` ends the run. Ranks therefore never wait
for one that ran dry. Rows are split between ranks and loader workers without being read twice.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset, get_worker_info

from .bad_examples import BadExample, Ledger
from .collators import generator
from .modality import Modality, Row, path_of
from .sampler import check_bounded


logger = logging.getLogger(__name__)

POOL = 8  # batches' worth of examples among which those of similar length are sought


class StreamingBatches(IterableDataset[list[dict[str, Any]]]):
    """Lists of examples, as `PretrainingDataset` makes them, for a `DataLoader` with `batch_size=None`.

    "epoch" of an example is the pass over its source, "index" its place in that pass: masks and crops repeat when the
    same run is repeated with the same number of ranks and workers. Unusable files are left out, counted and named when
    they are first passed; above `max_bad_share` of what was read, and at the first where it is 0, they stop the run.

    Args:
        streams: rows of the sources.
        batch_size, batch_cost: at least one bound, as in `BatchSampler`.
        shares: each source's share of the examples, exact but for chance; needed where there are several.
        shuffle_buffer: rows of a source that are shuffled among each other; its files are shuffled besides.
        num_processes, process_index: ranks that share the streams, and which one this is.
    """

    def __init__(
        self,
        streams: Sequence[datasets.IterableDataset],
        modality: Modality[Any],
        *,
        seed: int,
        batch_size: int | None = None,
        batch_cost: int | None = None,
        shares: Sequence[float] | None = None,
        shuffle_buffer: int = 1000,
        max_bad_share: float = 0.0,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        check_bounded(batch_size, batch_cost)
        self.streams, self.shuffle_buffer = list(streams), shuffle_buffer
        self.modality, self.seed = modality, seed
        self.ledger = Ledger("train", max_bad_share)
        self.batch_size, self.batch_cost = batch_size, batch_cost
        self.shares = [1.0] if shares is None else list(shares)
        self.num_processes, self.process_index = num_processes, process_index
        self.epoch = 0
        self.counts: Counter[str] = Counter()  # of this worker: what was left out, and why

    def set_epoch(self, epoch: int) -> None:
        """The pass that the next iteration starts with."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        worker = get_worker_info()
        workers, worker_id = (worker.num_workers, worker.id) if worker else (1, 0)
        readers = workers * self.num_processes
        rng = np.random.default_rng((self.seed, self.epoch, self.process_index, worker_id))
        sources = [
            self._examples(source, worker_id * self.num_processes + self.process_index, readers, workers)
            for source in range(len(self.streams))
        ]
        mixed = self._mix(sources, rng)
        yield from self._in_order(mixed) if self.batch_cost is None else self._by_length(mixed, self.batch_cost, rng)

    def _mix(self, sources: list[Iterator[dict[str, Any]]], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        while True:
            for source in rng.choice(len(sources), size=100, p=self.shares):
                example = next(sources[source], None)
                if example is None:
                    return  # a single source with fewer files than there are workers: this worker has none
                yield example

    def _in_order(self, examples: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        batch: list[dict[str, Any]] = []
        for example in examples:
            batch.append(example)
            if len(batch) == self.batch_size:
                yield batch
                batch = []

    def _by_length(
        self, examples: Iterator[dict[str, Any]], batch_cost: int, rng: np.random.Generator
    ) -> Iterator[list[dict[str, Any]]]:
        pool: list[dict[str, Any]] = []
        total = 0
        for example in examples:
            pool.append(example)
            total += self.modality.length(example)
            if total < POOL * batch_cost and (self.batch_size is None or len(pool) < POOL * self.batch_size):
                continue
            # The last batch is not full and stays: the shortest or, the next time perhaps, the longest examples.
            *batches, pool = self._cut(pool, batch_cost, longest_first=rng.random() < 0.5)
            for i in rng.permutation(len(batches)):
                yield batches[i]
            total = sum(map(self.modality.length, pool))

    def _cut(self, pool: list[dict[str, Any]], batch_cost: int, longest_first: bool) -> list[list[dict[str, Any]]]:
        """The pool, sorted by length, in batches whose padded cost is bounded."""
        batches: list[list[dict[str, Any]]] = [[]]
        longest = 0
        for example in sorted(pool, key=self.modality.length, reverse=longest_first):
            longest = max(longest, self.modality.length(example))
            if len(batches[-1]) == self.batch_size or (len(batches[-1]) + 1) * longest > batch_cost:
                batches.append([])
                longest = self.modality.length(example)
            batches[-1].append(example)
        return batches

    def _examples(self, source: int, reader: int, readers: int, workers: int) -> Iterator[dict[str, Any]]:
        """The examples of a source, pass after pass, that this one of all the readers (ranks * workers) has."""
        epoch = self.epoch
        while True:
            stream = self._shuffled(source, epoch)
            read = usable = 0
            for row in self.modality.rows_of_stream(self._kept(stream)):
                if "empty" in row:  # a document without content, ordinary in a text
                    self._count("empty documents")
                    continue
                index = (read * readers + reader) * len(self.streams) + source
                read += 1
                try:
                    example = self.modality.read(row, generator(self.seed, epoch, index, "read"))
                except BadExample as error:
                    self._leave_out(row, error, epoch, index)
                    continue
                usable += 1
                if epoch == self.epoch:
                    self.ledger.used()
                name = self._name(row, epoch, index)
                yield {**example, "epoch": epoch, "index": index, "name": name}
            if not usable:
                self._nothing(source, workers)
                return
            epoch += 1

    def _shuffled(self, source: int, epoch: int) -> datasets.IterableDataset:
        """A pass over a source, in an order of its own.

        A new stream a pass, not `set_epoch`: that number lies in memory which all loader workers share, and one that
        begins its next pass would change it for another that is about to begin.
        """
        seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
        shuffled = self.streams[source].shuffle(seed=seed, buffer_size=self.shuffle_buffer)
        return split_dataset_by_node(shuffled, self.process_index, self.num_processes)

    def _nothing(self, source: int, workers: int) -> None:
        if workers == 1 or self.counts:
            raise BadExample(
                f"A pass over data source {source + 1} gave no usable example; left out: {dict(self.counts)}. Look at "
                "the source and the filters."
            )
        if len(self.streams) > 1:
            raise ValueError(
                f"data source {source + 1} has fewer files than there are loader workers ({workers}), so that some "
                "would mix the sources in other shares: set training.dataloader_num_workers to the number of files or "
                "to 1."
            )

    def _leave_out(self, row: Row, error: BadExample, epoch: int, index: int) -> None:
        self.counts[error.problem] += 1
        if epoch == self.epoch or self.ledger.max_share == 0:  # a later pass meets the same files
            self.ledger.leave_out(self._name(row, epoch, index), error)

    def _name(self, row: Row, epoch: int, index: int) -> str:
        path = path_of(row, self.modality.kind.column) if self.modality.named else None
        return path or f"row {index} of pass {epoch} over the stream"

    def _kept(self, rows: datasets.IterableDataset) -> Iterator[Row]:
        for row in rows:
            reason = self.modality.left_out(row)
            if reason is None:
                yield row
                continue
            self._count(reason)

    def _count(self, reason: str) -> None:
        self.counts[reason] += 1
        if self.counts[reason] in (1, 10, 100) or self.counts[reason] % 1000 == 0:
            logger.warning("%d examples of the stream left out so far: %s", self.counts[reason], reason)
