"""The encoders of data2vec 2.0: a modality's embeddings and positions in front of the encoder that all share."""

from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .attention import Alibi, alibi_slopes
from .configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig
from .embed_audio import AudioEmbeddings, ConvolutionalPositions
from .embed_image import ImageEmbeddings, SinCosPositions
from .embed_text import TextEmbeddings
from .encoder import Data2Vec2Encoder
from .initialization import SelfInitialized
from .masking import SpanMasking, mask_seeds
from .tokens import Tokens


logger = logging.get_logger(__name__)


class Data2Vec2PreTrainedModel(PreTrainedModel):
    """Initialisation, and what `transformers` asks of every class."""

    config: PreTrainedConfig
    base_model_prefix = "data2vec2"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True  # flash attention takes no position bias
    _no_split_modules = ["Data2Vec2Block"]
    # a checkpoint of pretraining opens as an encoder or with a head
    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^decoder\."]
    # `Trainer` would take the keyword arguments of a `forward` for a loss that it may pass counts to
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the original: N(0, initializer_range) for linear layers and embeddings; others say so themselves."""
        if isinstance(module, SelfInitialized):
            module.initialize()
        elif isinstance(module, SinCosPositions):
            init.copy_(module.table, module.make_table())
        elif isinstance(module, Alibi):
            init.ones_(module.scale)
            init.copy_(module.slopes, alibi_slopes(module.num_heads))
        elif isinstance(module, Data2Vec2Encoder) and module.extra_tokens is not None:
            init.normal_(module.extra_tokens)
            if module.config.first_extra_token_is_zero:
                tokens = module.extra_tokens  # (1, extra, dim)
                first = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(-1) == 0
                init.copy_(tokens, tokens.masked_fill(first, 0))
        else:
            super()._init_weights(module)


class EncoderOptions(TypedDict, total=False):
    """What every encoder, and every head on one, takes by name.

    Attributes:
        output_hidden_states: also return the input of the first block and the output of each.
        output_attentions: also return the attention of each block, which is computed as eager attention does.
    """

    output_hidden_states: bool | None
    output_attentions: bool | None


class Data2Vec2Model(Data2Vec2PreTrainedModel):
    """Embeddings, positions and encoder; a modality says which and names its inputs.

    `last_hidden_state` and `hidden_states` hold `config.num_extra_tokens` extra tokens in front of the others.
    """

    embeddings_class: type[nn.Module]  # inputs -> Tokens
    positions_class: type[nn.Module] | None = None  # Tokens -> what is added to them, (batch or 1, time, dim)
    encoder_class: type[Data2Vec2Encoder] = Data2Vec2Encoder
    shared_modules: tuple[str, ...] = ("encoder.layers",)  # what modalities of a joint model have in common
    _auto_class = "AutoModel"

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.embeddings = self.embeddings_class(config)
        self.positions = self.positions_class(config) if self.positions_class is not None else None
        self.encoder = self.encoder_class(config)
        self.post_init()

    def real_tokens(self, attention_mask: Tensor | None, time: int) -> Tensor | None:
        """The inputs' attention mask, 1 = real, as bool `(batch, time)` of tokens; `None` if there is none."""
        return None if attention_mask is None else attention_mask.bool()

    def embed(self, inputs: tuple[Any, ...], attention_mask: Tensor | None = None) -> Tokens:
        """What the embeddings make of their inputs, with the inputs' attention mask as `real`.

        Raises:
            ValueError: the mask has another shape than the inputs, which would be broadcast or cut unnoticed.
        """
        shape = next(values for values in inputs if values is not None).shape[:2]  # a stream may be absent
        if attention_mask is not None and attention_mask.shape != shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}: must be {tuple(shape)}, the first two axes "
                f"of {self.main_input_name}."
            )
        tokens: Tokens = self.embeddings(*inputs)
        real = self.real_tokens(attention_mask, tokens.values.shape[1])
        return tokens if real is None else tokens._replace(real=real)

    def _encode(
        self, tokens: Tokens, output_hidden_states: bool | None = None, output_attentions: bool | None = None
    ) -> BaseModelOutput:
        """Tokens of `(batch, time, dim)` -> `(batch, extra + time, dim)`."""
        output_attentions = _either(output_attentions, self.config.output_attentions)
        if output_attentions and self.config._attn_implementation != "eager":
            logger.warning_once(
                "output_attentions = True: attention is computed as with attn_implementation = 'eager', because "
                f"{self.config._attn_implementation!r} makes no attention matrix."
            )
        output = self.encoder(
            tokens.values,
            tokens.real,
            positions=None if self.positions is None else self.positions(tokens),
            output_hidden_states=_either(output_hidden_states, self.config.output_hidden_states),
            output_attentions=output_attentions,
        )
        return BaseModelOutput(output.last_hidden_state, output.hidden_states, output.attentions)


def _either(asked: bool | None, default: bool | None) -> bool:
    return bool(default if asked is None else asked)


