"""Continuing from an encoder takes its shape; what contradicts it is named, in pretraining and fine-tuning."""

import json

import pytest
import yaml
from transformers import AutoConfig

from data2vec.finetune import run_image_classification
from data2vec.pretraining import run
from data2vec.tests.finetune.encoders import encoder_folder
from data2vec.tests.pretraining.tiny_runs import recipe, write_sources


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


def test_emotion2vec_starts_from_data2vec_2(tmp_path, capsys):
    """Whole or encoder alone; utterances alone, whose target is zero with the published norms, are stopped."""
    write_sources(tmp_path / "sounds")
    start = recipe("audio-2", tmp_path / "sounds", tmp_path / "start", max_steps=1, save_steps=1)
    start["objective"]["ema_anneal_steps"] = 1
    (tmp_path / "start.yaml").write_text(yaml.safe_dump(start))
    assert run.main([str(tmp_path / "start.yaml")]) == 0
    sections = recipe("emotion2vec-2", tmp_path / "sounds", tmp_path / "run", max_steps=6, logging_steps=1)
    sections["training"] |= {"guard_patience": 2, "guard_start_step": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    for folder, loss, code in (("start/pretraining", {}, 0), ("start", {"regression_weight": 0.0}, 3)):
        model = {"model_type": "emotion2vec", "model_name_or_path": str(tmp_path / folder)}
        words = ["--model", yaml.safe_dump(model, default_flow_style=True, width=1000).strip()]
        words += [word for name, value in loss.items() for word in (f"--objective.{name}", str(value))]
        words += ["--output_dir", str(tmp_path / f"run-{code}")]
        assert run.main([str(tmp_path / "recipe.yaml"), *words]) == code, capsys.readouterr().err
    config = AutoConfig.from_pretrained(tmp_path / "run-0")
    assert (config.model_type, config.num_extra_tokens, config.num_prenet_layers) == ("emotion2vec", 10, 0)
    log = [
        row for row in json.loads((tmp_path / "run-0/trainer_state.json").read_text())["log_history"] if "loss" in row
    ]
    assert all(row["utterance_target_std"] < 0.01 < row["target_std"] for row in log)
    health = json.loads((tmp_path / "run-3/health.json").read_text())
    assert health["state"] == "collapsed" and "utterance_target_std = 0.0010 is below 0.01" in health["message"]
    contradicting = ["--model", f"{{model_type: data2vec2-audio, model_name_or_path: {tmp_path / 'run-0'}}}"]
    assert run.main([str(tmp_path / "start.yaml"), *contradicting]) == 2, "not the other way round"
    assert "contradicts the encoder in" in capsys.readouterr().err


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
