"""Pretraining with data2vec 2.0 in speech, vision and language (arXiv 2212.07525)."""

from typing import Unpack

from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from .configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig
from .modeling_data2vec2 import (
    Data2Vec2AudioModel,
    Data2Vec2AudioPreTrainedModel,
    Data2Vec2TextModel,
    Data2Vec2VisionModel,
)
from .modeling_pretraining import Data2VecForPreTrainingOutput
from .modeling_student_teacher import Data2Vec2ForPreTraining
from .pretraining_step import PreTrainingOptions


class Data2Vec2AudioForPreTraining(Data2Vec2AudioPreTrainedModel, Data2Vec2ForPreTraining):
    """data2vec 2.0 in speech (arXiv 2212.07525, section 4.2)."""

    base_class = Data2Vec2AudioModel
    default_objective = Data2Vec2AudioConfig.default_objective

    def num_frames(self, samples: int | Tensor) -> int | Tensor:
        """Frames that the front end makes of so many samples (320 samples per frame at the default strides)."""
        return self.base_model.embeddings.num_frames(samples)

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
            input_values: `(batch, samples)` float, 16 kHz, zero mean and unit variance per clip, zeros as padding.
            attention_mask: `(batch, samples)`, 1 = real; `None` if nothing is padded.
            masked: bool `(batch, views, time)`, True = hidden from the student; sampled from the objective if `None`.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain((input_values,), attention_mask, masked, **options)


class Data2Vec2VisionForPreTraining(Data2Vec2ForPreTraining):
    """data2vec 2.0 in vision (arXiv 2212.07525, section 4.1)."""

    config: Data2Vec2VisionConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    base_class = Data2Vec2VisionModel
    default_objective = Data2Vec2VisionConfig.default_objective

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            pixel_values: `(batch, channels, height, width)` float, normalised.
            masked: bool `(batch, views, patches)`, row-major over the patch grid, True = hidden from the student;
                sampled from the objective if `None`.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain((pixel_values,), None, masked, **options)


class Data2Vec2TextForPreTraining(Data2Vec2ForPreTraining):
    """data2vec 2.0 in language (arXiv 2212.07525, section 4.3). Hidden tokens are dropped: there is no mask token."""

    config: Data2Vec2TextConfig
    main_input_name = "input_ids"
    input_modalities = "text"
    base_class = Data2Vec2TextModel
    default_objective = Data2Vec2TextConfig.default_objective
    head_linear = nn.Linear

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            input_ids: `(batch, tokens)` long.
            attention_mask: `(batch, tokens)`, 1 = real; `None` if nothing is padded.
            masked: bool `(batch, views, tokens)`, True = hidden from the student; sampled from the objective among
                real tokens if `None`.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain((input_ids,), attention_mask, masked, **options)
