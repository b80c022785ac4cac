"""Point2Vec's checkpoints, as Lightning writes them, become folders that the Auto classes open."""

import collections
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from data2vec.modeling import (
    Point2VecForPartSegmentation,
    Point2VecForPointCloudClassification,
    Point2VecForPreTraining,
    Point2VecModel,
)
from data2vec.modeling.convert.command import convert, main
from data2vec.tests.reference import GOLDEN


CASES = ("point2vec_a", "data2vec_pc_a", "point2vec_cls_a", "point2vec_seg_a")


def stored(case="point2vec_a"):
    return torch.load(GOLDEN / case / "checkpoint.pt", weights_only=True)


def written(content, folder):
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


@pytest.mark.parametrize("case", CASES)
def test_every_kind_becomes_a_folder(case, tmp_path):
    folder = tmp_path / "out"
    model, words, _ = convert(GOLDEN / case / "checkpoint.pt", folder)
    assert words.startswith("Point2Vec")
    assert "arXiv [2303.16570]" in (folder / "README.md").read_text()
    assert not (folder / "fairseq_unused.safetensors").exists()
    if case in CASES[:2]:
        opened = AutoModelForPreTraining.from_pretrained(folder)
        assert opened.config.num_updates == 5  # of the teacher
    else:
        head = Point2VecForPartSegmentation if "seg" in case else Point2VecForPointCloudClassification
        opened = head.from_pretrained(folder)
    assert all(torch.equal(tensor, opened.state_dict()[name]) for name, tensor in model.state_dict().items())
    io = load_file(GOLDEN / case / "io.safetensors")
    encoder = AutoModel.from_pretrained(folder).eval()
    assert isinstance(encoder, Point2VecModel)
    assert torch.equal(encoder(io["in.points"])[0], model.base_model.eval()(io["in.points"])[0])
    processor = AutoFeatureExtractor.from_pretrained(folder)
    assert processor.num_points == (2048 if "seg" in case else 128)
    assert not processor.do_normalize  # these cases were made without


@pytest.mark.parametrize("case", CASES[:2])
def test_a_folder_goes_back(case, tmp_path):
    folder = tmp_path / "out"
    convert(GOLDEN / case / "checkpoint.pt", folder)
    assert main([str(folder), str(tmp_path / "back.ckpt"), "--to-fairseq"]) == 0
    back, original = torch.load(tmp_path / "back.ckpt", weights_only=True), stored(case)
    assert set(back) == set(original)
    assert set(back["state_dict"]) == set(original["state_dict"])
    for name, tensor in original["state_dict"].items():
        assert torch.equal(back["state_dict"][name], tensor), name
    said = {name: value for name, value in original["hyper_parameters"].items() if name in back["hyper_parameters"]}
    for name in ("d2v_masking_ratio", "d2v_ema_tau_epochs", "val_transformations", "train_transformations"):
        del said[name]  # the same number of groups; epochs are not in the folder, nor are clouds
    said["transformation_subsample_points"] = 1024
    if case == "data2vec_pc_a":
        assert "decoder_depth" not in back["hyper_parameters"]
    assert {name: back["hyper_parameters"][name] for name in said} == said
    convert(tmp_path / "back.ckpt", tmp_path / "again")
    first, second = ((of / "config.json").read_text() for of in (folder, tmp_path / "again"))
    assert first == second


def test_encoder_only(tmp_path):
    convert(GOLDEN / "point2vec_a" / "checkpoint.pt", tmp_path / "out", encoder_only=True)
    assert isinstance(AutoModel.from_pretrained(tmp_path / "out"), Point2VecModel)


def test_switches_of_other_recipes(tmp_path):
    content = stored()
    content["hyper_parameters"] |= {
        "tokenizer_group_radius": 0.45,
        "d2v_target_layer_part": "ffn",
        "d2v_target_layers": [0, 2],
        "d2v_target_layer_norm": "instance",
        "d2v_target_norm": "group",
        "loss": "mse",
        "encoder_add_pos_at_every_layer": False,
        "d2v_masking_type": "block",
        "d2v_masking_ratio": 0.7,
        "val_transformations": ["subsample", "center", "unit_sphere"],
    }
    content |= {"epoch": 4, "global_step": 80}
    model, _, notes = convert(written(content, tmp_path), tmp_path / "out")
    config, objective = model.config, model.objective
    assert (config.group_radius, config.add_positions_to_every_layer) == (0.45, False)
    assert objective.decoder.add_positions_to_every_layer
    assert (objective.target_tap, objective.target_layers, objective.loss_beta) == ("ffn", [0, 2], 0.0)
    assert (objective.target_layer_norm, objective.target_norm) == ("instance", "group")
    assert objective.masking.to_dict() == {"method": "neighbours", "prob": 0.7}
    assert objective.ema_anneal_steps == 40  # 2 epochs of 20 updates
    assert notes == []
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "out").do_normalize


@pytest.mark.parametrize("groups", [7, 10, 16, 64])
@pytest.mark.parametrize("ratio", [0.3, 0.65, 0.9])
def test_as_many_groups_are_hidden(tmp_path, groups, ratio):
    content = stored()
    content["hyper_parameters"] |= {"tokenizer_num_groups": groups, "d2v_masking_ratio": ratio}
    model, _, _ = convert(written(content, tmp_path), tmp_path / "out")
    assert model.sample_masked((groups,), 5).sum(1).unique().tolist() == [int(ratio * groups)]


