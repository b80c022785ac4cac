"""From a recipe's `data` fields to everything a trainer needs: `build_data`.

    sources -> rows        sources
    rows -> examples       examples, or streaming
    examples -> batches    sampler
    batches -> masks       collators

A modality is chosen by the encoder's `model_type`; what it does with a row and a batch is in audio, image and text.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedConfig

from ...modeling.configuration_objective import ObjectiveConfig
from ..data.arguments import DataArguments, ProbeArguments, Source
from ..data.bad_examples import BadExample, Ledger
from ..data.examples import PretrainingDataset
from ..data.labels import number_labels
from ..data.modality import Modality
from ..data.row_choice import rows_to_look_at
from ..data.sampler import BatchSampler, FixedBatches
from ..data.sources import LABEL, AnyDataset, load_source, load_sources
from ..data.streaming import StreamingBatches
from .audio import AudioDataArguments
from .image import ImageDataArguments
from .methods import BUILT_IN, JOINT
from .points import PointsDataArguments
from .spectrogram import SpectrogramDataArguments
from .text import TextDataArguments


__all__ = [
    "MODEL_TYPES",
    "AudioDataArguments",
    "BadExample",
    "DataArguments",
    "ImageDataArguments",
    "PointsDataArguments",
    "PretrainingData",
    "ProbeArguments",
    "Source",
    "SpectrogramDataArguments",
    "TextDataArguments",
    "build_data",
    "modality_of",
]

# What each model type is trained on; other packages add theirs.
MODEL_TYPES: dict[str, type[Modality[Any]]] = {name: built.reads.modality.open() for name, built in BUILT_IN.items()}


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainingData:
    """What `build_data` returns.

    Attributes:
        train_dataset: map-style, or a stream of lists of examples where `batch_sampler` is None.
        batch_sampler: batches of keys for `train_dataset`, for all ranks.
        collator: examples -> batch with masks.
        processor: to be saved beside the weights.
        eval_dataset, eval_batch_sampler: held-out examples, always with the same masks in the same batches, or None.
        probe_train, probe_validation, probe_test: labelled examples without augmentation, or None.
        probe_collator: labelled examples -> batch without masks, with labels (batch,) long.
        label_names: the classes of the probe, by number.
    """

    train_dataset: PretrainingDataset | StreamingBatches
    batch_sampler: BatchSampler | None
    collator: Callable[[Sequence[dict[str, Any]]], Any]
    processor: Any
    eval_dataset: PretrainingDataset | None = None
    eval_batch_sampler: FixedBatches | None = None
    probe_train: PretrainingDataset | None = None
    probe_validation: PretrainingDataset | None = None
    probe_test: PretrainingDataset | None = None
    probe_collator: Callable[[Sequence[dict[str, Any]]], Any] | None = None
    label_names: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, "PretrainingData"]:
        """The data of each modality; under no name where there is one modality."""
        return {"": self}

    def loader_arguments(self) -> dict[str, Any]:
        """What a `DataLoader` of `train_dataset` is given besides workers."""
        batches = {"batch_size": None} if self.batch_sampler is None else {"batch_sampler": self.batch_sampler}
        return {**batches, "collate_fn": self.collator}

    def describe(self) -> str:
        """What is trained on, in a line."""
        if isinstance(self.train_dataset, StreamingBatches):
            return "a stream"
        return f"{len(self.train_dataset):,} training examples"

    def record_skipped(self, folder: Path, rank: int) -> None:
        """Name unusable files in the run folder, `skipped.jsonl`, from now on. Call it before a loader starts."""
        for ledger in self._ledgers().values():
            ledger.open(folder, rank)

    def exchange_skipped(self, gather: Callable[[list[Any]], list[Any]], rank: int) -> None:
        """Let every rank know what the others left out; to be called on all ranks, see `Ledger.exchange`."""
        for ledger in self._ledgers().values():
            ledger.exchange(gather, rank)

    def skipped(self) -> dict[str, dict[str, int]]:
        """{"train" or "eval": {problem: files left out so far}}."""
        return {part: ledger.counts() for part, ledger in self._ledgers().items()}

    def _ledgers(self) -> dict[str, Ledger]:
        sets = {"train": self.train_dataset, "eval": self.eval_dataset}
        return {part: dataset.ledger for part, dataset in sets.items() if dataset is not None}


def modality_of(model: PreTrainedConfig | str) -> type[Modality[Any]]:
    """What a model reads, by its configuration or its `model_type`.

    A configuration of another type, such as a ViT's, is told by the fields that say how it reads.
    """
    model_type = model if isinstance(model, str) else model.model_type
    if model_type in MODEL_TYPES:
        return MODEL_TYPES[model_type]
    if model_type == JOINT:
        raise ValueError(f"{model_type!r} has several modalities: `data2vec split RUN OUT` makes a folder of each.")
    for modality in dict.fromkeys(MODEL_TYPES.values()):
        if all(hasattr(model, name) for name in modality.config_fields):
            return modality
    raise ValueError(
        f"model_type = {model_type!r} is of no known modality: use one of {', '.join(MODEL_TYPES)}, or register it "
        "(docs/adding_a_method.md)."
    )


def build_data(
    args: DataArguments,
    *,
    config: PreTrainedConfig,
    objective: ObjectiveConfig,
    seed: int,
    batch_size: int | None = None,
    processor: Any = None,
    num_processes: int = 1,
    process_index: int = 0,
    gradient_accumulation_steps: int = 1,
    name: str = "",
) -> PretrainingData:
    """Open the sources and make everything that turns them into batches.

    Args:
        args: of the encoder's modality, see `modality_of`.
        config: the encoder's, for the size of what it reads.
        objective: its `masking` and `views` say which masks.
        batch_size: most examples in a batch of one device, where `args` does not bound its cost instead.
        processor: of a checkpoint that is trained on; None makes a new one.
        num_processes, process_index, gradient_accumulation_steps: ranks, this rank, and batches of an optimizer step;
            an epoch gives every rank the same number of whole steps.
        name: of the modality in a joint run, for `skipped.jsonl`.

    Raises:
        ValueError: a source, a file or a field is not usable; the message names it and the fix.
    """
    modality_class = modality_of(config)
    if not isinstance(args, modality_class.arguments_class):
        raise ValueError(
            f"data is {type(args).__name__}, but model_type = {config.model_type!r} is trained on "
            f"{modality_class.arguments_class.__name__}."
        )
    modality = modality_class(args, config, processor)
    options = modality.source_options
    count = batch_size if args.batch_cost is None else None
    prefix = f"{name}/" if name else ""
    bounds: dict[str, Any] = {"batch_size": count, "batch_cost": args.batch_cost}
    bad: dict[str, Any] = {"max_bad_share": args.max_bad_share}
    evaluation = eval_sampler = None
    if args.eval_sources:
        held_out = load_sources(args.eval_sources, modality.kind, default_split="validation", **options)
        rows = [modality.prepare(dataset) for dataset in held_out]
        evaluation = PretrainingDataset(rows, modality, seed=seed, augment=False, part=f"{prefix}eval", **bad)
        eval_batches = BatchSampler(
            evaluation.lengths, len(evaluation), seed=seed, num_batches_multiple=num_processes, **bounds
        )
        eval_sampler = FixedBatches(eval_batches)
    sources = load_sources(args.sources, modality.kind, streaming=args.streaming, **options)
    for source, dataset in zip(args.sources, sources, strict=True):
        _say_what_is_lost(source, dataset, modality)
    sampler = None
    train: PretrainingDataset | StreamingBatches
    if args.streaming:
        train = StreamingBatches(
            sources,
            modality,
            seed=seed,
            **bounds,
            shares=args.shares(),
            shuffle_buffer=args.shuffle_buffer,
            **bad,
            num_processes=num_processes,
            process_index=process_index,
        )
    else:
        rows = [modality.prepare(dataset) for dataset in sources]
        train = PretrainingDataset(rows, modality, seed=seed, part=f"{prefix}train", **bad)
        sampler = BatchSampler(
            train.lengths,
            len(train),
            seed=seed,
            **bounds,
            bucket_width=args.bucket_width,
            sizes=train.sizes,
            shares=args.shares(),
            num_batches_multiple=num_processes * gradient_accumulation_steps,
        )
    collator: Any = modality.collator(objective, seed)
    if args.mixup:
        collator.mixup = True
    data = PretrainingData(train, sampler, collator, modality.processor, evaluation, eval_sampler)
    return data if args.probe is None else _with_probe(data, args.probe, modality, seed)


def _say_what_is_lost(source: Source, dataset: AnyDataset, modality: Modality[Any]) -> None:
    try:
        lost = modality.inspect(rows_to_look_at(dataset))
    except BadExample:
        raise
    except ValueError as error:
        raise ValueError(f"data source {source.path!r}: {error}") from error
    if lost is not None:
        logger.warning("data source %r: %s", source.path, lost)


def _with_probe(data: PretrainingData, probe: ProbeArguments, modality: Modality[Any], seed: int) -> PretrainingData:
    """Adds the labelled sets: read without augmentation, never filtered by length, every bad file an error."""
    numbered, names = load_labelled(probe, modality)
    splits = {
        part: PretrainingDataset(
            [modality.prepare(rows, packed=False)], modality, seed=seed, augment=False, filtered=False
        )
        for part, rows in numbered.items()
    }
    return replace(
        data,
        probe_train=splits[probe.train_split],
        probe_validation=None if probe.validation_split is None else splits[probe.validation_split],
        probe_test=splits[probe.test_split],
        probe_collator=modality.collator(None, seed),
        label_names=names,
    )


def load_labelled(
    probe: ProbeArguments, modality: Modality[Any]
) -> tuple[dict[str, datasets.Dataset], tuple[str, ...]]:
    """The rows of each split of a probe, their labels as numbers of the same classes, and the classes' names.

    Raises:
        ValueError: a row has no label, or one that the training rows do not have; see [`number_labels`].
    """
    options = {"label_column": probe.label_column, **modality.source_options}
    parts = filter(None, (probe.train_split, probe.validation_split, probe.test_split))
    splits = {part: load_source(probe.source(part), modality.kind, **options) for part in dict.fromkeys(parts)}
    labels = number_labels(splits)
    labels.refuse_bad("data.probe")
    numbered = {}
    for part, rows in splits.items():
        if getattr(rows.features[LABEL], "names", None) != list(labels.names):
            rows = rows.remove_columns(LABEL).add_column(LABEL, labels.numbers[part])
        numbered[part] = rows
    return numbered, labels.names
