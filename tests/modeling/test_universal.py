"""Encoders without front ends: what a row is, where it is, and what a joint model shares of it."""

import math

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from data2vec.modeling import (
    JointConfig,
    JointForPreTraining,
    UniversalAudioModel,
    UniversalPointsModel,
    UniversalTextModel,
    UniversalVisionModel,
)
from data2vec.modeling.configuration_joint import own_fields
from tests.modeling.tiny_data2vec2 import same
from tests.modeling.tiny_joint import SCHEDULE
from tests.modeling.tiny_universal import MODELS, config_of, inputs


PRETRAINING = [model_class for model_class in MODELS if "ForPreTraining" in model_class.__name__]
EACH = pytest.mark.parametrize("model_class", PRETRAINING, ids=lambda c: c.__name__)


def build(model_class, **fields):
    torch.manual_seed(0)
    return model_class(config_of(model_class, **fields)).eval()


def rows_of(kind, batch, model):
    """What a row of each modality holds, written out."""
    if kind == "audio":
        values = batch["input_values"]
        return torch.stack([values[:, i : i + 11] for i in range(0, values.shape[1] - 10, 11)], dim=1)
    if kind == "vision":
        images = batch["pixel_values"]
        patches = [images[:, :, i : i + 4, j : j + 4].flatten(1) for i in range(0, 12, 4) for j in range(0, 20, 4)]
        return torch.stack(patches, dim=1)
    if kind == "text":
        return torch.nn.functional.one_hot(batch["input_ids"], 37).float()
    points, centers = batch["point_values"], model.embed((batch["point_values"],)).coordinates
    nearest = torch.cdist(centers, points).topk(5, largest=False).indices  # (batch, groups, 5)
    picked = points[torch.arange(3).view(3, 1, 1), nearest]
    return (picked - centers.unsqueeze(2)).flatten(2)


@pytest.mark.parametrize(
    "model_class", [UniversalAudioModel, UniversalVisionModel, UniversalTextModel, UniversalPointsModel]
)
def test_a_token_is_a_row_through_one_matrix(model_class):
    """Values filled up with zeros, and the sines and cosines of a position on three axes."""
    model, kind = build(model_class), MODELS[model_class]
    batch = inputs(kind)
    tokens = model.embed(tuple(batch.values()))
    rows = rows_of(kind, batch, model)
    filled = torch.cat((rows, torch.zeros(*rows.shape[:2], 53 - rows.shape[2])), dim=-1)
    same(tokens.values, model.embeddings.projection(filled) + model.embeddings.code.weight)

    if tokens.coordinates is None:
        places = torch.cartesian_prod(*(torch.arange(size) for size in tokens.grid)).view(-1, len(tokens.grid))
        where = (places / 32 - 1).unsqueeze(0)
    else:
        where = tokens.coordinates
    where = torch.cat((where, torch.zeros(*where.shape[:2], 3 - where.shape[2])), dim=-1)
    bands = torch.linspace(1, 32, 5)
    angles = torch.cat([where[..., axis : axis + 1] * bands * math.pi for axis in range(3)], dim=-1)
    features = torch.cat((where, angles.sin(), angles.cos()), dim=-1)
    same(model.positions(tokens), model.positions.mixer(features), 1e-4)


def test_neighbours_have_opposite_signs_at_the_highest_frequency():
    model = build(UniversalTextModel)
    tokens = model.embed((inputs("text")["input_ids"],))
    with torch.no_grad():
        model.positions.mixer.weight.zero_()
        model.positions.mixer.bias.zero_()
        model.positions.mixer.weight[0, 3 + 15 + 4] = 1.0  # the cosine of the first axis
    same(model.positions(tokens)[0, :, 0], torch.tensor([1.0, -1.0]).repeat(10)[:19], 1e-4)


@EACH
def test_defaults_are_those_of_the_specialised_encoder(model_class):
    """Where there is nothing else to say: blocks, dropout, extra tokens and the objective."""
    own, specialised = model_class.config_class, model_class.__mro__[1].base_class.config_class
    names = ("num_extra_tokens", "hidden_dropout", "layer_norm_eps", "layer_norm_first", "drop_path_rate")
    assert [getattr(own(), name) for name in names] == [getattr(specialised(), name) for name in names]
    assert own().objective == specialised().objective and not own.use_alibi


@EACH
def test_it_trains_and_opens(model_class, tmp_path):
    model = build(model_class)
    torch.manual_seed(2)
    loss = model.train()(**inputs(MODELS[model_class], padded=MODELS[model_class] != "vision")).loss
    loss.backward()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert loss.isfinite() and learning == with_gradient
    model.save_encoder(tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder) is model_class.base_class and not any(info.values())
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is model_class


def test_padding_changes_nothing():
    model = build(UniversalAudioModel)
    padded = inputs("audio", padded=True)  # the second row has 229 of 313 samples, 20 of 28 chunks
    both = model(**padded).last_hidden_state
    alone = model(padded["input_values"][1:2, :220]).last_hidden_state
    same(both[1:2, : alone.shape[1]], alone)


def test_a_joint_model_shares_all_but_the_codes():
    modalities = {MODELS[model_class]: own_fields(config_of(model_class)) for model_class in PRETRAINING}
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 40}
    model = JointForPreTraining(JointConfig(**sizes, modalities=modalities, objective=SCHEDULE))
    encoders = model.joint.encoders.values()
    assert len({id(encoder.embeddings.projection) for encoder in encoders}) == 1
    assert len({id(encoder.positions.mixer) for encoder in encoders}) == 1
    assert len({id(encoder.embeddings.code) for encoder in encoders}) == 4
    assert set(model.joint.trunk) == {"layers", "projection", "mixer"}
    embedded = {name for name in model.joint.state_dict() if "embeddings" in name}
    assert embedded == {f"encoders.{name}.embeddings.code.weight" for name in modalities}
    before = model.teacher.trunk["mixer"].weight.clone()
    with torch.no_grad():
        model.joint.trunk["mixer"].weight.add_(1.0)
    model.update_teacher(0.75)
    same(model.teacher.trunk["mixer"].weight, before + 0.25)


@pytest.mark.parametrize(
    ("model_class", "fields", "message"),
    [
        (UniversalTextModel, {"row_size": 36}, "row_size = 36: must be as large as what a row"),
        (UniversalAudioModel, {"conv_stride": (5,)}, "conv_kernel"),
        (UniversalVisionModel, {"num_frequencies": 0}, "num_frequencies = 0"),
    ],
)
def test_what_is_refused(model_class, fields, message):
    with pytest.raises(Exception, match=message):
        build(model_class, **fields)
    with pytest.raises(ValueError, match=r"input_values has shape \(3, 5\): pass"):
        build(UniversalAudioModel)(torch.zeros(3, 5))
