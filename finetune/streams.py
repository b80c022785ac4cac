"""Clips of several streams: which of them a training clip is read with, and which ones evaluation reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..pretraining.data.modality import Modality, Row
from ..pretraining.data.sources import MediaKind
from ..pretraining.modalities.streams import StreamsData
from .examples import Examples
from .task_arguments import TaskArguments


@dataclass(kw_only=True)
class StreamsTaskArguments(TaskArguments):
    """The `task` fields of encoders that read several streams; an encoder of one stream leaves them out."""

    train_streams: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "share of the training clips that are read with each set of streams, of an encoder of several: "
            "{audio+video: 0.5, audio: 0.25, video: 0.25}; by default all clips with all streams"
        },
    )
    test_streams: list[str] = field(
        default_factory=list,
        metadata={
            "help": "sets of streams that are evaluated, [audio+video, audio, video]: the first one is the result and "
            "chooses checkpoints, the others become splits such as test_video; by default all streams at once"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.train_streams.values()
        fits = not shares or (min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6)
        self.require(fits, "train_streams", "use shares of 0 or more that add up to 1")
        self.require(len(set(self.test_streams)) == len(self.test_streams), "test_streams", "name each set once")


class StreamsReader:
    """`(row, rng) -> example`, see [`Examples`], of a modality with one stream or several.

    Attributes:
        kind: what of the data is needed: a stream that is never read need not be there.
    """

    def __init__(self, modality: Modality[Any], args: StreamsTaskArguments):
        self.modality = modality
        self.inputs: Mapping[str, str] = getattr(modality, "inputs", {})
        self.kind: MediaKind = modality.kind
        everything = "+".join(self.inputs)
        for name in ("train_streams", "test_streams"):
            known = all(set(streams.split("+")) <= set(self.inputs) for streams in getattr(args, name))
            fix = f"use {everything}, or some of them" if self.inputs else "leave it out: the encoder reads one stream"
            args.require(known, name, fix)
        self.trained = args.train_streams or {everything: 1.0}
        self.tested = args.test_streams or [everything]
        if isinstance(modality, StreamsData):
            needed = {stream for streams in (*self.trained, *self.tested) for stream in streams.split("+")}
            modality.streams = [stream for stream in self.inputs if stream in needed]
            beside = tuple(part for part in self.kind.beside if part.column in needed)
            self.kind = replace(self.kind, beside=beside)

    def __call__(self, row: Row, rng: np.random.Generator | None, streams: str | None = None) -> dict[str, Any]:
        """`streams` is a set of them; by default the first that is tested or, in training, one that `rng` draws."""
        example: dict[str, Any] = self.modality.read(row, rng)
        if not self.inputs:
            return example
        if rng is None or len(self.trained) == 1:
            read = (streams or (self.tested[0] if rng is None else next(iter(self.trained)))).split("+")
            return {name: example[name] for stream, name in self.inputs.items() if stream in read}
        read = rng.choice(list(self.trained), p=list(self.trained.values())).split("+")
        return example | {"stream_mask": torch.tensor([stream in read for stream in self.inputs])}

    def evaluation(self, splits: Mapping[str, Examples]) -> dict[str, Examples]:
        """The splits, and behind each the same examples with the other sets of streams: `test`, `test_video`."""
        found = {}
        for split, examples in splits.items():
            found[split] = examples
            for streams in self.tested[1:]:
                name = f"{split}_{streams}"
                read: Any = examples.read  # of a task around this reader
                found[name] = examples.only(np.arange(len(examples)), name=name, read=partial(read, streams=streams))
        return found
