"""A teacher of another kind: any encoder that `transformers` opens, such as wav2vec 2.0 or DINO, frozen."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from .ema import Teacher
from .targets import BlockFeatures, TopKAverage


MOST_IN_FRONT = 8  # class and register tokens; more is another number of tokens


class OtherTeacher(Teacher):
    """
    Args:
        config: of the encoder, `to_dict()`. Its weights are random until they are loaded into `model`, as a run of a
            recipe does.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.model = AutoModel.from_config(AutoConfig.for_model(**config), trust_remote_code=False)

    @torch.no_grad()
    def forward(self, inputs: dict[str, Tensor], time: int, targets: Callable[[int], TopKAverage]) -> TopKAverage:
        """Run the encoder on what the student's embeddings read, and add its blocks.

        Args:
            time: the student's tokens, for each of which the teacher must have one.
            targets: makes the average, given how many tokens the teacher has in front of these.

        Raises:
            ValueError: it makes another number of tokens.
        """
        states = self.model(**inputs, output_hidden_states=True).hidden_states[1:]  # (batch, in front + time, dim)
        in_front = states[0].shape[1] - time
        if not 0 <= in_front <= MOST_IN_FRONT:
            raise ValueError(
                f"objective.teacher makes {states[0].shape[1]} tokens of an input of which this model makes {time}: "
                "both must cut it into the same patches or frames."
            )
        average = targets(in_front)
        for state in states:
            average.add(BlockFeatures(state, state, state, state))
        return average
