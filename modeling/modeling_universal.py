"""Encoders whose modalities have no front end of their own, for data2vec 2.0 alone and, sharing all of it, jointly.

An input is rows of a value and a position (Perceiver, arXiv 2103.03206), each of which is a token: one projection of
values, one of Fourier positions, and a learned code of the modality. There are no latents: tokens go to the blocks.
"""

from torch import nn

from .configuration_universal import (
    UniversalAudioConfig,
    UniversalPointsConfig,
    UniversalTextConfig,
    UniversalVisionConfig,
)
from .embed_universal import AudioRows, FourierPositions, ImageRows, PointRows, RowEmbeddings, TextRows
from .modeling_data2vec2 import Data2Vec2AudioModel, Data2Vec2Model, Data2Vec2TextModel, Data2Vec2VisionModel
from .modeling_data2vec2_pretraining import (
    Data2Vec2AudioForPreTraining,
    Data2Vec2TextForPreTraining,
    Data2Vec2VisionForPreTraining,
)
from .modeling_point2vec import Point2VecForPreTraining, Point2VecModel


class UniversalModel(Data2Vec2Model):
    """What all modalities have; in a joint model they share the projections, too."""

    embeddings: RowEmbeddings
    positions_class = FourierPositions
    positions: FourierPositions
    shared_modules = (*Data2Vec2Model.shared_modules, "embeddings.projection", "positions.mixer")

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    def freeze_feature_encoder(self) -> None:
        """No gradient for the projection of values."""
        self.embeddings.projection.requires_grad_(False)


class UniversalAudioModel(UniversalModel, Data2Vec2AudioModel):  # type: ignore[misc]
    """Speech, in chunks of samples."""

    config: UniversalAudioConfig
    embeddings_class = AudioRows  # type: ignore[assignment]


class UniversalVisionModel(UniversalModel, Data2Vec2VisionModel):  # type: ignore[misc]
    """Images, in patches."""

    config: UniversalVisionConfig
    embeddings_class = ImageRows  # type: ignore[assignment]


class UniversalTextModel(UniversalModel, Data2Vec2TextModel):  # type: ignore[misc]
    """Text, in bytes or other ids."""

    config: UniversalTextConfig
    embeddings_class = TextRows  # type: ignore[assignment]


class UniversalPointsModel(UniversalModel, Point2VecModel):  # type: ignore[misc]
    """Point clouds, in groups of points."""

    config: UniversalPointsConfig
    embeddings_class = PointRows  # type: ignore[assignment]


class UniversalAudioForPreTraining(Data2Vec2AudioForPreTraining):
    config: UniversalAudioConfig
    base_class = UniversalAudioModel


class UniversalVisionForPreTraining(Data2Vec2VisionForPreTraining):
    config: UniversalVisionConfig
    base_class = UniversalVisionModel


class UniversalTextForPreTraining(Data2Vec2TextForPreTraining):
    config: UniversalTextConfig
    base_class = UniversalTextModel


class UniversalPointsForPreTraining(Point2VecForPreTraining):
    config: UniversalPointsConfig
    base_class = UniversalPointsModel
