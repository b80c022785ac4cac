"""data2vec 1 in speech: `transformers`' Data2VecAudioModel as the student, with its teacher and head."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Data2VecAudioConfig, Data2VecAudioModel
from transformers.models.data2vec.modeling_data2vec_audio import (
    Data2VecAudioConvLayer,
    Data2VecAudioEncoderLayer,
    Data2VecAudioFeatureEncoder,
    Data2VecAudioPositionalConvEmbedding,
    Data2VecAudioPositionalConvLayer,
    Data2VecAudioPreTrainedModel,
)
from transformers.utils.generic import can_return_tuple

from .conv import ChannelsLastConv1d, set_channels_last
from .decoder import regression_head
from .deep_norm import FOLDED, alpha, start_deep_norm
from .ema import Teacher
from .encoder import draw_kept_layers
from .gather import scored_indices
from .modeling_pretraining import Data2VecForPreTrainingOutput, PreTrainingMixin
from .recompute import recompute_in, recompute_norm
from .targets import BlockFeatures, TopKAverage
from .tokens import Tokens
from .window import attention_mask_of


class RecomputingConvLayer(Data2VecAudioConvLayer):
    """A layer of the front end, `(batch, channels, samples | frames)` on both sides, that keeps less for the gradient.

    In the plain layout (`set_channels_last(model, False)`) it is the stock one, bit for bit.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not isinstance(self.conv, ChannelsLastConv1d):
            return super().forward(hidden_states)
        tokens = self.conv(hidden_states).transpose(1, 2)  # (batch, frames, channels)
        return recompute_norm(self.activation, self.layer_norm, tokens).transpose(1, 2)


class RecomputingPositionalConvLayer(Data2VecAudioPositionalConvLayer):
    """The same of the positions: `(batch, dim, time)` on both sides."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not isinstance(self.conv, ChannelsLastConv1d):
            return super().forward(hidden_states)
        tokens = self.padding(self.conv(hidden_states)).transpose(1, 2)  # (batch, time, dim)
        return recompute_norm(self.activation, self.layer_norm, tokens).transpose(1, 2)


class SamplesWithoutGradient(Data2VecAudioFeatureEncoder):
    """The front end, which takes a gradient of its samples only where recomputed layers need one to have their own.

    The stock one always does: nobody reads it, and `torch.compile` breaks its graph there.
    """

    def forward(self, input_values: Tensor) -> Tensor:
        """`(batch, samples)` -> `(batch, conv dim, frames)`."""
        hidden_states = input_values[:, None]
        if self._requires_grad and self.training and any(layer.gradient_checkpointing for layer in self.conv_layers):
            hidden_states.requires_grad = True
        for layer in self.conv_layers:
            hidden_states = layer(hidden_states)
        return hidden_states


RECOMPUTING: dict[type[nn.Module], type[nn.Module]] = {
    Data2VecAudioFeatureEncoder: SamplesWithoutGradient,
    Data2VecAudioConvLayer: RecomputingConvLayer,
    Data2VecAudioPositionalConvLayer: RecomputingPositionalConvLayer,
}


class PaddingIndependentPositions(Data2VecAudioPositionalConvEmbedding):
    """Stacked positional convolutions that all read padding as zeros.

    The stock encoder zeroes padded frames in front of the first convolution alone; the others then read what it wrote
    there, and it leaks into real frames. Padding is told by those zeros: no real frame is zero in every channel.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        return zero_padded_positions(self, hidden_states, (hidden_states == 0).all(-1))


def zero_padded_positions(positions: nn.Module, hidden: Tensor, padding: Tensor) -> Tensor:
    """`(batch, time, dim)` through the convolutions of `positions`; bool `padding` `(batch, time)` is zero in each."""
    padding = padding.unsqueeze(1)  # (batch, 1, time)
    hidden = hidden.transpose(1, 2).masked_fill(padding, 0)  # (batch, dim, time)
    for layer in positions.layers:
        hidden = layer(hidden).masked_fill(padding, 0)
    return hidden.transpose(1, 2)


def make_padding_independent(model: nn.Module) -> nn.Module:
    """Make the outputs of a stock data2vec 1 speech model at real frames independent of padding, in place.

    For `Data2VecAudioModel` and every model with a head on it, in training and inference, with an `attention_mask`
    that says what is padded. Weights, their names and the output of clips without padding stay the same. It is the
    path that [`Data2VecAudioForPreTraining`] and its `base_model` take unless `objective.original_padding` is set. A
    saved folder does not remember it: call it again after loading.

    Returns:
        `model`.

    Raises:
        ValueError: `model` holds no data2vec 1 speech encoder, or one with an adapter, which convolves over padding.
    """
    encoders = [module for module in model.modules() if isinstance(module, Data2VecAudioModel)]
    if not encoders:
        raise ValueError(f"{type(model).__name__} holds no Data2VecAudioModel: only its outputs depend on padding.")
    for encoder in encoders:
        if encoder.adapter is not None:
            raise ValueError("add_adapter = True: the adapter's convolutions read padding; use an encoder without.")
        encoder.encoder.pos_conv_embed.__class__ = PaddingIndependentPositions
    return model


