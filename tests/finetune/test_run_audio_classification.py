"""From the command to the folder that `transformers` opens: run_audio_classification.py on clips made here."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    pipeline,
)

from data2vec.finetune.arguments import resolve
from data2vec.finetune.audio.task import AudioClassification
from data2vec.finetune.help_text import RECIPES
from data2vec.finetune.run_audio_classification import main
from data2vec.pretraining.recipe import parse_yaml
from tests.finetune.encoders import encoder_folder
from tests.finetune.sounds import RATE, folds_of_tones, tagged_clips, tone_folder, tone_table
from tests.reference import SAMPLES


TRAINING = {
    "max_steps": 30, "per_device_train_batch_size": 8, "learning_rate": 0.01, "use_cpu": True, "report_to": "none",
    "save_strategy": "no", "disable_tqdm": True, "warmup_steps": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    found = {family: str(encoder_folder(folder / family, "audio", family)) for family in ("v1", "v2")}
    return found | {"eat": str(encoder_folder(folder / "eat", "spectrogram", "v2"))}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    return {
        split: {"path": str(tone_folder(folder / split, each, seed))}
        for seed, (split, each) in enumerate((("train", 20), ("test", 7)))
    }


def recipe(folder, encoder, data, task=None, model=None, **training):
    """The path of a recipe in `folder`."""
    sections = {
        "model": {"model_name_or_path": encoder, **({"mask_time_prob": 0.0} if model is None else model)},
        "data": data,
        "task": task or {},
        "training": {**TRAINING, "output_dir": str(folder / "run"), **training},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    return str(folder / "recipe.yaml")


def results(folder):
    return json.loads((folder / "run" / "results.json").read_text())


@pytest.mark.parametrize("family", ["v1", "v2", "eat"])
def test_one_label_a_clip(tmp_path, encoders, tones, family):
    extra, model = {"mixup_prob": 0.5}, None
    if family == "eat":
        extra |= {"mixup": "batches", "mixup_beta": 0.8, "spec_augment": 0.2, "label_smoothing": 0.1}
        model = {"drop_path_rate": 0.1}
    assert main([recipe(tmp_path, encoders[family], {**tones, "validation_share": 0.2}, extra, model)]) == 0
    found = results(tmp_path)
    assert found["test"]["accuracy"] >= 0.9, "a low and a high tone are easy"
    assert found["main"] == {"split": "test", "metric": "accuracy", "value": found["test"]["accuracy"]}
    assert (found["run"]["train_examples"], found["validation"]["examples"], found["test"]["examples"]) == (32, 8, 14)
    lines = [json.loads(line) for line in (tmp_path / "run/predictions/test.jsonl").read_text().splitlines()]
    assert np.mean([line["label"] == line["prediction"] for line in lines]) == found["test"]["accuracy"]
    assert all(Path(line["input"]).parent.name == line["label"] for line in lines)
    assert (tmp_path / "run/predictions/test_confusion.csv").is_file()

    clip, rate = soundfile.read(Path(tones["test"]["path"]) / "high" / "01.wav", dtype="float32")
    classify = pipeline("audio-classification", str(tmp_path / "run"), trust_remote_code=family != "v1")
    best = classify({"raw": clip, "sampling_rate": rate})[0]
    line = next(line for line in lines if line["input"].endswith("high/01.wav"))
    assert best["label"] == line["prediction"]
    assert best["score"] == pytest.approx(line["scores"][best["label"]], abs=1e-3)


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_a_norm_in_front_of_the_classifier_is_folded_into_it(tmp_path, encoders, tones, family):
    """The folder is the usual model, and scores as it did when the norm was apart."""
    assert main([recipe(tmp_path, encoders[family], tones, {"head_norm": True})]) == 0
    folder = tmp_path / "run"
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    usual = AutoModelForAudioClassification.from_config(config)
    saved = load_file(folder / "model.safetensors")
    assert {name: tensor.shape for name, tensor in saved.items()} == {
        name: tensor.shape for name, tensor in usual.state_dict().items()
    }
    usual.load_state_dict(saved)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    lines = [json.loads(line) for line in (folder / "predictions/test.jsonl").read_text().splitlines()]
    assert np.mean([line["label"] == line["prediction"] for line in lines]) >= 0.9
    for line in lines:
        clip, rate = soundfile.read(line["input"], dtype="float32")
        if rate == RATE:
            with torch.no_grad():
                scores = usual.eval()(**extractor(clip, sampling_rate=RATE, return_tensors="pt")).logits.softmax(-1)[0]
            for name, score in line["scores"].items():
                assert score == pytest.approx(float(scores[config.label2id[name]]), abs=2e-3)


@pytest.mark.parametrize("family", [pytest.param("v1", marks=pytest.mark.slow), "v2"])
def test_several_labels_a_clip_with_pooled_frames(tmp_path, encoders, family):
    data = {"train": {"path": str(tagged_clips(tmp_path / "train.jsonl", 40, 0))}, "batch_seconds": 12}
    data["test"] = {"path": str(tagged_clips(tmp_path / "test.jsonl", 21, 1))}
    task = {"multi_label": True, "pooling": "linear_softmax", "mixup_prob": 0.3}
    assert main([recipe(tmp_path, encoders[family], data, task, max_steps=40, head_learning_rate=0.03)]) == 0
    found = results(tmp_path)
    assert found["main"]["metric"] == "mAP" and found["test"]["mAP"] > 0.9

    # the three lines that docs and audio.py show, on what the run left
    folder = str(tmp_path / "run")
    model = AutoModelForAudioFrameClassification.from_pretrained(folder, trust_remote_code=family == "v2").eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert model.config.problem_type == "multi_label_classification" and model.config.pooling == "linear_softmax"
    lines = [json.loads(line) for line in (tmp_path / "run/predictions/test.jsonl").read_text().splitlines()]
    scores, targets = np.zeros((21, 2)), np.zeros((21, 2))
    for row, line in enumerate(lines):
        clip, _ = soundfile.read(line["input"], dtype="float32")
        with torch.no_grad():
            p = model(**extractor(clip, sampling_rate=RATE, return_tensors="pt")).logits.sigmoid()
        scores[row] = ((p * p).sum(1) / p.sum(1))[0]
        targets[row] = [model.config.id2label[i] in line["label"] for i in range(2)]
        assert line["prediction"] == sorted(
            (model.config.id2label[i] for i in range(2) if scores[row, i] > 0.5),
            key=lambda name: -scores[row, model.config.label2id[name]],
        )
    expected = average_precision_score(targets, scores, average="macro")
    assert found["test"]["mAP"] == pytest.approx(expected, abs=0.02)


def test_every_fold_is_the_test_set_once(tmp_path, encoders, capsys):
    rng = np.random.default_rng(0)
    clips = [{"bytes": None, "path": str(tmp_path / f"{i}.wav")} for i in range(12)]
    for clip in clips:
        soundfile.write(clip["path"], rng.normal(size=2000) * 0.1, RATE)
    columns = {"audio": [clip["path"] for clip in clips], "label": ["a", "b"] * 6, "speaker": [3, 3, 5, 5, 7, 7] * 2}
    datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "clips.parquet"))
    data = {"train": {"path": str(tmp_path / "clips.parquet")}, "folds": [3, 5, 7], "fold_column": "speaker"}
    assert main([recipe(tmp_path, encoders["v1"], data, max_steps=1)]) == 0
    summary = json.loads((tmp_path / "run/folds.json").read_text())
    accuracies = []
    for number, speaker in enumerate((3, 5, 7), start=1):
        lines = (tmp_path / f"run/fold{number}/predictions/test.jsonl").read_text().splitlines()
        heard = {columns["speaker"][int(Path(json.loads(line)["input"]).stem)] for line in lines}
        assert heard == {speaker} and len(lines) == 4
        fold = json.loads((tmp_path / f"run/fold{number}/results.json").read_text())
        assert fold["run"]["train_examples"] == 8
        accuracies.append(fold["test"]["accuracy"])
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert summary["std"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "mean and spread of 3 folds" in capsys.readouterr().out


@pytest.mark.parametrize("head_norm", [False, True])
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, encoders, tones, head_norm):
    """Masks, mixed clips, crops, dropout and the order of the clips included."""
    weights = {}
    for name in ("whole", "resumed"):
        folder = tmp_path / name
        folder.mkdir()
        task = {"mixup_prob": 0.5, "head_norm": head_norm}
        model = {"mask_time_prob": 0.3, "mask_time_length": 3}
        how = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
        path = recipe(folder, encoders["v1"], {"train": tones["train"], "max_seconds": 0.25}, task, model, **how)
        if name == "resumed":  # what an interruption after step 4 leaves
            (folder / "run").mkdir()
            (tmp_path / "whole" / "run" / "checkpoint-4").rename(folder / "run" / "checkpoint-4")
            (tmp_path / "whole" / "run" / "recipe.yaml").rename(folder / "run" / "recipe.yaml")
        assert main([path]) == 0
        weights[name] = load_file(folder / "run" / "model.safetensors")
    for name, tensor in weights["whole"].items():
        assert torch.equal(tensor, weights["resumed"][name]), name


def refused(capsys, arguments):
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_a_clip_that_cannot_be_used_is_named_or_counted(tmp_path, encoders, tones, capsys):
    rng = np.random.default_rng(0)
    source = tone_folder(tmp_path / "clips", 5, 0)
    soundfile.write(source / "low" / "short.wav", rng.normal(size=30) * 0.1, RATE)
    (source / "low" / "broken.wav").write_bytes(b"this is no sound")
    data = {"train": {"path": str(source)}, "test": tones["test"]}
    path = recipe(tmp_path, encoders["v1"], data, max_steps=1)
    message = refused(capsys, [path])
    assert "data.train, row " in message and "low/broken.wav' is text, not audio" in message
    assert "data.skip_bad = true" in message
    (source / "low" / "broken.wav").unlink()
    message = refused(capsys, [path])
    assert "low/short.wav' is too short: the encoder needs" in message and "samples at 16 kHz" in message
    (source / "low" / "broken.wav").write_bytes(b"this is no sound")
    assert main([path, "--skip_bad", "true"]) == 0
    assert results(tmp_path)["run"]["left_out"] == {"train": {"wrong type": 1, "too short": 1}}
    assert results(tmp_path)["run"]["train_examples"] == 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--train.label_column", "mood"], "no column 'mood'"),
        (["--task.multi_label", "true"], "needs a list of labels in every row, the label column holds string"),
        (["--fold", "2"], "data.fold = 2 is invalid: set folds as well"),
        (["--folds", "[1, 2]"], "data.test = .* is invalid: leave it out"),
        (["--pooling", "max"], "task.pooling = 'max' is invalid"),
        (
            ["--head_norm", "true", "--pooling", "linear_softmax"],
            "task.head_norm = True .* leave it out, or use pooling",
        ),
        (
            ["--head_norm", "true", "--weights_ema_decay", "0.9"],
            "task.head_norm = True is invalid: leave it out with",
        ),
        (["--mixup_prob", "1.5"], "task.mixup_prob = 1.5 is invalid: use a probability"),
        (
            ["--model.mask_time_prob", "0.5", "--model.mask_time_length", "25"],
            "model.mask_time_length = 25 is invalid: row .* frames",
        ),
        (["--labels_per_class", "21"], "of class 'high' there are 20"),
        (["--max_seconds", "0.001"], "data.max_seconds = 0.001 is invalid"),
    ],
)
def test_slips_are_refused_before_anything_is_trained(tmp_path, encoders, tones, capsys, overrides, message):
    data = {**tones}
    if "--train.label_column" in overrides:
        columns = {"audio": ["x.wav"], "emotion": ["a"]}
        datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "x.parquet"))
        data["train"] = {"path": str(tmp_path / "x.parquet")}
    assert re.search(message, refused(capsys, [recipe(tmp_path, encoders["v1"], data), *overrides]))
    assert not (tmp_path / "run" / "trainer_state.json").exists()


def speakers_of_tones(folder: Path) -> Path:
    """EmoDB's layout: emotions of several speakers, two of whom the recipe holds out."""
    rows = [{"label": label, "speaker_id": speaker} for speaker in ("03", "13", "16") for label in range(4)]
    return tone_table(folder, {"train": rows, "test": rows[:4]})


