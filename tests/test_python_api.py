"""`data2vec.pretrain`, `finetune`, `probe` and `embed`; a dataset of one's own; stopping early by the online probe."""

import json

import datasets
import numpy as np
import pandas
import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModel, EarlyStoppingCallback

import data2vec
from data2vec.cli import main
from data2vec.pretraining.recipe import as_arguments
from data2vec.pretraining.trainer import Data2VecTrainer, PretrainingArguments
from tests.finetune.encoders import encoder_folder
from tests.finetune.test_run_probe import brightness, images, sounds, texts
from tests.modeling.tiny_data2vec2 import vision_config
from tests.test_task_pages import photos


SMALL = {"image_size": 16, "patch_size": 4, "num_channels": 3, "hidden_size": 16, "num_hidden_layers": 2}
QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    photos(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def pretrained(here):
    return data2vec.pretrain(
        data=here / "photos" / "train",
        recipe="demo_vision",
        model={**SMALL, "intermediate_size": 24},
        output_dir=here / "encoder",
        crop="random_resized",
        shift_pixels=0,
        objective={"top_k_layers": 2, "ema_anneal_steps": 1},
        **{"training.learning_rate": np.float64(1e-4)},
        training={"max_steps": 3, "warmup_steps": 0, **QUIET},
    )


def test_pretrain_takes_fields_and_returns_the_run(here, pretrained):
    assert pretrained.state == "finished" and pretrained.folder == here / "encoder"
    assert pretrained.metrics["step"] == 3 and pretrained.metrics["learning_rate"] < 1e-4
    assert [row["step"] for row in pretrained.history if "loss" in row] == [1, 2, 3]
    assert pretrained.load_model().config.hidden_size == 16
    written = (here / "encoder" / "recipe.yaml").read_text(encoding="utf-8")
    assert "builtin:digits" not in written and "learning_rate: 0.0001" in written and "report:" not in written


def test_pretrain_goes_on_from_an_encoder(here, pretrained):
    """With the recipe of its run, where it has one; its shape counts."""
    how = {"max_steps": 1, "ema_anneal_steps": 0, **QUIET}
    more = data2vec.pretrain(model=pretrained.folder, data=[here / "photos"], output_dir=here / "more", **how)
    assert more.metrics["step"] == 1
    recipe = (here / "more" / "recipe.yaml").read_text(encoding="utf-8")
    assert f"model_name_or_path: {pretrained.folder}" in recipe and "hidden_size" not in recipe
    (here / "bare").mkdir()
    bare = encoder_folder(here / "bare", "vision", "v1")
    with pytest.raises(ValueError, match="recipe is missing"):
        data2vec.pretrain(model=bare, data=here / "photos")


def test_slips_name_the_field(here):
    with pytest.raises(ValueError, match="Did you mean --learning_rate"):
        data2vec.pretrain(model="demo_vision", learning_rat=1)
    with pytest.raises(FileNotFoundError, match=r"Did you mean demo_vision.yaml"):
        data2vec.pretrain(recipe="demo_visoin")
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        data2vec.pretrian  # noqa: B018


def test_finetune_and_probe(here, pretrained):
    how = {"model": pretrained.folder, "data": here / "photos", **QUIET}
    tuned = data2vec.finetune(
        "fashion_mnist_small", output_dir=here / "tuned", max_steps=2, labels_per_class=None, flip=0.0, **how
    )
    model = tuned.load_model()
    assert type(model).__name__ == "Data2VecVisionForImageClassification"
    assert model.config.id2label == {0: "noise", 1: "stripes"}
    results = json.loads((here / "tuned" / "results.json").read_text(encoding="utf-8"))
    assert tuned.metrics["test"] == results["test"] and results["test"]["examples"] == 12
    found = data2vec.probe(
        pretrained.folder, here / "photos", output_dir=here / "probe", probes=["knn"], untrained=0, **QUIET
    )
    assert set(found.metrics["probed"]["pretrained"]["layers"]) == {"layer_0", "layer_1", "layer_2"}


CASES = [("vision", "v2", images), ("audio", "v1", sounds), ("text", "v2", texts)]


@pytest.mark.parametrize(("modality", "family", "data"), CASES)
def test_embed_writes_what_the_encoder_gives(modality, family, data, tmp_path, monkeypatch):
    """In every modality; the same for every number of examples at once."""
    (tmp_path / "encoder").mkdir()
    encoder = encoder_folder(tmp_path / "encoder", modality, family)
    source = data(tmp_path / "data", 5, 0)["path"]
    last = pandas.read_parquet(data2vec.embed(encoder, source, output=tmp_path / "last.parquet"))
    assert list(last["row"]) == list(range(10)) and np.stack(last["features"]).shape == (10, 24)
    monkeypatch.setattr("data2vec.finetune.embed.PART", 3)
    words = [str(encoder), source, "--layer=all", "--output", str(tmp_path / "all.parquet"), "--batch_size", "2"]
    assert main(["embed", *words, "--per_token"]) == 0
    opened = datasets.Dataset.from_parquet(str(tmp_path / "all.parquet"), cache_dir=str(tmp_path / "cache"))
    layers = [name for name in opened.features if name.startswith("layer_")]
    assert len(layers) >= 3
    for vector, tokens in zip(last["features"], opened[layers[-1]], strict=True):
        assert np.allclose(vector, np.mean(tokens, axis=0), atol=1e-5)
    if modality != "text":
        assert all(name.endswith((".png", ".wav")) for name in opened["name"])


def test_embed_keeps_numbers(tmp_path):
    (tmp_path / "encoder").mkdir()
    encoder, source = encoder_folder(tmp_path / "encoder", "vision", "v1"), brightness(tmp_path / "data", 5, 0)
    found = pandas.read_parquet(data2vec.embed(encoder, source, output=tmp_path / "numbers.parquet"))
    assert found["label"].dtype == np.float64
    assert found["label"].tolist() == pandas.read_csv(source["path"])["level"].tolist()


def test_embed_refuses_in_a_line(tmp_path, capsys):
    encoder = encoder_folder(tmp_path, "vision", "v1")
    assert main(["embed", str(encoder), str(tmp_path / "none")]) == 2
    assert "no file or folder" in capsys.readouterr().err
    images(tmp_path / "data", 2, 0)
    assert main(["embed", str(encoder), str(tmp_path / "data"), "--layer", "9"]) == 2
    assert "task.layer = 9 is invalid: the encoder has layers 0 to 2" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parquet"))


class Stripes(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"pixel_values": torch.full((3, 12, 20), index / 20), "labels": index % 2}


@pytest.mark.parametrize("kind", ["torch", "datasets"])
def test_a_dataset_of_ones_own(kind, tmp_path):
    """Ten lines: a dataset, a model, arguments, a trainer."""
    dataset = Stripes()
    if kind == "datasets":
        rows = datasets.Dataset.from_dict({"number": list(range(20))})
        dataset = rows.with_transform(lambda batch: {"pixel_values": [torch.rand(3, 12, 20) for _ in batch["number"]]})
    model = data2vec.modeling.Data2Vec2VisionForPreTraining(vision_config())
    args = PretrainingArguments(str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, **QUIET)
    trainer = Data2VecTrainer(model, args, dataset)
    trainer.train()
    trainer.save_model()
    assert trainer.state.log_history[0]["loss"] > 0
    assert AutoModel.from_pretrained(tmp_path / "run").config.model_type == "data2vec2-vision"


def test_a_dataset_without_the_input_is_refused(tmp_path):
    model = data2vec.modeling.Data2Vec2VisionForPreTraining(vision_config())
    args = PretrainingArguments(str(tmp_path), max_steps=1, per_device_train_batch_size=4, **QUIET)
    with pytest.raises(ValueError, match=r"holds image: it must be a dict with 'pixel_values'"):
        Data2VecTrainer(model, args, [{"image": 0}] * 8).train()


@pytest.mark.parametrize("held_out", [True, False])
def test_early_stopping_by_the_probe(held_out, here, tmp_path):
    """A rate of 0 never improves: the second evaluation without progress stops, and the first checkpoint is kept."""
    photos = str(here / "photos")
    data = {"sources": [{"path": photos, "split": "train"}], "probe": {"path": photos}, "crop": "random_resized"}
    run = data2vec.pretrain(
        recipe="demo_vision",
        data=data | ({"eval_sources": [{"path": photos, "split": "test"}]} if held_out else {}),
        model={**SMALL, "intermediate_size": 24},
        objective={"top_k_layers": 2, "ema_anneal_steps": 0},
        output_dir=tmp_path / "run",
        learning_rate=0.0,
        max_steps=40,
        shift_pixels=0,
        probe_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="probe/knn_teacher",
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        report=None,
        **QUIET,
    )
    assert run.state == "finished" and run.metrics["step"] == 6
    assert {path.name for path in run.folder.glob("checkpoint-*")} == {"checkpoint-2"}
    assert any("eval_loss" in row for row in run.history) == held_out


def test_a_probe_that_is_not_there_cannot_stop_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"metric_for_best_model = 'probe/knn_teacher' is the online probe's"):
        data2vec.pretrain(
            model="demo_vision", output_dir=tmp_path, probe_steps=0, metric_for_best_model="probe/knn_teacher"
        )


def test_fields_of_python_become_those_of_the_command_line():
    fields = {"max_steps": 3, "training": {"seed": 1}, "masking": {"length": 2}, "probe": None}
    words = as_arguments(fields, ("training", "data"))
    assert words == [
        "--max_steps", "3", "--training.seed", "1", "--masking", '{"length": 2}', "--probe", "null",
    ]  # fmt: skip
