"""Series of vectors, (steps, channels), as a modality of data2vec 2.0: sensors, skeletons, any table over time.

Nothing of the encoder, the decoder, the objective or the teacher is here: only what turns the input into tokens.
"""

from typing import Any, ClassVar, Unpack

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from data2vec.modeling.configuration_data2vec2 import Data2Vec2Config
from data2vec.modeling.embed_audio import ConvolutionalPositions
from data2vec.modeling.initialization import DefaultLinear
from data2vec.modeling.modeling_data2vec2 import Data2Vec2Model, EncoderOptions
from data2vec.modeling.modeling_pretraining import Data2VecForPreTrainingOutput
from data2vec.modeling.modeling_student_teacher import Data2Vec2ForPreTraining
from data2vec.modeling.pretraining_step import PreTrainingOptions
from data2vec.modeling.tokens import Tokens


@strict
class SeriesConfig(Data2Vec2Config):
    """
    Args:
        num_channels (`int`): numbers in a step.
        patch_steps (`int`): steps that one token holds.
        num_conv_pos_embeddings, conv_pos_kernel_size, num_conv_pos_embedding_groups: as in speech.
    """

    model_type = "data2vec2-series"
    num_channels: int = 60
    patch_steps: int = 2
    num_conv_pos_embeddings: int = 2
    conv_pos_kernel_size: int = 5
    num_conv_pos_embedding_groups: int = 4

    use_alibi: ClassVar[bool] = True  # attention prefers near tokens, as in speech
    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "block", "prob": 0.5, "length": 3, "adjust": 0.05},
        "views": 4,
        "top_k_layers": 4,
        "decoder": {"dim": 32, "layers": 2, "kernel": 5, "groups": 4},
        "ema_decay": 0.99,
        "ema_end_decay": 0.999,
        "ema_anneal_steps": 200,
        "ema_scope": "encoder",
    }
    remote_classes: ClassVar[dict[str, str]] = {  # a saved folder carries this file, see custom code on the Hub
        "AutoConfig": "series_encoder.SeriesConfig",
        "AutoModel": "series_encoder.SeriesModel",
        "AutoModelForPreTraining": "series_encoder.SeriesForPreTraining",
    }

    def validate_series(self) -> None:
        if self.patch_steps < 1 or self.num_channels < 1:
            raise ValueError(
                f"patch_steps = {self.patch_steps} and num_channels = {self.num_channels}: use 1 or more of each."
            )


class SeriesEmbeddings(nn.Module):
    """Patches of steps -> tokens; steps that do not fill a patch at the end are dropped."""

    def __init__(self, config: SeriesConfig):
        super().__init__()
        self.patch_steps, self.channels = config.patch_steps, config.num_channels
        self.projection = DefaultLinear(self.patch_steps * self.channels, config.hidden_size)

    def patches(self, series_values: Tensor) -> Tensor:
        """`(batch, steps, channels)` -> `(batch, time, patch_steps * channels)`."""
        if series_values.dim() != 3 or series_values.shape[2] != self.channels:
            raise ValueError(
                f"series_values has shape {tuple(series_values.shape)}: pass (batch, steps, {self.channels})."
            )
        time = series_values.shape[1] // self.patch_steps
        return series_values[:, : time * self.patch_steps].reshape(series_values.shape[0], time, -1)

    def forward(self, series_values: Tensor) -> Tokens:
        patches = self.patches(series_values).to(self.projection.weight.dtype)
        return Tokens(self.projection(patches), grid=(patches.shape[1],))  # values (batch, time, dim)


class SeriesModel(Data2Vec2Model):
    """The encoder."""

    config: SeriesConfig
    main_input_name = "series_values"
    embeddings_class = SeriesEmbeddings
    positions_class = ConvolutionalPositions

    def real_tokens(self, attention_mask: Tensor | None, time: int) -> Tensor | None:
        """Patches of which every step is real: the mask of steps, 1 = real, as bool `(batch, time)`."""
        if attention_mask is None:
            return None
        tokens = attention_mask.sum(-1) // self.config.patch_steps  # (batch,)
        return torch.arange(time, device=tokens.device) < tokens.unsqueeze(-1)

    @can_return_tuple
    def forward(
        self, series_values: Tensor, attention_mask: Tensor | None = None, **options: Unpack[EncoderOptions]
    ) -> BaseModelOutput:
        """`(batch, steps, channels)` float, and which steps are real `(batch, steps)`."""
        return self._encode(self.embed((series_values,), attention_mask), **options)


class SeriesForPreTraining(Data2Vec2ForPreTraining):
    """Student, teacher and decoder."""

    config: SeriesConfig
    main_input_name = "series_values"
    base_class = SeriesModel
    default_objective = SeriesConfig.default_objective

    @can_return_tuple
    def forward(
        self,
        series_values: Tensor,
        attention_mask: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """As in the other modalities; `masked` is bool `(batch, views, time)`, True = hidden from the student."""
        return self._pretrain((series_values,), attention_mask, masked, **options)
