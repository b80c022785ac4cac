"""MedCoSS (arXiv 2311.17597): reports, images and volumes on one trunk, pretrained one after the other.

A modality is reconstructed from what is left of it (`objective.target` "input": MAE, masked words) while it is new,
and later kept by distillation from the frozen model of the stage before ("same_view"). The encoder has no norm at its
end.

In two things this is not the original's code: its teacher is in eval mode, and its causal attention, where it is asked
for, hides the padding of the right sample.
"""

from typing import Any, Unpack

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration_medcoss import MedCossImageConfig, MedCossPatchConfig, MedCossTextConfig, MedCossVolumeConfig
from .configuration_objective import ObjectiveConfig
from .embed_medcoss import MedCossPatchEmbeddings, MedCossTextEmbeddings
from .heads import Data2Vec2TextForSequenceClassification, Data2Vec2VisionForImageClassification
from .modeling_data2vec2 import Data2Vec2Model, Data2Vec2TextModel, EncoderOptions
from .modeling_pretraining import Data2VecForPreTrainingOutput
from .modeling_student_teacher import Data2Vec2ForPreTraining
from .pretraining_step import PreTrainingOptions


class MedCossTextModel(Data2Vec2TextModel):
    """The encoder of reports."""

    config: MedCossTextConfig  # type: ignore[assignment]
    embeddings_class: Any = MedCossTextEmbeddings


class MedCossImageModel(Data2Vec2Model):
    """The encoder of images; `last_hidden_state` holds the class token, then the patches."""

    config: MedCossImageConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    embeddings_class = MedCossPatchEmbeddings
    embeddings: MedCossPatchEmbeddings

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embeddings.projection

    @can_return_tuple
    def forward(self, pixel_values: Tensor, **options: Unpack[EncoderOptions]) -> BaseModelOutput:
        """
        Args:
            pixel_values: `(batch, channels, height, width)` float, normalised.
            options: see [`EncoderOptions`].
        """
        return self._encode(self.embed((pixel_values,)), **options)


class MedCossVolumeModel(Data2Vec2Model):
    """The encoder of volumes; `last_hidden_state` holds the class token, then the patches."""

    config: MedCossVolumeConfig
    main_input_name = "voxel_values"
    input_modalities = "image"
    embeddings_class = MedCossPatchEmbeddings
    embeddings: MedCossPatchEmbeddings

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embeddings.projection

    @can_return_tuple
    def forward(self, voxel_values: Tensor, **options: Unpack[EncoderOptions]) -> BaseModelOutput:
        """
        Args:
            voxel_values: `(batch, channels, depth, height, width)` float, normalised.
            options: see [`EncoderOptions`].
        """
        return self._encode(self.embed((voxel_values,)), **options)