@pytest.mark.parametrize(("pooling", "parts"), [("cls_token", 1), ("mean+max+cls_token", 3), ("mean", 1), ("max", 1)])
def test_every_pooling_of_the_classifier(tmp_path, pooling, parts):
    content = stored("point2vec_cls_a")
    generator, state = torch.Generator().manual_seed(0), content["state_dict"]
    content["hyper_parameters"]["cls_head_pooling"] = pooling
    state["cls_head.0.weight"] = torch.randn(32, 24 * parts, generator=generator)
    if "cls" in pooling:
        state |= {name: torch.randn(24, generator=generator) for name in ("cls_token", "cls_pos")}
    model, _, _ = convert(written(content, tmp_path), tmp_path / "out")
    model.eval()
    points = load_file(GOLDEN / "point2vec_cls_a" / "io.safetensors")["in.points"]
    encoder = model.point2vec
    tokens = encoder.embed((points, None, None))
    values, positions = tokens.values, encoder.positions(tokens)
    if "cls" in pooling:
        values, positions = (
            torch.cat((state[name].expand(len(points), 1, 24), of), dim=1)
            for name, of in (("cls_token", values), ("cls_pos", positions))
        )
    for block in encoder.encoder.layers:
        values = block(values + positions)[3]
    values = encoder.encoder.final_norm(values)
    groups = values[:, -16:]
    read = {"cls_token": [values[:, 0]], "mean": [groups.mean(1)], "max": [groups.amax(1)]}
    read["mean+max+cls_token"] = [*read["cls_token"], *read["max"], *read["mean"]]
    expected = model.classifier(torch.cat(read[pooling], dim=1))
    torch.testing.assert_close(model(points).logits, expected, rtol=1e-5, atol=1e-5)


def test_statistics_that_are_nan_start_again(tmp_path):
    content = stored("point2vec_cls_a")
    for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
        content["state_dict"][f"cls_head.1.{name}"][3] = torch.nan
        content["state_dict"][f"cls_head.1.{name}"][4] = 7.0
        model, _, notes = convert(written(content, tmp_path), tmp_path / name)
        assert getattr(model.classifier[1], name).unique().tolist() == [value]
        assert f"cls_head.1.{name} holds NaN" in " ".join(notes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "l1"),
        ("d2v_target_layer_norm", "weight"),
        ("d2v_masking_type", "grid"),
        ("d2v_target_layer_part", "attention"),
        ("d2v_target_layers", "last"),
        ("encoder_dropout", 0.1),
        ("encoder_depth", "three"),
    ],
)
def test_what_is_not_built_is_refused_by_name(tmp_path, name, value):
    content = stored()
    content["hyper_parameters"][name] = value
    with pytest.raises(ValueError, match=name):
        convert(written(content, tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"objective.views": 3}, "objective.views = 3"),
        ({"objective.loss_beta": 1.0}, "model.loss = 1.0"),
        ({"objective.ema_delay": 0}, "objective.ema_delay = 0"),
        (
            {"objective.masking": {"method": "block", "prob": 0.5, "length": 2}},
            "objective.masking = {'method': 'block'",
        ),
        (
            {"objective.decoder": {"method": "conv", "layers": 1, "dim": 12, "kernel": 3, "groups": 4}},
            "have no place in Point2Vec",
        ),
        ({"intermediate_size": 40}, "intermediate_size = 40"),
        ({"hidden_dropout": 0.1}, "encoder_dropout"),
    ],
)
def test_what_the_original_cannot_say_is_not_written(tmp_path, capsys, changed, words):
    convert(GOLDEN / "point2vec_a" / "checkpoint.pt", tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    for name, value in changed.items():
        section, _, field = name.rpartition(".")
        if section:
            config.objective[field] = value
        else:
            setattr(config, name, value)
    Point2VecForPreTraining(config).save_pretrained(tmp_path / "other")
    assert main([str(tmp_path / "other"), str(tmp_path / "back.ckpt"), "--to-fairseq"]) == 2
    assert words in capsys.readouterr().err


def test_other_files_of_lightning_are_refused(tmp_path):
    content = stored()
    for lacking in ("state_dict", "hyper_parameters"):
        with pytest.raises(ValueError, match="no checkpoint of a Lightning model"):
            convert(written({n: v for n, v in content.items() if n != lacking}, tmp_path), tmp_path / "out")
    content["state_dict"]["head.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"head.weight .* has no place"):
        convert(written(content, tmp_path), tmp_path / "out")


def test_a_class_that_is_no_data_is_refused(tmp_path):
    content = stored()
    content["hyper_parameters"]["svm_validation"] = shutil.Error("x")
    with pytest.raises(ValueError, match=r"names shutil\.Error"):
        convert(written(content, tmp_path), tmp_path / "out")
    content["hyper_parameters"]["svm_validation"] = collections.OrderedDict(a=1)
    convert(written(content, tmp_path), tmp_path / "out")
