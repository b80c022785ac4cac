"""Blocks of `transformers`' text encoder that keep less for the gradient; see [`recompute.recompute_activation`]."""

from torch import Tensor
from transformers.models.data2vec.modeling_data2vec_text import Data2VecTextLayer

from .recompute import recompute_activation


class RecomputingTextLayer(Data2VecTextLayer):
    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        activation, wide = self.intermediate.intermediate_act_fn, self.intermediate.dense(attention_output)
        with recompute_activation(activation, wide, enabled=not self.gradient_checkpointing) as activated:
            narrow = self.output.dense(activated)
        return self.output.LayerNorm(self.output.dropout(narrow) + attention_output)


RECOMPUTING = {Data2VecTextLayer: RecomputingTextLayer}
