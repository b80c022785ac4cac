"""SV-data2vec: video and skeleton of the same person (WACV 2025): encoder, pretraining and classifier."""

from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration_sv_data2vec import SvData2VecConfig
from .embed_video import VideoEmbeddings
from .heads import classification_loss, head_dropout, label_layer
from .modeling_data2vec2 import Data2Vec2PreTrainedModel, EncoderOptions
from .modeling_pretraining import Data2VecForPreTrainingOutput
from .positions import LearnedPositions
from .streams import MeanFusion, StreamEmbeddings, StreamsForPreTraining, StreamsModel, StreamsOptions
from .targets import mean_over_time


class SkeletonEmbeddings(nn.Module):
    """All joints of all persons in a frame -> a token."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.shape = (config.num_persons, config.num_joints, 2)
        self.projection = nn.Linear(config.num_persons * config.num_joints * 2, config.hidden_size)

    def forward(self, keypoint_values: Tensor) -> Tensor:
        """`(batch, frames, persons, joints, 2)` -> `(batch, frames, dim)`.

        Raises:
            ValueError: other axes, persons or joints.
        """
        if keypoint_values.dim() != 5 or tuple(keypoint_values.shape[2:]) != self.shape:
            persons, joints, _ = self.shape
            raise ValueError(
                f"keypoint_values has shape {tuple(keypoint_values.shape)}: pass (batch, frames, {persons} persons, "
                f"{joints} joints, 2)."
            )
        channels = keypoint_values.to(self.projection.weight.dtype).transpose(3, 4)  # x and y of a person, all joints
        return self.projection(channels.flatten(2))


class SvData2VecEmbeddings(StreamEmbeddings):
    video: VideoEmbeddings
    embedding_classes = (VideoEmbeddings, SkeletonEmbeddings)
    fusion_class = MeanFusion


class SvData2VecPreTrainedModel(Data2Vec2PreTrainedModel):
    config: SvData2VecConfig
    base_model_prefix = "sv_data2vec"
    main_input_name = "pixel_values"
    input_modalities = "video"


class SvData2VecModel(SvData2VecPreTrainedModel, StreamsModel):
    """The encoder of video, of skeletons, or of both."""

    embeddings_class = SvData2VecEmbeddings
    embeddings: SvData2VecEmbeddings
    positions_class = LearnedPositions

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.video.projection

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        keypoint_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        stream_mask: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> BaseModelOutput:
        """
        Args:
            pixel_values: `(batch, frames, channels, height, width)` float, normalised, zeros as padding.
            keypoint_values: `(batch, frames, persons, joints, 2)` float, pixels of the frame, zeros for a person
                who is not there and as padding. One of the two can be left out.
            attention_mask: `(batch, frames)`, 1 = real; `None` if nothing is padded.
            stream_mask: `(batch, 2)`, whether a sample has video and skeleton, 1 = yes; `None`: it has what is given.
            options: see [`EncoderOptions`].
        """
        return self._read((pixel_values, keypoint_values), attention_mask, stream_mask, options)


class SvData2VecForPreTraining(SvData2VecPreTrainedModel, StreamsForPreTraining):
    """The student sees a few frames and fewer skeletons; the teacher sees the skeletons alone, all of them."""

    base_class = SvData2VecModel
    default_objective = SvData2VecConfig.default_objective

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        keypoint_values: Tensor,
        attention_mask: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[StreamsOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            pixel_values, keypoint_values, attention_mask: as in [`SvData2VecModel`].
            masked: bool `(batch, frames)`, True = hidden from the student in both streams; sampled from the objective
                if `None`.
            options: see [`StreamsOptions`].
        """
        return self._pretrain_streams((pixel_values, keypoint_values), attention_mask, masked, **options)


class SvData2VecForVideoClassification(SvData2VecPreTrainedModel):
    """A label for a clip: dropout, mean over real frames, linear layer, batch norm, ReLU, linear layer."""

    _auto_class = "AutoModelForVideoClassification"

    def __init__(self, config: SvData2VecConfig):
        super().__init__(config)
        self.sv_data2vec = SvData2VecModel(config)
        self.dropout = head_dropout(config)
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.norm = nn.BatchNorm1d(config.classifier_proj_size)
        self.classifier = label_layer(config.classifier_proj_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        keypoint_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        stream_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> ImageClassifierOutput:
        """`labels` `(batch,)` long; the rest as in [`SvData2VecModel`]."""
        outputs = self.sv_data2vec(
            pixel_values, keypoint_values, attention_mask, stream_mask, **options, return_dict=True
        )
        real = None if attention_mask is None else attention_mask.bool()
        pooled = mean_over_time(self.dropout(outputs.last_hidden_state), real)  # (batch, dim)
        logits = self.classifier(F.relu(self.norm(self.projector(pooled))))
        loss = classification_loss(logits, labels, self.config, self.config.label_smoothing)
        return ImageClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)
