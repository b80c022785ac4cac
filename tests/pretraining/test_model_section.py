"""Continuing from an encoder takes its shape; what contradicts it is named, in pretraining and fine-tuning."""

import pytest
import yaml

from data2vec.finetune import run_image_classification
from data2vec.pretraining import run
from data2vec.tests.finetune.encoders import encoder_folder
from data2vec.tests.pretraining.tiny_runs import recipe


@pytest.fixture(scope="module", params=["v1", "v2"])
def encoder(request, tmp_path_factory):
    """24 wide, 2 blocks, images of 16 x 16 in patches of 4."""
    return encoder_folder(tmp_path_factory.mktemp("encoder") / request.param, "vision", request.param)


def pretrain(encoder, folder, capsys, model):
    sections = recipe(f"vision-{encoder.name[1]}", folder, folder / "run", max_steps=1, save_steps=1)
    sections["model"] = {"model_name_or_path": str(encoder), **model}
    sections["objective"]["ema_anneal_steps"] = 1
    sections["data"] |= {"sources": [{"path": "builtin:digits"}], "upscale": True}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(sections))
    return run.main([str(folder / "recipe.yaml")]), capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("hidden_size", 48, 24),
        ("hidden_size", 25, 24),  # goes with no other field
        ("num_hidden_layers", 3, 2),
        ("num_hidden_layers", 1, 2),  # would leave blocks out
        ("intermediate_size", 41, 40),
        ("patch_size", 8, 4),
    ],
)
def test_a_field_that_contradicts_the_encoder_is_named(encoder, tmp_path, capsys, field, value, stored):
    code, message = pretrain(encoder, tmp_path, capsys, {field: value})
    assert code == 2
    assert f"model.{field} = {value} contradicts the encoder in {encoder}, whose {field} is {stored}" in message
    assert "--model '{model_name_or_path:" in message


def test_the_encoders_own_values_and_rates_are_no_contradiction(encoder, tmp_path, capsys):
    code, message = pretrain(encoder, tmp_path, capsys, {"hidden_size": 24, "drop_path_rate": 0.1})
    assert code == 0, message


def test_another_model_type_is_a_contradiction(encoder, tmp_path, capsys):
    code, message = pretrain(encoder, tmp_path, capsys, {"model_type": "data2vec-audio"})
    assert code == 2 and "model.model_type = 'data2vec-audio' contradicts the encoder" in message


def test_another_decoder_than_the_whole_models_is_refused(tmp_path, capsys):
    whole = recipe("vision-2", tmp_path, tmp_path / "whole", max_steps=1, save_steps=1)
    whole["objective"]["ema_anneal_steps"] = 1
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    assert run.main([str(tmp_path / "whole.yaml")]) == 0
    again = ["--model", f"{{model_name_or_path: {tmp_path / 'whole' / 'pretraining'}}}"]
    again += ["--output_dir", str(tmp_path / "again"), "--decoder.dim", "12"]
    assert run.main([str(tmp_path / "whole.yaml"), *again]) == 2
    assert "its weights do not fit this recipe's model" in capsys.readouterr().err


def test_fine_tuning_names_it_too(encoder, tmp_path, capsys):
    training = {"output_dir": str(tmp_path / "run"), "max_steps": 1, "use_cpu": True}
    sections = {
        "model": {"model_name_or_path": str(encoder), "hidden_size": 48},
        "data": {"train": {"path": str(tmp_path)}}, "training": training,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    assert run_image_classification.main([str(tmp_path / "recipe.yaml")]) == 2
    assert "model.hidden_size = 48 contradicts the encoder" in capsys.readouterr().err
    assert run_image_classification.main([str(tmp_path / "recipe.yaml"), "--from_scratch", "true"]) == 2
    assert "contradicts" not in capsys.readouterr().err  # only its shape is taken, so that may change
