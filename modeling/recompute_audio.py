"""Convolutions of `transformers`' speech encoder that keep less for the gradient; see [`recompute.recompute_norm`].

In the plain layout (`set_channels_last(model, False)`) they are the stock ones, bit for bit.
"""

from torch import Tensor
from transformers.models.data2vec.modeling_data2vec_audio import (
    Data2VecAudioConvLayer,
    Data2VecAudioPositionalConvLayer,
)

from .conv import ChannelsLastConv1d
from .recompute import recompute_norm


class RecomputingConvLayer(Data2VecAudioConvLayer):
    """A layer of the front end: `(batch, channels, samples | frames)` on both sides."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not isinstance(self.conv, ChannelsLastConv1d):
            return super().forward(hidden_states)
        tokens = self.conv(hidden_states).transpose(1, 2)  # (batch, frames, channels)
        return recompute_norm(self.activation, self.layer_norm, tokens).transpose(1, 2)


class RecomputingPositionalConvLayer(Data2VecAudioPositionalConvLayer):
    """A layer of the positions: `(batch, dim, time)` on both sides."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not isinstance(self.conv, ChannelsLastConv1d):
            return super().forward(hidden_states)
        tokens = self.padding(self.conv(hidden_states)).transpose(1, 2)  # (batch, time, dim)
        return recompute_norm(self.activation, self.layer_norm, tokens).transpose(1, 2)


RECOMPUTING = {
    Data2VecAudioConvLayer: RecomputingConvLayer,
    Data2VecAudioPositionalConvLayer: RecomputingPositionalConvLayer,
}