class Data2VecAudioTeacherLayer(Data2VecAudioEncoderLayer):
    """A block that returns its four features."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> BlockFeatures:
        attention = self.dropout(self.attention(hidden_states, attention_mask=attention_mask)[0])
        hidden_states = self.layer_norm(hidden_states + attention)
        ffn = self.feed_forward(hidden_states)
        residual = hidden_states + ffn
        return BlockFeatures(attention, ffn, residual, self.final_layer_norm(residual))


class Data2VecAudioTeacherEncoder(nn.Module):
    """Positions and blocks, parameters named as in the student's."""

    def __init__(self, config: Data2VecAudioConfig):
        super().__init__()
        self.pos_conv_embed = Data2VecAudioPositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([Data2VecAudioTeacherLayer(config) for _ in range(config.num_hidden_layers)])


class Data2VecAudioTeacher(Teacher):
    def __init__(self, config: Data2VecAudioConfig):
        super().__init__()
        self.encoder = Data2VecAudioTeacherEncoder(config)


class Data2VecAudioForPreTraining(PreTrainingMixin, Data2VecAudioPreTrainedModel):
    """Student, teacher and head of data2vec 1 in speech (arXiv 2202.03555, section 4.2).

    One pass of the convolutional front end feeds both. The teacher averages the blocks and the encoder's layer norm;
    its positional convolutions are copied from the student (`ema_scope="blocks"`, LibriSpeech) or averaged as well
    (`"encoder"`, AudioSet). What `save_encoder` writes opens in stock `transformers`.

    `config.deep_norm` (default False) trains with DeepNorm (AudioSet, section 5.2), folded into the weights: see
    [`deep_norm`]. It changes how blocks start and what their optimizer does, not what they compute.

    Raises:
        ValueError: `config.objective` is invalid, `config.deep_norm` is no bool, or `config.mask_time_prob` and
            `mask_feature_prob` are both 0 (the encoder then has no mask embedding).
    """

    default_objective = {
        "masking": {"method": "span", "prob": 0.65, "length": 10},
        "top_k_layers": 8,
        "target_layer_norm": "instance",
        "ema_decay": 0.999,
        "ema_end_decay": 0.9999,
        "ema_anneal_steps": 30_000,
    }
    config_fields = ("deep_norm",)
    ema_scopes = {"blocks": ("encoder.layers.", "encoder.layer_norm."), "encoder": ("encoder.",)}
    teacher: Data2VecAudioTeacher
    _no_split_modules = ["Data2VecAudioEncoderLayer", "Data2VecAudioTeacherLayer"]

    def __init__(self, config: Data2VecAudioConfig):
        super().__init__(config)
        if config.mask_time_prob == 0 and config.mask_feature_prob == 0:
            raise ValueError(
                "mask_time_prob = 0 and mask_feature_prob = 0 leave the encoder without the mask embedding that "
                "pretraining needs: set mask_time_prob above 0 (it is used in fine-tuning only)."
            )
        if not isinstance(getattr(config, "deep_norm", False), bool):
            raise ValueError(f"deep_norm = {config.deep_norm!r}: must be true or false.")
        self.init_objective()
        self.data2vec_audio = Data2VecAudioModel(config)
        if not self.objective.original_padding and self.data2vec_audio.adapter is None:
            make_padding_independent(self.data2vec_audio)  # for those who call the encoder alone, as probes do
        self.head = regression_head(config.hidden_size, self.objective.head_layers)
        self.teacher = Data2VecAudioTeacher(config)
        set_channels_last(self, True)
        recompute_in(self, RECOMPUTING)
        self.post_init()
        self.post_init_teacher()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.uses_deep_norm:
            start_deep_norm(self.data2vec_audio.encoder.layers, self.config.num_hidden_layers)

    @property
    def uses_deep_norm(self) -> bool:
        return getattr(self.config, "deep_norm", False)

    def rate_factor(self, name: str) -> float:
        folded = self.uses_deep_norm and any(part in name for part in FOLDED)
        return 1 / alpha(self.config.num_hidden_layers) if folded else 1.0

    def get_input_embeddings(self) -> nn.Module:
        return self.data2vec_audio.feature_projection.projection

    def num_frames(self, samples: int | torch.LongTensor) -> int | Tensor:
        """Frames that the front end makes of so many samples (320 samples per frame at the default strides)."""
        return self._get_feat_extract_output_lengths(samples, add_adapter=False)

    def _add_positions(self, hidden: Tensor, real: Tensor | None, pos_conv_embed: Any) -> Tensor:
        """Add the output of the stacked convolutions to frames, of which the padded ones become zero."""
        if real is not None:
            hidden = hidden.masked_fill(~real.unsqueeze(-1), 0)
        if real is None or self.objective.original_padding:
            return hidden + Data2VecAudioPositionalConvEmbedding.forward(pos_conv_embed, hidden)
        return hidden + zero_padded_positions(pos_conv_embed, hidden, ~real)

    def _student_blocks(self, hidden: Tensor, attention_mask: Any, kept_layers: list[bool] | None) -> Tensor:
        layers = self.data2vec_audio.encoder.layers
        kept_layers = draw_kept_layers(kept_layers, len(layers), self.config.layerdrop if self.training else 0.0)
        for layer, kept in zip(layers, kept_layers, strict=True):
            if kept:
                hidden = layer(hidden, attention_mask=attention_mask)
        return hidden

    def _add_targets(self, targets: TopKAverage, features: Tensor, real: Tensor | None) -> TopKAverage:
        teacher = self.teacher.encoder
        hidden = self._add_positions(features.to(teacher.layer_norm.weight.dtype), real, teacher.pos_conv_embed)
        hidden = teacher.layer_norm(hidden)
        mask = attention_mask_of(self.config, hidden, real, self.objective.teacher_window)
        return self.add_targets(targets, teacher.layers, hidden, attention_mask=mask)

    @torch.no_grad()
    def make_targets(self, inputs: tuple[Any, ...], tokens: Tokens, keep_layers: bool) -> TopKAverage:
        return self._add_targets(self.targets(tokens.real, keep_layers), tokens.values.detach(), tokens.real)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: torch.LongTensor | None = None,
        masked: Tensor | None = None,
        kept_layers: list[bool] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_teacher_layers: bool = False,
        mask_counts: tuple[int, int, int] | None = None,
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            input_values: `(batch, samples)` float, 16 kHz, zero mean and unit variance per clip, zeros as padding.
            attention_mask: `(batch, samples)`, 1 = real; `None` if nothing is padded.
            masked: bool `(batch, time)`, True = hidden from the student; sampled from the objective if `None`.
            kept_layers: one bool a block, False = dropped (LayerDrop); drawn with `config.layerdrop` if `None`.
            num_items_in_batch: masked positions of the whole effective batch, which divides the loss.
            output_teacher_layers: also return the taps of all blocks.
            mask_counts: [`gather.MaskCounts`] of `masked`, so that nothing waits for the device.
        """
        encoder = self.data2vec_audio
        features = encoder.feature_extractor(input_values).transpose(1, 2)  # (batch, time, conv dim)
        real = None
        if attention_mask is not None:
            real = self._get_feature_vector_attention_mask(features.shape[1], attention_mask, add_adapter=False)
        if masked is None:
            lengths = None if real is None else real.sum(1)
            masked = self.sample_masked((features.shape[1],), len(features), lengths).to(features.device)

        projection = encoder.feature_projection
        features = projection.projection(projection.layer_norm(features))  # (batch, time, dim)
        tokens = Tokens(features, (features.shape[1],), real)
        targets = self.make_targets((input_values,), tokens, output_teacher_layers)

        hidden = projection.dropout(features)
        hidden = torch.where(masked.unsqueeze(-1), encoder.masked_spec_embed.to(hidden.dtype), hidden)
        hidden = self._add_positions(hidden, real, encoder.encoder.pos_conv_embed)
        hidden = encoder.encoder.dropout(encoder.encoder.layer_norm(hidden))
        block_mask = attention_mask_of(self.config, hidden, real)
        hidden = self._student_blocks(hidden, block_mask, kept_layers)  # (batch, time, dim)

        indices = scored_indices(masked, mask_counts)
        predictions = self.head(hidden.flatten(0, 1).index_select(0, indices))  # (masked positions, dim)
        all_targets = targets.result()
        terms = [self.regression_term(predictions, all_targets, masked, indices)]
        output = self.compare(terms, all_targets, masked, tokens, num_items_in_batch)
        output.last_hidden_state = hidden
        output.teacher_layers = targets.layers
        return output
