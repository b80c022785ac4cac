"""Runs on several streams: one checkpoint evaluated by each of them, streams that are not needed, and refusals."""

import io
import json
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCTC, AutoModelForVideoClassification, AutoProcessor

from data2vec.finetune.help_text import RECIPES
from data2vec.finetune.run_ctc import main as recognise
from data2vec.finetune.run_video_classification import main as classify
from data2vec.finetune.streams import StreamsReader, StreamsTaskArguments
from data2vec.pretraining.modalities.skeleton_video import SkeletonVideoData, SkeletonVideoDataArguments
from tests.finetune.clips import ENCODERS, figure_row, talk_row
from tests.modeling.tiny_streams import av_config, sv_config


COMMANDS = {"sv": classify, "av": recognise}
SETS = {"sv": ["video+skeleton", "skeleton", "video"], "av": ["audio+video", "audio", "video"]}


@pytest.fixture(scope="module", params=["sv", "av"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, kind):
    """An encoder as pretraining leaves it, and clips."""
    found = tmp_path_factory.mktemp(kind)
    model_class, extractor = ENCODERS[kind]
    torch.manual_seed(0)
    made = sv_config(num_channels=3) if kind == "sv" else av_config()
    model_class(made).save_pretrained(found / "encoder")
    extractor.of(made).save_pretrained(found / "encoder")
    for split, size in (("train", 16), ("test", 6)):
        rng = np.random.default_rng(size)
        rows = [{"sv": figure_row, "av": talk_row}[kind](number, rng) for number in range(size)]
        datasets.Dataset.from_list(rows).to_parquet(found / f"{split}.parquet")
    return found


def recipe(path, folder, **changed) -> list[str]:
    sections: dict[str, Any] = {
        "model": {"model_name_or_path": str(folder / "encoder")},
        "data": {split: {"path": str(folder / f"{split}.parquet")} for split in ("train", "test")},
        "task": {},
        "training": {
            "output_dir": str(path / "run"), "max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3,
            "save_steps": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
        },
    }  # fmt: skip
    for section, fields in changed.items():
        sections[section] |= fields
    (path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    return [str(path / "recipe.yaml")]


def results(path) -> dict[str, Any]:
    return json.loads((path / "run" / "results.json").read_text())


def test_one_checkpoint_is_evaluated_by_each_stream(tmp_path, kind, folder):
    both, one, other = SETS[kind]
    task = {"train_streams": {both: 0.5, one: 0.25, other: 0.25}, "test_streams": [both, one, other]}
    steps = {"max_steps": 30 if kind == "sv" else 4, "learning_rate": 5e-3}
    assert COMMANDS[kind](recipe(tmp_path, folder, task=task, training=steps)) == 0
    found, metric = results(tmp_path), {"sv": "accuracy", "av": "wer"}[kind]
    assert found["main"] == {"split": "test", "metric": metric, "value": found["test"][metric]}
    losses = [found[split]["loss"] for split in ("test", f"test_{one}", f"test_{other}")]
    assert len(set(losses)) == 3 and np.isfinite(losses).all()
    if kind == "sv":  # either stream tells where the person is
        assert [found[split]["accuracy"] for split in ("test", "test_skeleton", "test_video")] == [1, 1, 1]
    for split in ("test", f"test_{one}", f"test_{other}"):
        assert (tmp_path / "run" / "predictions" / f"{split}.jsonl").is_file()

    # the folder opens, and says the same of a clip
    row = datasets.load_dataset("parquet", data_files=str(folder / "test.parquet"), split="train")[1]
    film = np.load(io.BytesIO(row["video"]))
    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    said = json.loads((tmp_path / "run" / "predictions" / f"test_{other}.jsonl").read_text().splitlines()[1])
    with torch.no_grad():
        if kind == "sv":
            model = AutoModelForVideoClassification.from_pretrained(tmp_path / "run")
            logits = model(**processor(videos=film)).logits[0].softmax(-1).tolist()
            named = dict(zip(model.config.id2label.values(), logits, strict=True))
            assert said["scores"] == pytest.approx(named, abs=1e-4)
        else:
            model = AutoModelForCTC.from_pretrained(tmp_path / "run")
            ids = model(**processor.feature_extractor(videos=film)).logits.argmax(-1)
            assert processor.batch_decode(ids)[0] == said["prediction"]


def test_a_stream_that_nobody_reads_need_not_be_there(tmp_path, kind, folder):
    beside = {"sv": "skeleton", "av": "audio"}[kind]
    for split in ("train", "test"):
        rows = datasets.load_dataset("parquet", data_files=str(folder / f"{split}.parquet"), split="train")
        rows.remove_columns(beside).to_parquet(tmp_path / f"{split}.parquet")
    data = {split: {"path": str(tmp_path / f"{split}.parquet")} for split in ("train", "test")}
    task = {"train_streams": {"video": 1.0}, "test_streams": ["video"]}
    assert COMMANDS[kind](recipe(tmp_path, folder, data=data, task=task)) == 0
    assert results(tmp_path)["test"]["examples"] == 6
    assert COMMANDS[kind](recipe(tmp_path, folder, data=data, training={"output_dir": str(tmp_path / "both")})) == 2


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"train_streams": {"video": 0.5}}, "task.train_streams"),
        ({"train_streams": {"smell": 1.0}}, "task.train_streams"),
        ({"test_streams": ["video", "video"]}, "task.test_streams"),
        ({"test_streams": ["video+smell"]}, "task.test_streams"),
    ],
)
def test_unknown_streams_are_refused(tmp_path, kind, folder, task, words, capsys):
    assert COMMANDS[kind](recipe(tmp_path, folder, task=task)) == 2
    assert words in capsys.readouterr().err


def test_training_draws_the_streams_by_their_shares():
    args = StreamsTaskArguments(train_streams={"video": 0.7, "skeleton": 0.2, "video+skeleton": 0.1})
    modality = SkeletonVideoData(SkeletonVideoDataArguments(sources=[{"path": "x"}]), sv_config(num_channels=3))
    reader, rng = StreamsReader(modality, args), np.random.default_rng(0)
    row = figure_row(0, rng)
    counts = np.zeros(3)
    for _ in range(600):
        video, skeleton = reader(row, rng)["stream_mask"].tolist()
        counts[2 if video and skeleton else int(skeleton)] += 1
    assert np.abs(counts / 600 - (0.7, 0.2, 0.1)).max() < 0.06
    assert set(reader(row, None)) == {"pixel_values", "keypoint_values"}
    assert set(reader(row, None, "video")) == {"pixel_values"}


@pytest.mark.parametrize("name", ["ntu60", "figures_small", "lrs3_433h"])
def test_recipes_take_a_step(tmp_path, kind, folder, name):
    if (name == "lrs3_433h") != (kind == "av"):
        return
    sections = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    sections["model"]["model_name_or_path"] = str(folder / "encoder")
    sections["data"] = {split: {"path": str(folder / f"{split}.parquet")} for split in ("train", "test")}
    sections["data"]["validation"] = sections["data"]["test"]
    sections["training"] |= {
        "output_dir": str(tmp_path / "run"), "max_steps": 1, "eval_steps": 1, "save_steps": 1, "bf16": False,
        "dataloader_num_workers": 0, "use_cpu": True, "report_to": "none",
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    assert COMMANDS[kind]([str(tmp_path / "recipe.yaml")]) == 0
    found = results(tmp_path)
    assert {f"test_{streams}" for streams in sections["task"]["test_streams"][1:]} <= set(found)