class MedCossTextForPreTraining(Data2Vec2ForPreTraining):
    """Masked words, read in place as the mask token's own embedding."""

    config: MedCossTextConfig
    main_input_name = "input_ids"
    input_modalities = "text"
    base_class = MedCossTextModel
    default_objective = MedCossTextConfig.default_objective
    chooses_masks = False  # ids are replaced before they are embedded
    head_linear = torch.nn.Linear

    @classmethod
    def check_objective(cls, config: MedCossTextConfig, objective: ObjectiveConfig) -> None:
        super().check_objective(config, objective)
        if objective.drops_hidden or objective.decoder is None or objective.views is not None:
            raise ValueError(
                "objective.decoder must be {method: token} and objective.views null with model type "
                f"{config.model_type!r}, which hides tokens behind its mask token."
            )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        student_input_ids: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            input_ids: `(batch, tokens)` long, the ids that are to be predicted.
            attention_mask: `(batch, tokens)`, 1 = real; `None` if nothing is padded.
            student_input_ids: `(batch, tokens)` long, `input_ids` of which some are replaced by random ones.
            masked: bool `(batch, tokens)`, True = replaced by the mask token; sampled from the objective if `None`.
            options: see [`PreTrainingOptions`].
        """
        real = None if attention_mask is None else attention_mask.bool()
        if masked is None:
            masked = self.sample_masked(input_ids.shape[1:], len(input_ids), maskable=real).to(input_ids.device)
        read = (input_ids if student_input_ids is None else student_input_ids).masked_fill(
            masked, self.config.mask_token_id
        )
        if options.get("scored") is None:
            counted = None if self.objective.original_padding else real
            options["scored"] = self.objective.scored_positions(masked, counted)
        # nothing is taken from the student: what is hidden stands in its ids
        inputs, nothing = (read, attention_mask, input_ids), torch.zeros_like(masked)
        output = self._pretrain(inputs, attention_mask, nothing, **options)
        output.masked = masked
        return output


class MedCossPatchForPreTraining(Data2Vec2ForPreTraining):
    """Masked patches, reconstructed by a decoder that reads the class token too."""

    config: MedCossPatchConfig

    def _pretrain_patches(
        self, values: Tensor, masked: Tensor | None, temporal_ids: Tensor | None, options: PreTrainingOptions
    ) -> Data2VecForPreTrainingOutput:
        """In training every sample gets a temporal position, the same for student and teacher."""
        if temporal_ids is None and self.training:
            temporal_ids = torch.randint(self.config.num_temporal_positions, (len(values),), device=values.device)
        return self._pretrain((values, temporal_ids), None, masked, **options)


class MedCossImageForPreTraining(MedCossPatchForPreTraining):
    """Masked patches of images."""

    config: MedCossImageConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    base_class = MedCossImageModel
    default_objective = MedCossPatchConfig.default_objective

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        masked: Tensor | None = None,
        temporal_ids: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            pixel_values: `(batch, channels, height, width)` float, normalised.
            masked: bool `(batch, patches)`, row by row, True = hidden; sampled from the objective if `None`.
            temporal_ids: `(batch,)` long, the temporal position of each sample; drawn in training, else 0.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain_patches(pixel_values, masked, temporal_ids, options)


class MedCossVolumeForPreTraining(MedCossPatchForPreTraining):
    """Masked patches of volumes."""

    config: MedCossVolumeConfig
    main_input_name = "voxel_values"
    input_modalities = "image"
    base_class = MedCossVolumeModel
    default_objective = MedCossPatchConfig.default_objective

    @can_return_tuple
    def forward(
        self,
        voxel_values: Tensor,
        masked: Tensor | None = None,
        temporal_ids: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            voxel_values: `(batch, channels, depth, height, width)` float, normalised.
            masked, temporal_ids, options: as in [`MedCossImageForPreTraining`], patches slice by slice.
        """
        return self._pretrain_patches(voxel_values, masked, temporal_ids, options)


class MedCossTextForSequenceClassification(Data2Vec2TextForSequenceClassification):
    """A label for a report, read off its first token."""

    config: MedCossTextConfig  # type: ignore[assignment]
    base_class = MedCossTextModel


class MedCossImageForImageClassification(Data2Vec2VisionForImageClassification):
    """A label for an image."""

    config: MedCossImageConfig  # type: ignore[assignment]
    base_class = MedCossImageModel


class MedCossVolumeForImageClassification(Data2Vec2VisionForImageClassification):
    """A label for a volume."""

    config: MedCossVolumeConfig  # type: ignore[assignment]
    main_input_name = "voxel_values"
    base_class = MedCossVolumeModel

    @can_return_tuple
    def forward(
        self, voxel_values: Tensor, labels: Tensor | None = None, **options: Unpack[EncoderOptions]
    ) -> ImageClassifierOutput:
        """`labels` `(batch,)` long, or see [`heads.classification_loss`]; the rest as in [`MedCossVolumeModel`]."""
        return super().forward(voxel_values, labels, **options)
