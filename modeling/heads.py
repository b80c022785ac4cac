"""data2vec 2.0 encoders with a task's head, as `transformers` has them for data2vec 1."""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    ImageClassifierOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from .configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig
from .modeling_data2vec2 import (
    Data2Vec2AudioModel,
    Data2Vec2AudioPreTrainedModel,
    Data2Vec2Model,
    Data2Vec2PreTrainedModel,
    Data2Vec2TextModel,
    Data2Vec2VisionModel,
    EncoderOptions,
)
from .ranges import require_indices
from .targets import mean_over_time


def classification_loss(
    logits: Tensor, labels: Tensor | None, config: PreTrainedConfig, label_smoothing: float = 0.0
) -> Tensor | None:
    """Mean loss of `(..., num_labels)` logits.

    `config.problem_type` says which: cross-entropy, in which labels of -100 do not count, squared error
    (`"regression"`) or binary cross-entropy (`"multi_label_classification"`). If it is not set, one label is
    regression, and labels that are not integers are multi-label.
    """
    if labels is None:
        return None
    kind = config.problem_type
    if kind == "regression" or (kind is None and config.num_labels == 1):
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
    if kind == "multi_label_classification" or (kind is None and labels.is_floating_point()):
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    require_indices("labels", labels, logits.shape[-1], ignored=-100)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=label_smoothing)


def ctc_loss(logits: Tensor, labels: Tensor | None, real: Tensor | None, config: PreTrainedConfig) -> Tensor | None:
    """Of `(batch, frames, vocabulary)` logits, of which bool `real` `(batch, frames)` count; -100 pads the labels.

    Raises:
        ValueError: a label outside the vocabulary.
    """
    if labels is None:
        return None
    if labels.numel() and labels.max() >= config.vocab_size:
        raise ValueError(f"labels holds {int(labels.max())}: vocab_size = {config.vocab_size} is too small.")
    said = labels >= 0
    frames = torch.ones_like(logits[..., 0], dtype=torch.bool) if real is None else real
    return F.ctc_loss(
        logits.log_softmax(-1, dtype=torch.float32).transpose(0, 1),
        labels[said],
        frames.sum(1),
        said.sum(1),
        blank=config.pad_token_id,
        reduction=config.ctc_loss_reduction,
        zero_infinity=config.ctc_zero_infinity,
    )


def label_layer(dim: int, config: PreTrainedConfig) -> nn.Linear:
    assert config.num_labels is not None  # a configuration always has labels
    return nn.Linear(dim, config.num_labels)


def head_dropout(config: PreTrainedConfig) -> nn.Dropout:
    return nn.Dropout(config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout)


class Data2Vec2AudioHead(Data2Vec2AudioPreTrainedModel):
    """An encoder of speech whose outputs a head reads, one frame after the other."""

    base_class: type[Data2Vec2AudioModel] = Data2Vec2AudioModel

    def __init__(self, config: Data2Vec2AudioConfig):
        super().__init__(config)
        self.data2vec2 = self.base_class(config)
        if config.use_weighted_layer_sum:
            blocks = config.num_prenet_layers + config.num_hidden_layers
            self.layer_weights = nn.Parameter(torch.zeros(blocks + 1))  # the first one's input counts as well

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Data2Vec2AudioHead) and self.config.use_weighted_layer_sum:
            init.zeros_(module.layer_weights)

    def _frames(
        self, input_values: Tensor, attention_mask: Tensor | None, options: EncoderOptions
    ) -> tuple[Tensor, Tensor | None, BaseModelOutput]:
        """Outputs without the extra tokens `(batch, frames, dim)`, which of them are real, and all that came out."""
        weighted, states_asked = self.config.use_weighted_layer_sum, options.get("output_hidden_states")
        if weighted:
            options = options | {"output_hidden_states": True}
        outputs = self.data2vec2(input_values, attention_mask, **options, return_dict=True)
        hidden = outputs.last_hidden_state
        if weighted:
            shares = self.layer_weights.softmax(0)
            hidden = torch.stack(outputs.hidden_states, dim=-1) @ shares
            if not (self.config.output_hidden_states if states_asked is None else states_asked):
                outputs.hidden_states = None
        hidden = hidden[:, self.config.num_extra_tokens :]  # (batch, frames, dim)
        return hidden, self.data2vec2.real_tokens(attention_mask, hidden.shape[1]), outputs


