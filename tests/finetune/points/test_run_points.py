"""Runs on clouds: what they leave, how blocks are frozen, votes, episodes, parts, and what is refused."""

import json
import statistics

import datasets
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoFeatureExtractor

from data2vec.finetune.arguments import parse
from data2vec.finetune.help_text import RECIPES
from data2vec.finetune.points.classification import PointCloudClassification
from data2vec.finetune.points.reading import IGNORED, collate_clouds
from data2vec.finetune.points.segmentation import PartSegmentation
from data2vec.finetune.run_part_segmentation import main as segment
from data2vec.finetune.run_point_cloud_classification import main as classify
from data2vec.modeling import (
    Point2VecFeatureExtractor,
    Point2VecForPartSegmentation,
    Point2VecForPointCloudClassification,
    Point2VecModel,
)
from data2vec.pretraining.data.builtin_shapes import SOLIDS
from tests.modeling.tiny_point2vec import points_config


KINDS = ("ball", "box", "ring")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    Point2VecModel(points_config()).save_pretrained(folder)
    Point2VecFeatureExtractor(num_points=37).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """A ball, box or ring of 53 points each; the parts of a category are its two halves."""
    folder = tmp_path_factory.mktemp("clouds")
    for split, size in (("train", 24), ("test", 12)):
        rng, rows = np.random.default_rng(size), {"points": [], "label": []}
        for number in range(size):
            kind = number % 3
            points = SOLIDS[KINDS[kind]](53, rng)
            parts = 2 * kind + (points[:, 2:] > 0)
            rows["points"].append(np.hstack((points, parts)).flatten().tolist())
            rows["label"].append(KINDS[kind])
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"{split}.parquet")
    return folder