class Data2Vec2AudioPreTrainedModel(Data2Vec2PreTrainedModel):
    """What all models of speech have, by the names of `transformers`' speech encoders."""

    config: Data2Vec2AudioConfig
    main_input_name = "input_values"
    input_modalities = "audio"

    def freeze_feature_encoder(self) -> None:
        """No gradient for the convolutional front end."""
        embeddings = self.base_model.embeddings
        for module in (embeddings.first_conv, embeddings.convs, embeddings.conv_norms):
            module.requires_grad_(False)

    def _get_feat_extract_output_lengths(self, input_lengths: Any, add_adapter: bool | None = None) -> Any:
        """Frames made of so many samples; there is no adapter."""
        return self.base_model.embeddings.num_frames(input_lengths)

    def _get_feature_vector_attention_mask(
        self, feature_vector_length: int, attention_mask: Tensor, add_adapter: bool | None = None
    ) -> Tensor:
        """Which of so many outputs are real frames; the extra tokens in front are none."""
        extra = self.config.num_extra_tokens
        frames = self.base_model.real_tokens(attention_mask, feature_vector_length - extra)  # (batch, frames)
        return nn.functional.pad(frames, (extra, 0), value=False)


class Data2Vec2AudioModel(Data2Vec2AudioPreTrainedModel, Data2Vec2Model):
    """data2vec 2.0 in speech (arXiv 2212.07525, section 4.2)."""

    embeddings_class = AudioEmbeddings
    embeddings: AudioEmbeddings
    positions_class = ConvolutionalPositions

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    def real_tokens(self, attention_mask: Tensor | None, time: int) -> Tensor | None:
        if attention_mask is None:
            return None
        frames = self.embeddings.num_frames(attention_mask.sum(-1))  # (batch,)
        return torch.arange(time, device=frames.device) < frames.unsqueeze(-1)

    def _spec_augment(self, tokens: Tokens) -> Tensor:
        """The tokens' values `(batch, time, dim)`, of which spans of frames and of channels are zero in training."""
        config, values = self.config, tokens.values
        if not self.training or not (config.mask_time_prob or config.mask_feature_prob):
            return values
        batch, time = values.shape[:2]
        lengths = None if tokens.real is None else tokens.real.sum(-1).cpu()
        for prob, length, size, limits, axis in (
            (config.mask_time_prob, config.mask_time_length, time, lengths, -1),
            (config.mask_feature_prob, config.mask_feature_length, config.hidden_size, None, 1),
        ):
            if prob:
                seeds = mask_seeds(int(torch.randint(2**31, ())), 0, range(batch), 1)
                spans = SpanMasking(prob=prob, length=length).sample((size,), seeds, limits).squeeze(1)
                values = values.masked_fill(spans.to(values.device).unsqueeze(axis), 0)
        return values

    @can_return_tuple
    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, **options: Unpack[EncoderOptions]
    ) -> BaseModelOutput:
        """
        Args:
            input_values: `(batch, samples)` float, 16 kHz, zero mean and unit variance per clip, zeros as padding.
            attention_mask: `(batch, samples)`, 1 = real; `None` if nothing is padded.
            options: see [`EncoderOptions`].
        """
        tokens = self.embed((input_values,), attention_mask)
        return self._encode(tokens._replace(values=self._spec_augment(tokens)), **options)


class Data2Vec2VisionModel(Data2Vec2Model):
    """data2vec 2.0 in vision (arXiv 2212.07525, section 4.1)."""

    config: Data2Vec2VisionConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    embeddings_class = ImageEmbeddings
    embeddings: ImageEmbeddings
    positions_class = SinCosPositions

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    @can_return_tuple
    def forward(self, pixel_values: Tensor, **options: Unpack[EncoderOptions]) -> BaseModelOutput:
        """
        Args:
            pixel_values: `(batch, channels, height, width)` float, normalised; any size of whole patches.
            options: see [`EncoderOptions`].
        """
        return self._encode(self.embed((pixel_values,)), **options)


class Data2Vec2TextModel(Data2Vec2Model):
    """data2vec 2.0 in language (arXiv 2212.07525, section 4.3)."""

    config: Data2Vec2TextConfig
    main_input_name = "input_ids"
    input_modalities = "text"
    embeddings_class = TextEmbeddings
    embeddings: TextEmbeddings

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> BaseModelOutput:
        """
        Args:
            input_ids: `(batch, tokens)` long.
            attention_mask: `(batch, tokens)`, 1 = real; `None` if nothing is padded.
            token_type_ids: not read, because data2vec has no embedding of segments; tokenizers like BERT's make them.
            inputs_embeds: `(batch, tokens, dim)` float, read instead of `input_ids` and their embeddings.
            options: see [`EncoderOptions`].

        Raises:
            ValueError: both or none of `input_ids` and `inputs_embeds`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either input_ids or inputs_embeds.")
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        return self._encode(self.embed((inputs, attention_mask), attention_mask), **options)
