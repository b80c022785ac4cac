"""Point2Vec (arXiv 2303.16570): data2vec on point clouds, whose student does not see where hidden groups are."""

from typing import Unpack

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_point2vec import Point2VecConfig
from .embed_points import CoordinatePositions, PointEmbeddings
from .initialization import initialize_linear
from .modeling_data2vec2 import Data2Vec2Model, Data2Vec2PreTrainedModel, EncoderOptions
from .modeling_pretraining import Data2VecForPreTrainingOutput
from .modeling_student_teacher import Data2Vec2ForPreTraining
from .pretraining_step import PreTrainingOptions


class Point2VecPreTrainedModel(Data2Vec2PreTrainedModel):
    """What all models of point clouds have."""

    config: Point2VecConfig
    base_model_prefix = "point2vec"
    main_input_name = "point_values"
    sync_batch_norm = True  # over all devices, as in the original

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the original: linear layers start as torch has them."""
        if type(module) is nn.Linear:
            initialize_linear(module.weight, module.bias)
        else:
            super()._init_weights(module)


class Point2VecModel(Point2VecPreTrainedModel, Data2Vec2Model):
    """The encoder."""

    embeddings_class = PointEmbeddings
    embeddings: PointEmbeddings
    positions_class = CoordinatePositions
    positions: CoordinatePositions

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.first

    def real_tokens(self, attention_mask: Tensor | None, time: int) -> Tensor | None:
        """None: groups are made of real points, so that all of them are real."""
        return None

    @can_return_tuple
    def forward(
        self,
        point_values: Tensor,
        attention_mask: Tensor | None = None,
        start: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> BaseModelOutput:
        """
        Args:
            point_values: `(batch, points, 3)` float, centred and in the unit sphere.
            attention_mask: `(batch, points)`, 1 = real; `None` if nothing is padded.
            start: `(batch,)` long, the point that is the first centre; the first real one if `None`.
            options: see [`EncoderOptions`].
        """
        return self._encode(self.embed((point_values, attention_mask, start)), **options)


class Point2VecForPreTraining(Point2VecPreTrainedModel, Data2Vec2ForPreTraining):
    """Student, teacher and decoder. The teacher averages blocks and final norm; positions are the student's."""

    base_class = Point2VecModel
    default_objective = Point2VecConfig.default_objective
    ema_scopes = Data2Vec2ForPreTraining.ema_scopes | {"blocks": ("encoder.",)}
    head_ratio = 1

    @can_return_tuple
    def forward(
        self,
        point_values: Tensor,
        attention_mask: Tensor | None = None,
        start: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            point_values, attention_mask, start: as in [`Point2VecModel`].
            masked: bool `(batch, groups)`, or `(batch, views, groups)` with `objective.views`, True = hidden from the
                student; sampled from the objective if `None`.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain((point_values, attention_mask, start), None, masked, **options)
