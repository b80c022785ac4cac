"""Several modalities in one run: an update reads batches of one of them, on all ranks.

    each modality's own data (build)  ->  JointSampler: whose turn it is  ->  its own examples and batches

How often each has its turn follows from the weights, in which order from (seed, epoch): a resumed run repeats what it
would have done.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ..data.bad_examples import Ledger
from ..data.sampler import BatchSampler, Key
from .build import PretrainingData


MODALITY = "modality"  # the batch's entry that holds whose it is
TURNS = 4  # a random stream of its own, see sampler.py


class JointSampler(Sampler[list[tuple[str, Key]]]):
    """Batches of `(modality, key)`, as many of a modality in a row as an update reads on all ranks.

    An epoch has as many updates as the modalities' own epochs together, a fixed number of each, in random order. A
    modality goes on through its own epochs, whatever share it has.

    Args:
        samplers: of each modality, for all ranks.
        weights: the modality's share of the updates, relative to the others', 1 where another has one. All `None`:
            every example once an epoch.
        batches_per_update: ranks * accumulated batches.
    """

    batch_size = None
    drop_last = False

    def __init__(
        self,
        samplers: Mapping[str, BatchSampler],
        weights: Mapping[str, float | None],
        *,
        seed: int,
        batches_per_update: int,
    ):
        self.samplers, self.seed, self.batches_per_update, self.epoch = dict(samplers), seed, batches_per_update, 0
        self.own_updates = {name: len(sampler) // batches_per_update for name, sampler in samplers.items()}
        total = sum(self.own_updates.values())
        if all(weight is None for weight in weights.values()):
            self.turns = dict(self.own_updates)
        else:
            shares = {name: 1.0 if weight is None else weight for name, weight in weights.items()}
            whole = sum(shares.values())
            self.turns = {name: max(round(total * share / whole), 1) for name, share in shares.items()}

    @property
    def cost(self) -> int | None:
        """What bounds a batch, where that is its padded cost for one of the modalities."""
        return next((sampler.cost for sampler in self.samplers.values() if sampler.cost is not None), None)

    @property
    def size(self) -> int:
        """Examples that an epoch reads."""
        return sum(
            round(sampler.size * self.turns[name] / self.own_updates[name]) for name, sampler in self.samplers.items()
        )

    def __len__(self) -> int:
        return sum(self.turns.values()) * self.batches_per_update

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self, epoch: int) -> list[str]:
        """The modality of every update of an epoch."""
        names = [name for name, turns in self.turns.items() for _ in range(turns)]
        return [names[i] for i in np.random.default_rng((self.seed, TURNS, epoch)).permutation(len(names))]

    def __iter__(self) -> Iterator[list[tuple[str, Key]]]:
        batches = {name: self._from(name, self.epoch * turns) for name, turns in self.turns.items()}
        for name in self.order(self.epoch):
            for batch in islice(batches[name], self.batches_per_update):
                yield [(name, key) for key in batch]

    def _from(self, name: str, update: int) -> Iterator[list[Key]]:
        """The batches of a modality from its so-manieth update on, through its own epochs."""
        sampler, epoch = self.samplers[name], update // self.own_updates[name]
        skipped = update % self.own_updates[name] * self.batches_per_update
        while True:
            sampler.set_epoch(epoch)
            yield from islice(sampler, skipped, None)
            epoch, skipped = epoch + 1, 0


class JointDataset(Dataset[dict[str, Any]]):
    """The examples of all modalities: `dataset[name, key]`, with whose it is under "modality"."""

    def __init__(self, parts: Mapping[str, PretrainingData]):
        self.parts: dict[str, Any] = {name: part.train_dataset for name, part in parts.items()}

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __getitem__(self, key: tuple[str, Key]) -> dict[str, Any]:
        name, own = key
        return {**self.parts[name][own], MODALITY: name}


@dataclass(frozen=True)
class Named:
    """A modality's collate function that says in the batch whose it is."""

    name: str
    collate: Callable[[Sequence[dict[str, Any]]], Any]

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Any:
        return {**self.collate(examples), MODALITY: self.name}


@dataclass(frozen=True)
class JointCollator:
    """Examples of one modality -> its batch."""

    collators: Mapping[str, Callable[[Sequence[dict[str, Any]]], Any]]

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Any:
        return self.collators[examples[0][MODALITY]](examples)


@dataclass(frozen=True)
class JointProcessor:
    """What prepares inputs of each modality, in a folder of its name."""

    processors: Mapping[str, Any]

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        for name, processor in self.processors.items():
            processor.save_pretrained(Path(folder) / name, **kwargs)


@dataclass(frozen=True)
class JointData(PretrainingData):
    """The data of all modalities, and of each alone under `modalities`."""

    modalities: dict[str, PretrainingData] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, PretrainingData]:
        return self.modalities

    def describe(self) -> str:
        sampler: Any = self.batch_sampler
        total = sum(sampler.turns.values())
        return "; ".join(
            f"{name}: {part.describe()}, {sampler.turns[name] / total:.0%} of the updates"
            for name, part in self.parts.items()
        )

    def _ledgers(self) -> dict[str, Ledger]:
        return {f"{name}/{of}": ledger for name, part in self.parts.items() for of, ledger in part._ledgers().items()}


def join(
    parts: Mapping[str, PretrainingData], weights: Mapping[str, float | None], *, seed: int, batches_per_update: int
) -> JointData:
    """The data of a joint run, from that of its modalities, each built for the same ranks and accumulation.

    Raises:
        ValueError: one of them is a stream.
    """
    samplers: dict[str, BatchSampler] = {}
    for name, part in parts.items():
        if part.batch_sampler is None:
            raise ValueError(
                f"modalities.{name}.data.streaming = True: must be false in a joint run, where all ranks read the "
                "same modality in an update."
            )
        samplers[name] = part.batch_sampler
    named = {name: replace(part, collator=Named(name, part.collator)) for name, part in parts.items()}
    held_out: Any = {name: part.eval_dataset for name, part in parts.items() if part.eval_dataset is not None}
    sampler: Any = JointSampler(samplers, weights, seed=seed, batches_per_update=batches_per_update)
    dataset: Any = JointDataset(parts)
    return JointData(
        dataset,
        sampler,
        JointCollator({name: part.collator for name, part in named.items()}),
        JointProcessor({name: part.processor for name, part in parts.items()}),
        eval_dataset=held_out or None,
        modalities=named,
    )
