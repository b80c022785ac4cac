"""Clouds as pictures: what is hidden is covered, and attention lies where it is given."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data2vec.model_cards.report.draw_points import GROUND, MARK, SIDE, TURN, PointsDrawing
from data2vec.model_cards.report.figures import COVER
from data2vec.model_cards.report.inputs import Masked
from data2vec.modeling import Point2VecModel
from tests.modeling.tiny_point2vec import points_config


@pytest.fixture(scope="module")
def inputs():
    encoder = Point2VecModel(points_config()).eval()
    return SimpleNamespace(modality=SimpleNamespace(groups=11), encoder=lambda: encoder)


def example(hidden=4, views=1):
    generator = torch.Generator().manual_seed(0)
    batch = {"point_values": torch.randn(1, 101, 3, generator=generator), "start": torch.tensor([7])}
    masked = np.tile(np.arange(11) < hidden, (views, 1))
    return Masked("cloud", batch, masked, views > 1)


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB")).astype(int)


def near(image, colour):
    """Pixels of a colour, up to what 256 colours make of it."""
    return np.abs(image - colour).max(-1) < 12


def test_a_cloud_is_looked_at_without_being_bent():
    np.testing.assert_allclose(TURN @ TURN.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(TURN) == pytest.approx(1)


def test_masks_cover_hidden_groups_alone(inputs):
    whole, view = PointsDrawing().masks(inputs, example(), "a")
    assert view.caption == "4 of 11 groups hidden (36 %)"
    assert pixels(whole).shape == (SIDE, SIDE, 3)
    assert not near(pixels(whole), COVER[0]).any()
    assert near(pixels(view), COVER[0]).sum() > 100
    same = ~near(pixels(view), COVER[0])
    assert np.abs(pixels(view) - pixels(whole))[same].max() < 16
    (_, nothing) = PointsDrawing().masks(inputs, example(hidden=0), "a")
    assert np.array_equal(pixels(nothing), pixels(whole))
    assert near(pixels(whole), GROUND).mean() > 0.5
    assert [f.caption[:6] for f in PointsDrawing().masks(inputs, example(views=2), "a")[1:]] == ["view 1", "view 2"]


def test_attention_is_drawn_on_the_groups_that_get_it(inputs):
    maps = [np.full((11, 11), 1 / 11) for _ in range(3)]
    found = {figure.name: figure for figure in PointsDrawing().attention(inputs, example(), maps, "a")}
    assert list(found) == ["a_features", "a_block1", "a_block2", "a_block3", "a_from_group"]
    assert near(pixels(found["a_from_group"]), MARK).sum() > 20
    assert found["a_block1"].caption.endswith("1.0 × the average")
    maps[0] = np.eye(11)[[3] * 11]  # everyone looks at one group
    shown = {figure.name: figure for figure in PointsDrawing().attention(inputs, example(), maps, "a")}
    assert shown["a_block1"].caption.endswith("11.0 × the average")
    assert not np.array_equal(pixels(shown["a_block1"]), pixels(found["a_block1"]))
    assert np.array_equal(pixels(shown["a_block2"]), pixels(found["a_block2"]))
