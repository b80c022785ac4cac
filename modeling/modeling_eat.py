"""EAT, the Efficient Audio Transformer (arXiv 2401.03497): data2vec 2.0 on patches of log-mel spectrograms.

Without `attention_mask` padding is read as if it were sound, as in the original. With it padding changes nothing: it
is neither attended to nor hidden, scored or averaged. A row of patches that holds a real frame is real, and what
padding it holds is read in both cases. Frames that do not fill a row of patches are dropped.
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration_eat import EatConfig
from .embed_image import ImageEmbeddings, SinCosPositions
from .heads import classification_loss, head_dropout, label_layer
from .modeling_data2vec2 import Data2Vec2Model, Data2Vec2PreTrainedModel, EncoderOptions
from .modeling_pretraining import Data2VecForPreTrainingOutput
from .modeling_student_teacher import Data2Vec2ForPreTraining
from .pretraining_step import PreTrainingOptions
from .targets import mean_over_time
from .tokens import Tokens


class EatEmbeddings(ImageEmbeddings):
    """A spectrogram -> patches, all mel bins of a row of frames after each other."""

    def __init__(self, config: EatConfig):
        super().__init__(config)
        self.num_mel_bins = config.num_mel_bins

    def forward(self, input_values: Tensor) -> Tokens:
        """`(batch, frames, mel bins)` -> `(batch, patches, dim)` on a grid (time, frequency) in patches.

        Raises:
            ValueError: other axes, another number of mel bins, or fewer frames than a patch has.
        """
        shape, high = tuple(input_values.shape), self.patch_size[0]
        if len(shape) != 3 or shape[1] < high or shape[2] != self.num_mel_bins:
            raise ValueError(
                f"input_values has shape {shape}: pass (batch, frames, {self.num_mel_bins}), {high} frames or more."
            )
        return super().forward(input_values[:, : shape[1] // high * high].unsqueeze(1))


class EatPositions(SinCosPositions):
    """Fixed 2-D sine-cosine positions, counted from the start of a clip whatever its length."""

    def forward(self, tokens: Tokens) -> Tensor:
        """`(1, patches, dim)`, the same for all clips.

        Raises:
            ValueError: a clip has more rows of patches than there are positions.
        """
        (rows, columns), most = tokens.grid, self.grid[0]
        if rows > most:
            raise ValueError(
                f"a clip has {rows} rows of patches: max_position_embeddings = {most} is too small for it, set it to "
                f"{rows} or more (positions are computed, not learned), or cut the clip."
            )
        return self.table[:, : rows * columns].to(tokens.values.device, tokens.values.dtype)


class EatPreTrainedModel(Data2Vec2PreTrainedModel):
    """What all models of EAT have."""

    config: EatConfig
    base_model_prefix = "eat"
    main_input_name = "input_values"
    input_modalities = "audio"


class EatModel(EatPreTrainedModel, Data2Vec2Model):
    """The encoder; `last_hidden_state` holds the CLS token, then the patches."""

    embeddings_class = EatEmbeddings
    embeddings: EatEmbeddings
    positions_class = EatPositions

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    def real_tokens(self, attention_mask: Tensor | None, time: int) -> Tensor | None:
        """Bool `(batch, time)`: patches of rows that hold a real frame, of a mask of frames."""
        if attention_mask is None:
            return None
        frames, bins = self.embeddings.patch_size
        rows = (attention_mask.sum(-1) + frames - 1) // frames  # (batch,)
        tokens = rows * (self.config.num_mel_bins // bins)
        return torch.arange(time, device=tokens.device) < tokens.unsqueeze(-1)

    @can_return_tuple
    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, **options: Unpack[EncoderOptions]
    ) -> BaseModelOutput:
        """
        Args:
            input_values: `(batch, frames, mel bins)` float, as [`EatFeatureExtractor`] makes it.
            attention_mask: `(batch, frames)`, 1 = real; `None` reads every frame.
            options: see [`EncoderOptions`].
        """
        return self._encode(self.embed((input_values,), attention_mask), **options)


class EatForPreTraining(EatPreTrainedModel, Data2Vec2ForPreTraining):
    """Student, teacher and decoder: masked patches, and the CLS token for the clip (sections 3.2 and 3.3)."""

    base_class = EatModel
    default_objective = EatConfig.default_objective

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            input_values, attention_mask: as in [`EatModel`].
            masked: bool `(batch, views, patches)`, row-major over the grid (time, frequency), True = hidden from the
                student; sampled from the objective if `None`.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain((input_values,), attention_mask, masked, **options)


class EatForAudioClassification(EatPreTrainedModel):
    """Labels for a clip, one or several: `config.classifier_pooling`, norm and linear layer."""

    _auto_class = "AutoModelForAudioClassification"

    def __init__(self, config: EatConfig):
        super().__init__(config)
        self.eat = EatModel(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.classifier_norm_eps)
        self.dropout = head_dropout(config)
        self.classifier = label_layer(config.hidden_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> SequenceClassifierOutput:
        """`labels` `(batch,)` long, or see [`classification_loss`]; the rest as in [`EatModel`]."""
        outputs = self.eat(input_values, attention_mask, **options, return_dict=True)
        pooled = self.pooled(outputs.last_hidden_state, attention_mask)  # (batch, dim)
        logits = self.classifier(self.dropout(self.norm(pooled)))
        loss = classification_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)

    def pooled(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """`(batch, extra + patches, dim)` -> `(batch, dim)`."""
        extra = self.config.num_extra_tokens
        if self.config.classifier_pooling == "cls_token":
            return hidden[:, extra - 1]
        patches = hidden[:, extra:]
        real = self.eat.real_tokens(attention_mask, patches.shape[1])
        if self.config.classifier_pooling == "mean":
            return mean_over_time(patches, real)
        return linear_softmax(patches, real)


def linear_softmax(states: Tensor, real: Tensor | None = None) -> Tensor:
    """`(batch, time, dim)` -> `(batch, dim)`: what has the sigmoid `sum p^2 / sum p`, p the sigmoids over real steps.

    On a logarithmic scale and with the original's guards: 1e-6 in the second sum, at most 0, and 0 for what is not
    finite.
    """
    log_p = F.logsigmoid(states.float())
    if real is not None:
        log_p = log_p.masked_fill(~real.unsqueeze(-1), -torch.inf)
    log_pooled = torch.logsumexp(2 * log_p, dim=1) - torch.logsumexp(log_p + 1e-6, dim=1)
    log_pooled = log_pooled.clamp(max=0)
    logits = log_pooled - torch.log(-torch.expm1(log_pooled))
    return torch.nan_to_num(logits, nan=0, posinf=0, neginf=0).to(states.dtype)
