"""Blocks of `transformers`' text encoder that keep less for the gradient; see [`frugal.made_again`]."""

from torch import Tensor
from transformers.models.data2vec.modeling_data2vec_text import Data2VecTextLayer

from .frugal import made_again


class FrugalTextLayer(Data2VecTextLayer):
    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        activation, wide = self.intermediate.intermediate_act_fn, self.intermediate.dense(attention_output)
        with made_again(activation, wide, enabled=not self.gradient_checkpointing) as activated:
            narrow = self.output.dense(activated)
        return self.output.LayerNorm(self.output.dropout(narrow) + attention_output)


FRUGAL = {Data2VecTextLayer: FrugalTextLayer}
