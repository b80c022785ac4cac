"""Point2Vec beside its parity: masks in space, a late teacher, padding, switches, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from data2vec.modeling import (
    ObjectiveConfig,
    Point2VecConfig,
    Point2VecForPartSegmentation,
    Point2VecForPointCloudClassification,
    Point2VecForPreTraining,
    Point2VecModel,
)
from data2vec.modeling.masking import NeighbourMasking, mask_seeds
from data2vec.modeling.targets import normalize
from data2vec.tests.reference import GOLDEN
from tests.modeling.tiny_point2vec import inputs, points_config


@pytest.fixture(scope="module")
def table():
    return load_file(GOLDEN / "point2vec_misc" / "misc.safetensors")


def objective(**fields):
    return ObjectiveConfig.from_dict(Point2VecConfig.default_objective | fields)


def built(model_class=Point2VecForPreTraining, **fields):
    torch.manual_seed(0)
    return model_class(points_config(**fields))


def test_the_published_recipe_has_the_published_size_and_hides_41_of_64():
    with torch.device("meta"):
        model = Point2VecForPreTraining(Point2VecConfig())
    trained = {n: p.numel() for n, p in model.named_parameters() if not n.startswith("teacher.")}
    sizes = [sum(v for n, v in trained.items() if n.startswith(part)) for part in ("", "point2vec.encoder", "decoder")]
    assert [round(size / 1e6, 1) for size in sizes] == [29.1, 21.3, 7.2]  # the decoder's 7.1, mask token and head
    masked = objective().draw_masks((64,), mask_seeds(0, 0, range(50), 1))
    assert masked.sum(1).unique().tolist() == [41]
    assert len({tuple(row) for row in masked.tolist()}) == 50


def test_the_teacher_starts_late_as_the_originals(table):
    numbers = objective(ema_decay=0.9, ema_end_decay=0.99, ema_anneal_steps=8)
    average = 0.0
    for update, expected in enumerate(table["ema.value"].tolist(), 1):
        decay = numbers.decay_at(update)
        average = decay * average + (1 - decay) * update  # the student is `update`
        assert average == pytest.approx(expected, abs=1e-6)  # stored in fp32
    assert objective(ema_delay=0).decay_at(1) > 0
    with pytest.raises(ValueError, match="ema_delay = -1"):
        objective(ema_delay=-1)


@pytest.mark.parametrize("after", [None, "layer", "instance", "batch", "group"])
@pytest.mark.parametrize("before", [None, "layer", "instance", "batch", "group"])
def test_targets_are_normalised_as_the_originals(table, before, after):
    layers = [normalize(table[f"target.in.{number}"], before) for number in (1, 3)]
    found = normalize(sum(layers) / 2, after)
    torch.testing.assert_close(found, table[f"target.out.{before}.{after}"], rtol=1e-5, atol=1e-5)


def test_neighbours_are_hidden_around_a_random_token():
    places = torch.randn(500, 13, 3, generator=torch.Generator().manual_seed(0))
    masking = NeighbourMasking(prob=0.4)
    seeds = mask_seeds(3, 0, range(500), 1)
    masked = masking.sample((13,), seeds, coordinates=places)[:, 0]
    assert masked.sum(1).unique().tolist() == [5]  # int(13 * 0.4), as the original counts
    centres = []
    for hidden, cloud in zip(masked.numpy(), places.double().numpy(), strict=True):
        distances = np.linalg.norm(cloud[:, None] - cloud[None], axis=-1)
        centres.append([i for i in range(13) if set(np.argsort(distances[i])[:5]) == set(np.flatnonzero(hidden))])
    assert all(centres)
    first = np.bincount([found[0] for found in centres if len(found) == 1], minlength=13)
    assert first.min() > 0  # any token may be the centre
    assert torch.equal(masked, masking.sample((13,), seeds, coordinates=places)[:, 0])
    assert torch.equal(masked[7:8], masking.sample((13,), seeds[7:8], coordinates=places[7:8])[:, 0])


def test_equally_near_neighbours_keep_the_count():
    places = torch.zeros(3, 7, 3)
    masked = NeighbourMasking(prob=0.5).sample((7,), mask_seeds(0, 0, range(3), 2), coordinates=places)
    assert masked.shape == (3, 2, 7)
    assert masked.sum(-1).unique().tolist() == [3]


def test_neighbours_need_coordinates():
    with pytest.raises(ValueError, match="needs tokens with coordinates"):
        NeighbourMasking(prob=0.5).sample((7,), mask_seeds(0, 0, range(3), 1))
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="prob"):
            NeighbourMasking(prob=wrong)


@pytest.mark.parametrize("masking", [{"method": "random", "prob": 0.6}, {"method": "neighbours", "prob": 0.6}])
@pytest.mark.parametrize("decoder", [True, False], ids=["dropped", "replaced"])
@pytest.mark.parametrize("views", [None, 2])
def test_every_way_of_pretraining_trains_every_weight(masking, decoder, views):
    config = points_config()
    config.objective |= {"masking": masking, "views": views}
    if not decoder:
        config.objective |= {"decoder": None, "head_layers": 2}
    model = Point2VecForPreTraining(config).train()
    out = model(**inputs("points"))
    assert out.masked.shape == ((3, 11) if views is None else (3, 2, 11))
    out.loss.backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not [n for n, p in model.teacher.named_parameters() if p.requires_grad]


def test_the_student_is_not_told_where_hidden_groups_are():
    """Their centres reach the encoder with a mask token in place, and not where they are dropped."""
    for decoder, told in ((points_config().objective["decoder"], False), (None, True)):
        config = points_config()
        config.objective |= {"decoder": decoder, "head_layers": 2}
        model = Point2VecForPreTraining(config).eval()
        masked = torch.arange(11).expand(3, -1) > 4
        states = []
        for moved in (0.0, 0.5):
            tokens = model.point2vec.embed((inputs("points")["point_values"], None, None))
            tokens = tokens._replace(coordinates=tokens.coordinates + moved * masked.unsqueeze(-1))
            view = model.student_view(model._view(tokens, masked, None, None))
            seen = view.last_hidden_state if decoder else view.last_hidden_state[:, :5]
            states.append(seen)
        assert torch.equal(*states) != told


def test_teacher_averages_blocks_and_norm_and_copies_positions():
    model = built()
    before = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    with torch.no_grad():
        for weight in model.point2vec.parameters():
            weight.add_(1.0)
    model.update_teacher(0.75)
    for name, tensor in model.teacher.state_dict().items():
        assert torch.allclose(tensor, before[name] + (1.0 if name.startswith("positions.") else 0.25)), name
    assert any(name.startswith("encoder.final_norm") for name in before)
    assert not any(name.startswith("embeddings.") for name in before)


@pytest.mark.parametrize("model_class", [Point2VecModel, Point2VecForPointCloudClassification])
def test_padding_changes_nothing(model_class):
    model, batch = built(model_class).eval(), inputs("points", padded=True)
    padded = model(**batch)[0]
    alone = model(batch["point_values"][1:2, :29])[0]
    torch.testing.assert_close(padded[1:2], alone, rtol=1e-5, atol=1e-6)


def test_padded_points_have_no_part_and_count_in_no_norm():
    model, batch = built(Point2VecForPartSegmentation), inputs("parts", padded=True)
    labels = torch.randint(2, (3, 37), generator=torch.Generator().manual_seed(2))
    model.train()
    padded = model(**batch, labels=labels)
    assert not padded.logits[1, 29:].any()
    changed = labels.clone()
    changed[1, 29:] = 1 - changed[1, 29:]
    assert torch.equal(model(**batch, labels=changed).loss, padded.loss)
    further = batch | {"point_values": batch["point_values"].clone()}
    further["point_values"][1, 29:] = 9.0
    torch.testing.assert_close(model(**further, labels=labels).loss, padded.loss)
    alone = model.eval()(batch["point_values"][1:2, :29], batch["categories"][1:2]).logits
    torch.testing.assert_close(model(**batch).logits[1:2, :29], alone, rtol=1e-5, atol=1e-5)


def test_start_is_the_first_centre():
    model, values = built(Point2VecModel).eval(), inputs("points")["point_values"]
    start = torch.tensor([5, 0, 36])
    tokens = model.embed((values, None, start))
    assert torch.equal(tokens.coordinates[:, 0], values[range(3), start])
    assert torch.equal(model(values)[0], model(values, start=torch.zeros(3, dtype=torch.long))[0])
    assert not torch.allclose(model(values)[0][0], model(values, start=start)[0][0])


@pytest.mark.parametrize("pooling", ["mean_max", "mean", "max", "cls", "cls_mean_max"])
@pytest.mark.parametrize("width", [13, None])
def test_every_classifier_trains_every_weight(pooling, width):
    model = built(Point2VecForPointCloudClassification, classifier_pooling=pooling, classifier_proj_size=width)
    out = model.train()(**inputs("points"), labels=torch.tensor([0, 1, 1]))
    out.loss.backward()
    assert out.logits.shape == (3, 2)
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_layers_start_as_in_torch():
    model = built(Point2VecForPointCloudClassification, hidden_size=96, num_attention_heads=4)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > 2000:
            bound = module.in_features**-0.5
            assert module.weight.abs().max() <= bound, name
            assert float(module.weight.std()) == pytest.approx(bound / 3**0.5, rel=0.1), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_groups": 1}, "num_groups"),
        ({"group_radius": 0.0}, "group_radius"),
        ({"group_size": 0}, "group_size"),
        ({"classifier_pooling": "median"}, "classifier_pooling"),
        ({"classifier_proj_size": 0}, "classifier_proj_size"),
        ({"segmentation_layers": ()}, "segmentation_layers"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"num_extra_tokens": 1}, "num_extra_tokens"),
    ],
)
def test_wrong_configurations_are_named(fields, message):
    with pytest.raises(Exception, match=message):
        built(Point2VecForPointCloudClassification, **fields)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match="segmentation_layers"):
        built(Point2VecForPartSegmentation, segmentation_layers=(3,))
    model = built(Point2VecModel)
    for shape in ((2, 37, 6), (37, 3), (2, 4, 3)):
        with pytest.raises(ValueError, match="point_values"):
            model(torch.randn(shape))
    values = inputs("points")["point_values"]
    for name, wrong in (
        ("attention_mask", torch.ones(3, 36)),
        ("attention_mask", torch.ones(1, 37)),
        ("start", torch.zeros(2, dtype=torch.long)),
        ("start", torch.zeros(3)),
    ):
        with pytest.raises(ValueError, match=f"^{name} has shape"):
            model(values, **{name: wrong})
    padded = inputs("points", padded=True)
    with pytest.raises(ValueError, match="^start holds 29: must be 0 to 36, and not padding"):
        model(**padded, start=torch.tensor([30, 29, 31]))


def test_a_folder_opens_by_the_auto_classes(tmp_path):
    from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

    from data2vec.modeling import Point2VecFeatureExtractor

    model = built()
    model.save_pretrained(tmp_path / "whole")
    model.save_encoder(tmp_path / "encoder")
    Point2VecFeatureExtractor(num_points=31).save_pretrained(tmp_path / "encoder")
    assert isinstance(AutoModelForPreTraining.from_pretrained(tmp_path / "whole"), Point2VecForPreTraining)
    for folder in ("whole", "encoder"):
        assert isinstance(AutoModel.from_pretrained(tmp_path / folder), Point2VecModel)
    processor = AutoFeatureExtractor.from_pretrained(tmp_path / "encoder")
    assert processor(np.random.default_rng(0).normal(size=(53, 3)))["point_values"].shape == (1, 31, 3)
    saved = {path.name for path in (tmp_path / "encoder").glob("*.py")}
    assert saved >= {"feature_extraction_point2vec.py", "modeling_point2vec.py", "heads_point2vec.py"}
    said = json.loads((tmp_path / "encoder" / "preprocessor_config.json").read_text())
    assert said["auto_map"]["AutoFeatureExtractor"].endswith(".Point2VecFeatureExtractor")
