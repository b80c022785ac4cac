"""What the data layer asks of a modality; the rest of it (sources, sampling, streaming) knows none.

To add a modality: its arguments, a `Modality`, a `Collator`, and its model types in `build.MODEL_TYPES`. What other
layers know of it is in a `Registry` of theirs: features without a network, how it is drawn, the words of its card.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.targets import mean_over_time
from .arguments import DataArguments
from .bad_examples import PROBLEMS, BadExample
from .sources import MediaKind


__all__ = ["PROBLEMS", "BadExample", "Modality", "Registry", "Row", "Rows", "Survey", "describe", "path_of"]

Row = Mapping[str, Any]


class Rows(Protocol):
    """Rows that are read in any order; a `datasets.Dataset` is such."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


Arguments = TypeVar("Arguments", bound=DataArguments)


class Modality(ABC, Generic[Arguments]):
    """Reads one row and knows how to batch it.

    Attributes:
        name: what the inputs are called, in words.
        arguments_class: the dataclass of the recipe's `data` fields.
        kind: where the raw data is found.
        named: whether a row may hold its file's name (a row of tokens holds a text instead).
        config_fields: of an encoder's configuration, what says how it reads.
        processor_class: the Auto class that opens what is saved beside the weights.
        shapes: of an encoder's input and of its output, in words.
        pooled_parts: how many times the encoder's width what `pool` returns is wide.
        processor: what is saved beside the weights, so that the Auto classes prepare inputs as pretraining did.
    """

    name: ClassVar[str]
    arguments_class: ClassVar[type[DataArguments]]
    kind: ClassVar[MediaKind]
    named: ClassVar[bool] = True
    config_fields: ClassVar[tuple[str, ...]]
    processor_class: ClassVar[Any]
    shapes: ClassVar[tuple[str, str]]
    pooled_parts: ClassVar[int] = 1
    args: Arguments
    processor: Any

    @abstractmethod
    def __init__(self, args: Arguments, config: PreTrainedConfig, processor: Any = None):
        """Raises ValueError where arguments, encoder and processor do not fit each other."""

    @classmethod
    @abstractmethod
    def smallest_grid(cls, args: Arguments, config: PreTrainedConfig) -> tuple[tuple[int, ...], str]:
        """The token grid of the smallest example that a run will see, and the field that makes it so."""

    @abstractmethod
    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        """One row as a model input without a batch axis.

        `rng` drives crops and augmentation; None is the plain, deterministic reading of evaluation. `limit` bounds the
        length. Raises `BadExample`, whose message names the file and the fix.
        """

    @abstractmethod
    def collator(self, objective: ObjectiveConfig | None, seed: int) -> Callable[[Sequence[dict[str, Any]]], Any]:
        """The collate function: with masks, or without where `objective` is None (probes)."""

    @staticmethod
    def real_tokens(encoder: Any, inputs: Mapping[str, Tensor], time: int) -> Tensor:
        """Bool (batch, time): True on what stands for a part of the input, False on padding and CLS tokens."""
        first, mask = next(iter(inputs.values())), inputs.get("attention_mask")
        extra = getattr(encoder.config, "num_extra_tokens", 0)  # in front, as CLS
        if mask is None:
            real = torch.ones(len(first), time - extra, dtype=torch.bool, device=first.device)
        else:
            real = encoder.real_tokens(mask, time - extra) if hasattr(encoder, "real_tokens") else mask.bool()
        return nn.functional.pad(real, (extra, 0), value=False)

    @staticmethod
    def pool(states: Tensor, real: Tensor) -> Tensor:
        """What probes read of hidden states (batch, time, dim), real where `real` is True: the mean, (batch, dim)."""
        return mean_over_time(states, real)

    @classmethod
    def open_processor(cls, model: str) -> Any:
        """What is saved beside the weights of a folder or Hub id; None where pretraining's defaults are meant."""
        try:
            return cls.processor_class.from_pretrained(model, trust_remote_code=False)
        except (OSError, ValueError):
            return None

    @property
    def source_options(self) -> dict[str, Any]:
        """How `load_source` is to read this modality's files."""
        return {}

    def prepare(self, dataset: datasets.Dataset, packed: bool = True) -> Rows:
        """The rows that examples are read from; `packed` allows several rows of a source in one example."""
        return dataset

    def kept(self, rows: Rows, numbers: Sequence[int]) -> datasets.Dataset:
        """Some of the rows that `prepare` made, as a source that can be saved and read again."""
        assert isinstance(rows, datasets.Dataset)
        return rows.select(numbers)

    def inspect(self, rows: Iterator[Row]) -> str | None:
        """What the recipe shrinks or drops of a source, to be said when a run starts; `rows` are some of it.

        Raises ValueError where that is a loss which the recipe must ask for.
        """
        return None

    def survey(self, rows: Rows, filtered: bool = True) -> "Survey | None":
        """What can be known of all rows without decoding them; None: nothing, all examples are alike.

        `filtered` applies the recipe's length filters, which a labelled set must not be cut by.
        """
        return None

    def left_out(self, row: Row) -> str | None:
        """Why the recipe's length filters leave a row of a stream out, or None."""
        return None

    def rows_of_stream(self, stream: Iterator[Row]) -> Iterator[Row]:
        """The rows that examples are read from, from a stream of them."""
        return stream

    def length(self, example: Mapping[str, Any]) -> int:
        """The length of an example that `read` returned, in the unit of `args.batch_cost`."""
        return 1


Entry = TypeVar("Entry")


class Registry(dict[type[Modality[Any]], Entry]):
    """What one layer knows of each modality, such as how it is drawn; a subclass shares what its parent has.

    `registry[modality]` raises ValueError where nothing was registered.
    """

    def __init__(self, what: str, entries: Mapping[type[Modality[Any]], Entry]):
        super().__init__(entries)
        self.what = what

    def __missing__(self, modality: type[Modality[Any]]) -> Entry:
        for parent in modality.__mro__[1:]:
            if parent in self:
                return self[parent]
        known = ", ".join(known.name for known in self)
        raise ValueError(
            f"No {self.what} for {modality.name}, only for {known}: register an entry (docs/adding_a_method.md)."
        )


@dataclass(frozen=True)
class Survey:
    """Lengths of all rows, and which rows are out."""

    lengths: np.ndarray  # (rows,) int64, the most that `read` returns
    filtered: dict[str, np.ndarray]  # why -> (rows left out,) int64
    bad: dict[int, BadExample]  # row -> what is wrong with its file
    gone: dict[int, BadExample] = field(default_factory=dict)  # document that no row holds -> what is wrong with it
    looked_at: int | None = None  # documents behind the rows, where a row is not one
    uncounted: dict[str, int] = field(default_factory=dict)  # problem that is no fault -> how often


def describe(row: Row, column: str) -> str:
    """What an error message calls a row: its file's name, where it has one."""
    path = path_of(row, column)
    return repr(path) if path else f"a row of {column} without a file name"


def path_of(row: Row, column: str) -> str | None:
    """The name of a row's file, or None."""
    value = row.get(column)
    path = value.get("path") if isinstance(value, Mapping) else value
    return path if isinstance(path, str) and path else None