# recipe -> its data, in the layout of the real one, and the examples of training, validation and test
RECIPE_DATA = {
    "audioset_20k.yaml": (None, [6, 5]),
    "audioset_20k_eat.yaml": (None, [6, 5]),
    "audioset_2m_eat.yaml": (None, [4, 5]),
    "esc10_small.yaml": (folds_of_tones, [48, 12]),
    "esc10_eat.yaml": (folds_of_tones, [48, 12]),
    "esc50_eat.yaml": ("tones", [40, 14]),
    "speech_commands_eat.yaml": ("tones", [40, 14]),
    "emodb_small.yaml": (speakers_of_tones, [4, 8, 4]),
    "spoken_digits_small.yaml": (lambda folder: SAMPLES / "spoken_digits", None),
}
RECIPES_OF = [(name, family) for name in RECIPE_DATA for family in (["eat"] if "eat" in name else ["v1", "v2"])]


@pytest.mark.parametrize(("name", "family"), RECIPES_OF)
def test_every_recipe_takes_a_step(tmp_path, encoders, tones, name, family):
    sections = parse_yaml((RECIPES / name).read_text(encoding="utf-8"))
    sections["model"]["model_name_or_path"] = encoders[family]
    small = {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False, "report_to": "none"}
    small |= {"output_dir": str(tmp_path / "run"), "eval_strategy": "no", "dataloader_num_workers": 0}
    sections["training"] |= small | {"disable_tqdm": True, "save_strategy": "no"}
    data = sections["data"]
    make, examples = RECIPE_DATA[name]
    if make is None:
        data["train"] = {"path": str(tagged_clips(tmp_path / "train.jsonl", 6, 0))}
        data["test"] = {"path": str(tagged_clips(tmp_path / "test.jsonl", 5, 1))}
        data |= {"clips_per_epoch": 4} if "clips_per_epoch" in data else {}
    elif make == "tones":
        for field in ("folds", "fold_column", "validation"):
            data.pop(field, None)
        data |= tones
    else:
        source = make(tmp_path / "data")
        for split in ("train", "validation", "test"):
            if data.get(split):
                data[split]["path"] = str(source)
        data |= {"fold": 2} if "folds" in data else {}
    task = AudioClassification(resolve(sections, AudioClassification))
    built = task.build_data()
    model = task.build_model(built)
    keys = [(0, i) for i in range(2)]
    batch = (built.train_collator or built.collator)([built.train[key] for key in keys])
    model.train()
    loss, _ = task.loss(model, batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.get_submodule("classifier").parameters())
    if examples is not None:
        assert [len(built.train), *(len(part) for part in built.evaluation.values())] == examples
    else:
        assert len(task.names) == 10
