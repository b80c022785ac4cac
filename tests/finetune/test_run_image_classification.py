"""Image classification as a user runs it: the command, its folder, stock pipelines, resume, and bad input."""

import errno
import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from data2vec.finetune.run_image_classification import main
from data2vec.finetune.trainer import FineTuneTrainer
from data2vec.pretraining.modalities.image import compare_images
from data2vec.tests.reference import SAMPLES
from tests.finetune.encoders import FAMILIES, encoder_folder
from tests.warm import warm_python


CLASSES = ("circle", "square", "stripes")


def picture(kind, rng):
    """20 x 16 pixels (width, height) with one of three shapes, on noise."""
    x = rng.integers(0, 90, size=(16, 20, 3), dtype=np.uint8)
    y, z = np.mgrid[:16, :20]
    dy, dz = rng.integers(-2, 3, size=2)
    shape = {
        "circle": (y - 8 - dy) ** 2 + (z - 10 - dz) ** 2 < 25,
        "square": (abs(y - 8 - dy) < 7) & (abs(z - 10 - dz) < 7),
        "stripes": (y + dy) % 4 < 2,
    }[kind]
    x[shape] += 150
    return Image.fromarray(x)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of train/CLASS/*.png and test/CLASS/*.png."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 7)):
        for kind in CLASSES:
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                picture(kind, rng).save(folder / split / kind / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return {family: encoder_folder(tmp_path_factory.mktemp(family), "vision", family) for family in FAMILIES}


def write_recipe(path, encoder, images, **changed):
    sections = {
        "model": {"model_name_or_path": str(encoder), "drop_path_rate": 0.1},
        "data": {
            "train": {"path": str(images), "split": "train"},
            "test": {"path": str(images), "split": "test"},
            "validation_share": 0.2,
        },
        "task": {
            "crop_area": [0.5, 1.0], "flip": 0.5, "rand_augment_operations": 2, "erasing": 0.25, "mixup": 0.8,
            "cutmix": 1.0, "label_smoothing": 0.1,
        },
        "training": {
            "output_dir": str(path.with_suffix("")), "max_steps": 4, "per_device_train_batch_size": 11,
            "learning_rate": 1e-3, "layer_decay": 0.65, "weight_decay": 0.05, "eval_strategy": "steps",
            "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True, "use_cpu": True, "report_to": "none",
            "disable_tqdm": True, "logging_steps": 1, "weights_ema_decay": 0.5,
        },
    }  # fmt: skip
    for section, fields in changed.items():
        sections[section] |= fields
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images, encoders):
    folder, recipes = tmp_path_factory.mktemp("runs"), {}
    for family in FAMILIES:
        recipes[family] = write_recipe(folder / f"{family}.yaml", encoders[family], images)
        assert main([recipes[family]]) == 0
    return folder, recipes


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_says_what_came_out(finished, family):
    folder = finished[0] / family
    results = json.loads((folder / "results.json").read_text())
    assert results["main"] == {"split": "test", "metric": "accuracy", "value": results["test"]["accuracy"]}
    assert results["validation"]["examples"] == 12 and results["test"]["examples"] == 21
    assert results["run"]["train_examples"] == 48 and results["run"]["from_scratch"] is False
    rows = [json.loads(line) for line in (folder / "predictions" / "test.jsonl").read_text().splitlines()]
    right = [row["label"] == row["prediction"] for row in rows]
    assert len(rows) == 21 and np.mean(right) == pytest.approx(results["test"]["accuracy"])
    assert np.mean([row["error"] for row in rows]) == pytest.approx(results["test"]["loss"], abs=1e-4)
    for row in rows:
        assert Path(row["input"].strip("'")).parent.name == row["label"]
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-4)
    table = np.loadtxt(folder / "predictions" / "test_confusion.csv", delimiter=",", skiprows=1, usecols=(1, 2, 3))
    assert table.sum() == 21 and np.trace(table) == sum(right)
    assert (folder / "predictions" / "test_confusion.png").stat().st_size > 1000
    worst = max(rows, key=lambda row: row["error"])
    assert worst["input"] in (folder / "predictions" / "test_errors.md").read_text().splitlines()[4]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["task"]["mixup"] == 0.8 and "torch" in json.loads((folder / "run.json").read_text())["versions"]


def predictions_of(folder):
    rows = [json.loads(line) for line in (folder / "predictions" / "test.jsonl").read_text().splitlines()]
    return {row["input"].strip("'"): row["scores"] for row in rows}


STOCK = """
import json, sys
from transformers import pipeline
answers = {}
for family, folder in (("v1", sys.argv[1]), ("v2", sys.argv[2])):
    classify = pipeline("image-classification", folder, trust_remote_code=family == "v2")
    answers[family] = classify(sys.argv[3:], top_k=3)
assert "data2vec" not in sys.modules
print(json.dumps(answers))
"""


def test_a_stock_pipeline_sees_what_the_evaluation_saw(finished, tmp_path):
    """In a process that knows nothing of this package: v1 as it is, 2.0 with the code beside the weights."""
    expected = {family: predictions_of(finished[0] / family) for family in FAMILIES}
    names = sorted(expected["v1"])[::6]
    command = [warm_python(), "-c", STOCK, *(str(finished[0] / family) for family in FAMILIES), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for family, answers in json.loads(done.stdout.splitlines()[-1]).items():
        for name, answer in zip(names, answers, strict=True):
            got = {row["label"]: row["score"] for row in answer}
            assert got == pytest.approx(expected[family][name], abs=1e-4), (family, name)


def test_same_command_again_says_it_is_done(finished, capsys):
    folder, recipes = finished
    before = (folder / "v1" / "model.safetensors").stat().st_mtime_ns
    assert main([recipes["v1"], "--logging_steps", "2"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert (folder / "v1" / "model.safetensors").stat().st_mtime_ns == before
    assert main([recipes["v1"], "--learning_rate", "2e-3"]) == 2
    assert "training.learning_rate: 0.001 there, 0.002 here" in capsys.readouterr().err


def test_resume_is_exact_and_for_the_same_run_only(finished, tmp_path, images, encoders, capsys):
    folder = finished[0] / "v1"
    recipe = write_recipe(tmp_path / "again.yaml", encoders["v1"], images)
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(folder / "checkpoint-2", again / "checkpoint-2")
    for slip, words in (
        (["--seed", "43"], "checkpoint-2 is of a run with another training.seed: "),
        (
            ["--model_name_or_path", str(encoders["v2"])],
            "checkpoint-2 is of a run with another model.model_name_or_path",
        ),
    ):
        assert main([recipe, *slip]) == 2
        assert words in capsys.readouterr().err
    assert main([recipe]) == 0
    expected, got = (load_file(run / "checkpoint-4" / "model.safetensors") for run in (folder, again))
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    average, resumed = (load_file(run / "checkpoint-4" / "weights_average.safetensors") for run in (folder, again))
    assert all(torch.equal(resumed[name], average[name]) for name in average)
    assert predictions_of(again) == predictions_of(folder)


def test_a_signal_and_a_damaged_checkpoint_cost_no_exactness(
    finished, tmp_path, images, encoders, monkeypatch, capsys
):
    """Told to stop in its third update it saves and says so; the same command goes on, from the last intact one."""
    folder, step = finished[0] / "v1", FineTuneTrainer.training_step

    def told(trainer, *args, **kwargs):
        if trainer.state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, *args, **kwargs)

    recipe = write_recipe(tmp_path / "again.yaml", encoders["v1"], images)
    again = tmp_path / "again"
    with monkeypatch.context() as patched:
        patched.setattr(FineTuneTrainer, "training_step", told)
        assert main([recipe]) == 4
    assert "The same command continues" in capsys.readouterr().err
    assert (again / "checkpoint-3" / "manifest.json").is_file() and not (again / "results.json").exists()
    weights = again / "checkpoint-3" / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(whole)
    assert main([recipe]) == 0
    assert (again / "_damaged-checkpoint-3").is_dir()
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert predictions_of(again) == predictions_of(folder)
    losses = [
        [log["loss"] for log in json.loads((run / "trainer_state.json").read_text())["log_history"] if "loss" in log]
        for run in (folder, again)
    ]
    assert losses[0] == losses[1]


def test_a_full_disk_ends_a_run_with_its_own_code(tmp_path, images, encoders, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("data2vec.pretraining.checkpoints.resume.publish", full)
    assert main([write_recipe(tmp_path / "run.yaml", encoders["v1"], images)]) == 5
    assert "checkpoint-2 could not be written" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("data2vec.finetune.runner.write_rows", full)
    recipe = write_recipe(tmp_path / "late.yaml", encoders["v1"], images)
    assert main([recipe]) == 5 and not (tmp_path / "late" / "results.json").exists()
    assert "No space left on device. Make room" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([recipe]) == 0


def test_from_scratch_starts_elsewhere_and_is_recorded(tmp_path, images, encoders):
    recipe = write_recipe(tmp_path / "run.yaml", encoders["v2"], images)
    assert main([recipe, "--from_scratch", "true", "--max_steps", "1", "--learning_rate", "0"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["run"]["from_scratch"] is True
    name = "data2vec2.encoder.layers.0.attention.qkv.weight"
    theirs = load_file(encoders["v2"] / "model.safetensors")[name.removeprefix("data2vec2.")]
    assert not torch.allclose(load_file(tmp_path / "run" / "model.safetensors")[name], theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_another_and_non_square_size(tmp_path, images, encoders, family):
    """Positions are interpolated; the processor is saved with the size, so that a pipeline reads at it too."""
    recipe = write_recipe(tmp_path / "run.yaml", encoders[family], images)
    size = [
        "--resolution",
        "[20, 12]",
        "--max_steps",
        "1",
        "--eval_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
    ]
    assert main([recipe, *size, "--labels_per_class", "4", "--center_crop", "0.8"]) == 0
    saved = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert saved["crop_size"] == {"height": 20, "width": 12} and saved["size"] == {"shortest_edge": 15}
    assert json.loads((tmp_path / "run" / "results.json").read_text())["run"]["train_examples"] == 12
    expected = predictions_of(tmp_path / "run")
    name = sorted(expected)[5]
    answer = pipeline("image-classification", str(tmp_path / "run"), trust_remote_code=True)(name)
    assert {row["label"]: row["score"] for row in answer} == pytest.approx(expected[name], abs=1e-4)


def copied(images, folder):
    shutil.copytree(images, folder)
    return folder


def test_an_unreadable_image_is_named_or_skipped(tmp_path, images, encoders, capsys, caplog):
    broken = copied(images, tmp_path / "images")
    (broken / "train" / "circle" / "03.png").write_bytes(b"no image")
    (broken / "test" / "square" / "01.png").write_bytes(b"none either")
    recipe = write_recipe(tmp_path / "run.yaml", encoders["v1"], broken, training={"max_steps": 1, "eval_steps": 1})
    once = ["--save_steps", "1", "--num_train_epochs", "1"]
    assert main([recipe, *once, "--per_device_train_batch_size", "48"]) == 2
    message = capsys.readouterr().err
    assert "03.png" in message and "data.train, row 3" in message and "data.skip_bad" in message
    shutil.rmtree(tmp_path / "run")
    with caplog.at_level("WARNING", logger="data2vec"):
        assert main([recipe, *once, "--skip_bad", "true"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    left_out = results["run"]["left_out"]
    assert left_out.keys() == {"train", "test"} and all(sum(counts.values()) == 1 for counts in left_out.values())
    assert results["test"]["examples"] == 20 and results["run"]["train_examples"] == 47
    assert "03.png" in caplog.text and "01.png" in caplog.text


def test_a_class_that_train_does_not_have(tmp_path, images, encoders, capsys):
    other = copied(images, tmp_path / "images")
    shutil.move(other / "test" / "square", other / "test" / "hexagon")
    recipe = write_recipe(tmp_path / "run.yaml", encoders["v1"], other)
    assert main([recipe]) == 2
    message = capsys.readouterr().err
    assert "data.test, row 7: its label 'hexagon' is not one of circle, square, stripes" in message


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--labels_per_class", "19"], "data.labels_per_class = 19 is invalid: of class"),
        (["--mixpu", "0.3"], "Did you mean --mixup?"),
        (["--task.flip", "1.5"], "task.flip = 1.5 is invalid: use a probability"),
        (["--layer_decay", "1.5"], "layer_decay = 1.5 is invalid"),
        (["--model.drop_pth_rate", "0.1"], "did you mean 'drop_path_rate'?"),
        (["--model_name_or_path", "/nowhere/at/all"], "model.model_name_or_path = '/nowhere/at/all' cannot be opened"),
        (["--train.split", "trian"], "data source"),
        (["--validation_share", "0"], "set data.validation or data.validation_share"),
        (["--freeze_feature_encoder", "true"], "has no convolutional front end"),
        (["--resolution", "18"], "data.resolution = 18 is invalid: use multiples"),
        (["--train.lable_column", "x"], "data.train.lable_column"),
    ],
)
def test_refusals_name_the_field_and_the_fix(tmp_path, images, encoders, capsys, arguments, words):
    recipe = write_recipe(tmp_path / "run.yaml", encoders["v1"], images)
    assert main([recipe, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_head_for_other_labels_is_refused(finished, tmp_path, images, capsys):
    two = copied(images, tmp_path / "images")
    for split in ("train", "test"):
        shutil.rmtree(two / split / "stripes")
    recipe = write_recipe(tmp_path / "run.yaml", finished[0] / "v1", two)
    assert main([recipe]) == 2
    assert "its head is for other labels" in capsys.readouterr().err


def test_it_learns(tmp_path, images, encoders):
    """Shapes that a linear layer on noise would not tell apart, in a few seconds."""
    steps = {"max_steps": 60, "learning_rate": 4e-3, "layer_decay": 1.0, "eval_steps": 60, "save_steps": 60}
    mild = {"rand_augment_operations": 0, "erasing": 0.0, "mixup": 0.2, "cutmix": 0.0, "crop_area": [0.8, 1.0]}
    recipe = write_recipe(tmp_path / "run.yaml", encoders["v1"], images, training=steps, task=mild)
    assert main([recipe]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"]["accuracy"] > 0.8


def test_real_images(tmp_path, encoders):
    data = str(SAMPLES / "fashion_mnist_small")
    recipe = write_recipe(tmp_path / "run.yaml", encoders["v2"], data)
    few = ["--train.split", "train[:60]", "--test.split", "test[:30]", "--max_steps", "1", "--eval_strategy", "no"]
    assert main([recipe, *few, "--load_best_model_at_end", "false", "--validation_share", "0"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"].keys() >= {"accuracy", "top5", "loss"} and results["test"]["examples"] == 30


def test_what_is_shrunk_and_loses_its_colour_is_said(tmp_path, images):
    rows = [{"image": {"path": str(path), "bytes": None}} for path in sorted(images.glob("test/*/*.png"))]
    with Image.open(rows[0]["image"]["path"]) as first:
        width, height = first.size
    found = compare_images(rows, (height - 1, width - 1), 1)
    assert found.looked_at == len(found.large) == len(rows) and not found.small
    words = f"of {len(rows)} images looked at, {len(rows)} lose their colour; {len(rows)} are shrunk to "
    assert found.lost((height - 1, width - 1)) == f"{words}{height - 1} x {width - 1}, one from {height} x {width}"
    assert compare_images(rows, (height, width), 3).lost((height, width)) is None


def test_fine_tuning_says_it_before_it_starts(tmp_path, images, encoders, caplog):
    recipe = write_recipe(tmp_path / "run.yaml", encoders["v2"], images)
    one = ["--max_steps", "1", "--resolution", "8", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    assert main([recipe, *one]) == 0
    assert "data.train: of" in caplog.text and "are shrunk to 8 x 8" in caplog.text
