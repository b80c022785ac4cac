"""Runs on several streams: one checkpoint evaluated by each of them, streams that are not needed, and refusals."""

import io
import json
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import AutoModelForCTC, AutoModelForVideoClassification, AutoProcessor

from data2vec.finetune.run_ctc import main as recognise
from data2vec.finetune.run_video_classification import main as classify
from data2vec.finetune.streams import StreamsReader, StreamsTaskArguments
from data2vec.modeling import AvData2VecFeatureExtractor, AvData2VecModel, SvData2VecFeatureExtractor, SvData2VecModel
from data2vec.pretraining.data.skeleton_video import SkeletonVideoData, SkeletonVideoDataArguments
from tests.modeling.tiny_streams import av_config, sv_config


COMMANDS = {"sv": classify, "av": recognise}
SETS = {"sv": ["video+skeleton", "skeleton", "video"], "av": ["audio+video", "audio", "video"]}
ENCODERS = {
    "sv": (SvData2VecModel, sv_config, SvData2VecFeatureExtractor),
    "av": (AvData2VecModel, av_config, AvData2VecFeatureExtractor),
}
FRAMES = 11


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def sv_row(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """A person at the left or at the right; the film is bright or dark as well."""
    side = number % 2
    points = rng.normal(2 + 5 * side, 0.5, (FRAMES, 1, 5, 2)).astype(np.float32)
    film = rng.integers(100 * side, 100 * side + 120, (FRAMES, 10, 10, 3), dtype=np.uint8)
    return {"video": npy(film), "skeleton": npy(points), "label": ("left", "right")[side]}


def av_row(number: int, rng: np.random.Generator) -> dict[str, Any]:
    frames, sound = FRAMES + number % 3, io.BytesIO()
    soundfile.write(sound, rng.normal(scale=0.1, size=640 * frames), 16000, format="wav")
    film = rng.integers(0, 255, (frames, 12, 11), dtype=np.uint8)
    return {"video": npy(film), "audio": sound.getvalue(), "text": "ab a"[: 1 + number % 4]}


@pytest.fixture(scope="module", params=["sv", "av"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, kind):
    """An encoder as pretraining leaves it, and clips."""
    found = tmp_path_factory.mktemp(kind)
    model_class, config, extractor = ENCODERS[kind]
    torch.manual_seed(0)
    made = config(num_channels=3) if kind == "sv" else config()
    model_class(made).save_pretrained(found / "encoder")
    extractor.of(made).save_pretrained(found / "encoder")
    for split, size in (("train", 16), ("test", 6)):
        rng = np.random.default_rng(size)
        rows = [{"sv": sv_row, "av": av_row}[kind](number, rng) for number in range(size)]
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
    row = sv_row(0, rng)
    counts = np.zeros(3)
    for _ in range(600):
        video, skeleton = reader(row, rng)["stream_mask"].tolist()
        counts[2 if video and skeleton else int(skeleton)] += 1
    assert np.abs(counts / 600 - (0.7, 0.2, 0.1)).max() < 0.06
    assert set(reader(row, None)) == {"pixel_values", "keypoint_values"}
    assert set(reader(row, None, "video")) == {"pixel_values"}
