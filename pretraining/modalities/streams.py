"""Examples of several streams -> a batch on one clock, with what the draws of student and teacher depend on."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from ...modeling.configuration_objective import ObjectiveConfig
from ..data.collators import Batch, Collator, Example, TokenLayout, pad
from ..data.modality import Arguments, Modality


class StreamsData(Modality[Arguments]):
    """See `Modality`. An example holds each stream as (frames, ...) fp32; `args.probe_streams` are those of probes.

    Attributes:
        inputs: stream, as a configuration's `streams` name it -> the model's input.
        streams: those that are read, all by default. One that is left out need not be there.
    """

    inputs: ClassVar[Mapping[str, str]]
    streams: Sequence[str]

    def collator(self, objective: ObjectiveConfig | None, seed: int) -> "StreamsCollator":
        names = self.args.probe_streams if objective is None else self.inputs  # type: ignore[attr-defined]
        return StreamsCollator(objective, seed, [self.inputs[name] for name in names])


class StreamsCollator(Collator):
    """Pads all streams with zeros to the longest example; each frame is a token.

    What student and teacher read may depend on the update, which a loader that runs ahead does not know: a batch holds
    `stream_seeds` (batch,) instead, and the model draws when its turn has come ([`PreTrainingMixin.at_step`]).

    Args:
        inputs: names of the model's inputs; those that examples do not hold are not in a batch.
    """

    def __init__(self, objective: ObjectiveConfig | None, seed: int, inputs: Sequence[str]):
        super().__init__(objective, seed)
        self.names = list(inputs)

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """Each input (batch, frames, ...) fp32, attention_mask (batch, frames) where examples differ, and stream_mask
        (batch, streams) where they say what a model is to read."""
        batch: Batch = {}
        lengths, names = None, [name for name in self.names if name in examples[0]]
        for name in names:
            padded, lengths = pad([example[name] for example in examples], name, 0.0)
            batch |= padded
        time = batch[names[0]].shape[1]
        if "stream_mask" in examples[0]:
            batch["stream_mask"] = torch.stack([example["stream_mask"] for example in examples])
        return batch, TokenLayout((time,), lengths)

    def masks(
        self, objective: ObjectiveConfig, batch: Batch, layout: TokenLayout, examples: Sequence[Example]
    ) -> Batch:
        """masked (batch, frames) and stream_seeds; what is scored, and counted, depends on what will be drawn."""
        masks = super().masks(objective, batch, layout, examples)
        return {"masked": masks["masked"], "stream_seeds": self.mask_seeds(objective, examples)[:, 0]}
