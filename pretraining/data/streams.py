"""Examples of several streams -> a batch on one clock, with what the draws of student and teacher depend on."""

from collections.abc import Sequence

from ...modeling.configuration_objective import ObjectiveConfig
from .collators import Batch, Collator, Example, TokenLayout, pad


class StreamsCollator(Collator):
    """Pads all streams with zeros to the longest example; each frame is a token.

    What student and teacher read may depend on the update, which a loader that runs ahead does not know: a batch holds
    `stream_seeds` (batch,) instead, and the model draws when its turn has come ([`PreTrainingMixin.at_step`]).

    Args:
        inputs: names of the model's inputs.
        evaluated: those that a batch without masks holds (probes); all if empty.
    """

    def __init__(self, objective: ObjectiveConfig | None, seed: int, inputs: Sequence[str], evaluated: Sequence[str]):
        super().__init__(objective, seed)
        self.names = list(evaluated or inputs) if objective is None else list(inputs)

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """Each input (batch, frames, ...) fp32, and attention_mask (batch, frames) where examples differ."""
        batch: Batch = {}
        lengths = None
        for name in self.names:
            padded, lengths = pad([example[name] for example in examples], name, 0.0)
            batch |= padded
        return batch, TokenLayout((batch[self.names[0]].shape[1],), lengths)

    def masks(
        self, objective: ObjectiveConfig, batch: Batch, layout: TokenLayout, examples: Sequence[Example]
    ) -> Batch:
        """masked (batch, frames) and stream_seeds; what is scored, and counted, depends on what will be drawn."""
        masks = super().masks(objective, batch, layout, examples)
        return {"masked": masks["masked"], "stream_seeds": self.mask_seeds(objective, examples)[:, 0]}