def recipe(path, encoder, clouds, **changed):
    sections = {
        "model": {"model_name_or_path": str(encoder), "classifier_dropout": 0.1},
        "data": {
            "train": {"path": str(clouds / "train.parquet")},
            "test": {"path": str(clouds / "test.parquet")},
            "point_columns": 4,
        },
        "task": {"scale": [0.9, 1.1], "rotate": "vertical", "vertical": "z"},
        "training": {
            "output_dir": str(path / "run"), "max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3,
            "save_steps": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
        },
    }  # fmt: skip
    for section, fields in changed.items():
        sections[section] |= fields
    (path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    return [str(path / "recipe.yaml")]


def results(path):
    return json.loads((path / "run" / "results.json").read_text())


def test_a_classifier_learns_and_its_folder_opens(tmp_path, encoder, clouds):
    words = recipe(tmp_path, encoder, clouds, training={"max_steps": 80, "learning_rate": 5e-3}, task={"votes": 3})
    assert classify(words) == 0
    found = results(tmp_path)
    assert found["main"] == {"split": "test", "metric": "accuracy", "value": found["test"]["accuracy"]}
    assert found["test"]["accuracy"] == found["test"]["class_accuracy"] >= 0.75  # a third by chance
    model = Point2VecForPointCloudClassification.from_pretrained(tmp_path / "run").eval()
    assert set(model.config.id2label.values()) == set(KINDS)
    processor = AutoFeatureExtractor.from_pretrained(tmp_path / "run")
    row = datasets.load_dataset("parquet", data_files=str(clouds / "test.parquet"), split="train")[1]
    points = np.reshape(row["points"], (-1, 4))
    batch = processor(points)
    logits = [model(**batch, start=torch.tensor([37 * vote // 3])).logits.softmax(-1) for vote in range(3)]
    first = json.loads((tmp_path / "run" / "predictions" / "test.jsonl").read_text().splitlines()[1])
    voted = dict(zip(model.config.id2label.values(), torch.stack(logits).mean(0)[0].tolist(), strict=True))
    assert first["label"] == row["label"]
    assert first["scores"] == pytest.approx(voted, abs=1e-4)
    assert classify(words) == 0  # it is finished


def test_blocks_are_frozen_at_first_and_the_tokenizer_is_not(tmp_path, encoder, clouds):
    moved = {}
    for steps in (3, 1):
        folder = tmp_path / str(steps)
        folder.mkdir()
        assert classify(recipe(folder, encoder, clouds, training={"freeze_encoder_steps": steps})) == 0
        before = Point2VecModel.from_pretrained(encoder).state_dict()
        after = Point2VecModel.from_pretrained(folder / "run").state_dict()
        moved[steps] = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {3: {"embeddings", "positions"}, 1: {"embeddings", "positions", "encoder"}}


def test_episodes_have_their_ways_and_shots(tmp_path, encoder, clouds, capsys):
    data = {"ways": 2, "labels_per_class": 3, "test_per_class": 2, "episodes": 4}
    words = recipe(tmp_path, encoder, clouds, data=data, training={"seed": 5, "max_steps": 1})
    assert classify(words) == 0
    chosen, values = set(), []
    for number in range(4):
        folder = tmp_path / "run" / f"episode-{number}"
        found = json.loads((folder / "results.json").read_text())
        assert found["run"]["seed"] == 5 + number
        assert (found["run"]["train_examples"], found["test"]["examples"]) == (6, 4)
        rows = map(json.loads, (folder / "predictions" / "test.jsonl").read_text().splitlines())
        chosen.add(tuple(sorted({row["label"] for row in rows})))
        values.append(found["main"]["value"])
    assert len(chosen) > 1
    assert all(len(names) == 2 for names in chosen)
    main = results(tmp_path)["main"]
    assert (main["metric"], main["split"], main["values"]) == ("accuracy", "test", values)
    assert main["value"] == pytest.approx(statistics.mean(values))
    assert main["std"] == pytest.approx(statistics.stdev(values))

    (tmp_path / "run" / "results.json").unlink()  # as if it had been interrupted
    (tmp_path / "run" / "episode-3" / "results.json").unlink()
    capsys.readouterr()
    assert classify(words) == 0
    assert capsys.readouterr().out.count("is finished") == 3
    assert results(tmp_path)["main"] == main


def test_parts_are_found_and_measured(tmp_path, encoder, clouds):
    words = recipe(tmp_path, encoder, clouds, training={"max_steps": 60, "learning_rate": 5e-3})
    assert segment(words) == 0
    found = results(tmp_path)["test"]
    assert found["point_accuracy"] > 0.8  # a half by chance
    assert found["instance_miou"] > 0.6
    model = Point2VecForPartSegmentation.from_pretrained(tmp_path / "run")
    assert model.config.num_categories == 3
    assert [model.config.id2label[part] for part in (0, 1, 5)] == ["ball 0", "ball 1", "ring 5"]
    rows = list(map(json.loads, (tmp_path / "run" / "predictions" / "test.jsonl").read_text().splitlines()))
    assert np.mean([row["miou"] for row in rows]) == pytest.approx(found["instance_miou"], abs=1e-6)


def test_mious_are_those_of_a_naive_count():
    task = PartSegmentation.__new__(PartSegmentation)
    task.category_of = torch.tensor([0, 0, 1, 1, 1])
    rng = np.random.default_rng(0)
    labels = np.concatenate((rng.integers(0, 2, size=(5, 13)), rng.integers(2, 5, size=(7, 13))))
    chosen = np.concatenate((rng.integers(0, 2, size=(5, 13)), rng.integers(2, 5, size=(7, 13))))
    labels[3, 9:] = IGNORED
    labels[0], chosen[0] = 1, 1  # a part that is nowhere counts as found
    means = []
    for right, found in zip(labels, chosen, strict=True):
        parts = (0, 1) if right.max() < 2 else (2, 3, 4)
        shares = []
        for part in parts:
            a = {i for i, p in enumerate(right) if p == part}
            b = {i for i, p in enumerate(found) if p == part and right[i] != IGNORED}
            shares.append(len(a & b) / len(a | b) if a | b else 1.0)
        means.append(np.mean(shares))
    metrics = task.compute_metrics(type("Split", (), {"predictions": chosen, "label_ids": labels}))
    assert metrics["instance_miou"] == pytest.approx(np.mean(means))
    assert metrics["class_miou"] == pytest.approx((np.mean(means[:5]) + np.mean(means[5:])) / 2)
    logits = torch.full((1, 3, 5), -1.0)
    logits[..., 0] = 9.0  # of another category
    logits[0, :, 3] = torch.tensor([1.0, -2.0, 1.0])
    assert task.preprocess_logits(logits, torch.tensor([[2, 4, IGNORED]])).tolist() == [[3, 2, 3]]


def test_clouds_of_different_sizes_are_padded_with_their_parts():
    examples = [
        {"point_values": torch.ones(size, 3), "parts": torch.full((size,), size), "labels": size % 2}
        for size in (5, 3)
    ]
    batch = collate_clouds(examples)
    assert batch["labels"].tolist() == [[5] * 5, [3] * 3 + [IGNORED] * 2]
    assert batch["categories"].tolist() == [1, 1]
    assert batch["attention_mask"].sum(1).tolist() == [5, 3]


@pytest.mark.parametrize(
    ("name", "task", "epochs", "frozen"),
    [
        ("modelnet40", PointCloudClassification, 150, 100),
        ("scanobjectnn", PointCloudClassification, 150, 100),
        ("modelnet40_few_shot", PointCloudClassification, 150, 100),
        ("shapenet_part", PartSegmentation, 300, 0),
    ],
)
def test_recipes_are_those_published(name, task, epochs, frozen, encoder):
    """In updates of the published training sets: 9840 clouds, 11416, an episode's 100."""
    clouds = {"modelnet40": 9840, "scanobjectnn": 11416, "modelnet40_few_shot": 100, "shapenet_part": 14007}[name]
    words = [str(RECIPES / f"{name}.yaml"), "--model_name_or_path", str(encoder), "--bf16", "false"]
    run = parse([*words, "--report_to", "none"], task)
    updates = -(-clouds // run.training.per_device_train_batch_size)  # of an epoch
    assert run.training.num_train_epochs == epochs
    assert run.training.warmup_steps == pytest.approx(10 * updates, abs=9)
    assert run.training.freeze_encoder_steps == pytest.approx(frozen * updates, abs=99)
    assert getattr(run.data, "episodes", None) == (10 if "few" in name else None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episodes", "3"], "data.episodes = 3 is invalid: set data.ways too"),
        (["--ways", "2", "--episodes", "1"], "data.episodes = 1"),
        (["--ways", "4"], "data.ways = 4 is invalid: there are 3 classes"),
        (["--data.test_per_class", "9"], "of class"),
        (["--votes", "0"], "task.votes = 0"),
        (["--scale", "[2, 1]"], "task.scale"),
        (["--num_points", "0"], "data.num_points = 0"),
        (["--point_columns", "7"], "which are no points of data.point_columns = 7"),
    ],
)
def test_refusals_name_the_field(tmp_path, encoder, clouds, capsys, arguments, words):
    assert classify([*recipe(tmp_path, encoder, clouds), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_parts_across_categories_and_without_numbers_are_refused(tmp_path, encoder, clouds, capsys):
    rows = datasets.load_dataset("parquet", data_files=str(clouds / "train.parquet"), split="train")
    shared = [np.reshape(p, (-1, 4)) * [1, 1, 1, 0] for p in rows["points"]]
    changed = {"points": [p.flatten().tolist() for p in shared], "label": rows["label"]}
    datasets.Dataset.from_dict(changed).to_parquet(tmp_path / "train.parquet")
    words = recipe(tmp_path, encoder, clouds, data={"train": {"path": str(tmp_path / "train.parquet")}})
    assert segment(words) == 2
    assert "part 0 is in clouds of" in capsys.readouterr().err
    datasets.Dataset.from_dict(changed | {"points": [p[:, :3].flatten().tolist() for p in shared]}).to_parquet(
        tmp_path / "train.parquet"
    )
    assert segment([*words, "--point_columns", "3"]) == 2
    assert "has no part for each point" in capsys.readouterr().err
    assert segment([*words, "--votes", "2"]) == 2
    assert "task.votes" in capsys.readouterr().err
