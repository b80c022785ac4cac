"""Encoders of point clouds as graphs, for any number of clouds and points."""

import pytest
import torch

from data2vec.model_cards.export.model import exportable, trace
from data2vec.modeling import Point2VecForPointCloudClassification, Point2VecModel
from tests.modeling.tiny_point2vec import points_config


@pytest.mark.parametrize(
    "model_class", [pytest.param(Point2VecModel, marks=pytest.mark.slow), Point2VecForPointCloudClassification]
)
def test_a_graph_takes_clouds_of_any_size(model_class):
    model = exportable(model_class(points_config()).eval())
    graph = trace(model).module()
    for shape in model.checked:
        inputs = model.example(shape, seed=1)
        torch.testing.assert_close(graph(*inputs.values()), model(**inputs), rtol=1e-5, atol=1e-6)