class Data2Vec2AudioForCTC(Data2Vec2AudioHead):
    """Speech recognition with connectionist temporal classification; `config.pad_token_id` is the blank."""

    _auto_class = "AutoModelForCTC"

    def __init__(self, config: Data2Vec2AudioConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> CausalLMOutput:
        """
        Args:
            input_values, attention_mask: as in [`Data2Vec2AudioModel`].
            labels: `(batch, characters)` long, -100 as padding; nothing was said in a row that holds no other.
            options: see [`EncoderOptions`].

        Raises:
            ValueError: a label outside the vocabulary.
        """
        hidden, real, outputs = self._frames(input_values, attention_mask, options)
        logits = self.lm_head(self.dropout(hidden))  # (batch, frames, vocabulary)
        loss = ctc_loss(logits, labels, real, self.config)
        return CausalLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class Data2Vec2AudioForSequenceClassification(Data2Vec2AudioHead):
    """A label for a clip: projection (if `config.classifier_proj_size`), mean over real frames, linear layer."""

    _auto_class = "AutoModelForAudioClassification"

    def __init__(self, config: Data2Vec2AudioConfig):
        super().__init__(config)
        size = config.classifier_proj_size
        self.projector = nn.Identity() if size is None else nn.Linear(config.hidden_size, size)
        self.classifier = label_layer(size or config.hidden_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> SequenceClassifierOutput:
        """`labels` `(batch,)` long, or see [`classification_loss`]; the rest as in [`Data2Vec2AudioModel`]."""
        hidden, real, outputs = self._frames(input_values, attention_mask, options)
        logits = self.classifier(mean_over_time(self.projector(hidden), real))  # (batch, labels)
        loss = classification_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class Data2Vec2AudioForAudioFrameClassification(Data2Vec2AudioHead):
    """A label for every frame."""

    _auto_class = "AutoModelForAudioFrameClassification"

    def __init__(self, config: Data2Vec2AudioConfig):
        super().__init__(config)
        self.classifier = label_layer(config.hidden_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> TokenClassifierOutput:
        """`labels` `(batch, frames)` long, -100 as padding, or `(batch, frames, labels)`: long one-hot, or float."""
        hidden, _, outputs = self._frames(input_values, attention_mask, options)
        logits = self.classifier(hidden)  # (batch, frames, labels)
        if labels is not None and labels.dim() == 3 and not labels.is_floating_point():
            labels = labels.argmax(-1)
        loss = classification_loss(logits, labels, self.config)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class Data2Vec2VisionForImageClassification(Data2Vec2PreTrainedModel):
    """A label for an image: the mean of its patches, or the last extra token, then norm and linear layer."""

    config: Data2Vec2VisionConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    base_class: type[Data2Vec2Model] = Data2Vec2VisionModel
    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: Data2Vec2VisionConfig):
        super().__init__(config)
        self.data2vec2 = self.base_class(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.dropout = head_dropout(config)
        self.classifier = label_layer(config.hidden_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> ImageClassifierOutput:
        """`labels` `(batch,)` long, or see [`classification_loss`]; the rest as in [`Data2Vec2VisionModel`]."""
        outputs = self.data2vec2(pixel_values, **options, return_dict=True)
        hidden, extra = outputs.last_hidden_state, self.config.num_extra_tokens
        pooled = hidden[:, extra:].mean(1) if self.config.use_mean_pooling else hidden[:, extra - 1]  # (batch, dim)
        logits = self.classifier(self.dropout(self.norm(pooled)))
        loss = classification_loss(logits, labels, self.config)
        return ImageClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class Data2Vec2TextHead(Data2Vec2PreTrainedModel):
    """An encoder of text whose outputs a head reads."""

    config: Data2Vec2TextConfig
    main_input_name = "input_ids"
    input_modalities = "text"
    base_class: type[Data2Vec2TextModel] = Data2Vec2TextModel

    def __init__(self, config: Data2Vec2TextConfig):
        super().__init__(config)
        self.data2vec2 = self.base_class(config)
        self.dropout = head_dropout(config)


class Data2Vec2TextForSequenceClassification(Data2Vec2TextHead):
    """A label for a text, read off its first token as in RoBERTa."""

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: Data2Vec2TextConfig):
        super().__init__(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = label_layer(config.hidden_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> SequenceClassifierOutput:
        """`labels` `(batch,)` long, or see [`classification_loss`]; the rest as in [`Data2Vec2TextModel`]."""
        outputs = self.data2vec2(input_ids, attention_mask, inputs_embeds=inputs_embeds, **options, return_dict=True)
        first = self.dropout(outputs.last_hidden_state[:, 0])  # (batch, dim)
        logits = self.classifier(self.dropout(torch.tanh(self.dense(first))))
        loss = classification_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class Data2Vec2TextForTokenClassification(Data2Vec2TextHead):
    """A label for every token."""

    _auto_class = "AutoModelForTokenClassification"

    def __init__(self, config: Data2Vec2TextConfig):
        super().__init__(config)
        self.classifier = label_layer(config.hidden_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> TokenClassifierOutput:
        """`labels` `(batch, tokens)` long, -100 where there is none; the rest as in [`Data2Vec2TextModel`]."""
        outputs = self.data2vec2(input_ids, attention_mask, inputs_embeds=inputs_embeds, **options, return_dict=True)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))  # (batch, tokens, labels)
        loss = classification_loss(logits, labels, self.config)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class Data2Vec2TextForQuestionAnswering(Data2Vec2TextHead):
    """Where in the text an answer starts and ends."""

    _auto_class = "AutoModelForQuestionAnswering"

    def __init__(self, config: Data2Vec2TextConfig):
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> QuestionAnsweringModelOutput:
        """`start_positions`, `end_positions` `(batch,)` or `(batch, 1)` long; one outside the text does not count."""
        outputs = self.data2vec2(input_ids, attention_mask, inputs_embeds=inputs_embeds, **options, return_dict=True)
        start, end = self.classifier(outputs.last_hidden_state).unbind(-1)  # (batch, tokens) each
        loss = None
        if start_positions is not None and end_positions is not None:
            tokens = start.shape[1]
            pairs = ((start, start_positions.flatten()), (end, end_positions.flatten()))
            parts = [F.cross_entropy(x, y.clamp(0, tokens), ignore_index=tokens) for x, y in pairs]
            loss = torch.stack(parts).mean()
        return QuestionAnsweringModelOutput(loss, start, end, outputs.hidden_states, outputs.attentions)
