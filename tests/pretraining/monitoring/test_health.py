"""What a scheduler and a person see of a run without asking it."""

import json
import logging
import math
from types import SimpleNamespace

import pytest

from data2vec.pretraining.checkpoints.storage import StorageError
from data2vec.pretraining.engine.batch_layout import BY_COST, COUNTED, STREAM, Layout, changes
from data2vec.pretraining.monitoring import health
from data2vec.pretraining.monitoring.health import Health, logged_to


def state(step=0, **values):
    values = {"max_steps": 40, "epoch": step / 10, "log_history": [], "is_world_process_zero": True} | values
    return SimpleNamespace(global_step=step, **values)


ARGS = SimpleNamespace(world_size=3)


def read(folder):
    return json.loads((folder / "health.json").read_text())


def test_the_file_follows_the_run(tmp_path):
    watch = Health(tmp_path, lambda: {"train": {"truncated": 2, "empty": 3}, "eval": {}})
    watch.on_train_begin(ARGS, state(), None)
    assert read(tmp_path)["state"] == "running" and read(tmp_path)["loss"] is None
    watch.on_log(ARGS, state(7), None, logs={"loss": 1.5, "target_std": 0.8, "samples_per_second": 30.0, "epoch": 0.7})
    watch.on_save(ARGS, state(8), None)
    watch.on_log(ARGS, state(9), None, logs={"eval_loss": 2.0})
    seen = read(tmp_path)
    assert seen["step"] == 9 and seen["max_steps"] == 40 and seen["processes"] == 3
    assert seen["loss"] == 1.5 and seen["target_std"] == 0.8 and seen["last_checkpoint"] == "checkpoint-8"
    assert seen["skipped"]["train"] == {"truncated": 2, "empty": 3} and seen["updated"].endswith("+00:00")
    line = watch.finish("preempted", "told to stop")
    assert read(tmp_path)["state"] == "preempted" and read(tmp_path)["message"] == "told to stop"
    for part in ("preempted: step 9 of 40", "loss 1.5", "30.0 samples/s", "left out 5 files", "checkpoint-8"):
        assert part in line


def test_a_continued_run_knows_what_was_logged_before(tmp_path):
    watch = Health(tmp_path, dict)
    history = [
        {"loss": 3.0, "step": 5},
        {"loss": 2.0, "position_std": 0.4, "loss_utterance": 0.3, "utterance_target_std": 0.2, "step": 10},
        {"eval_loss": 1.0, "step": 10},
    ]
    watch.on_train_begin(ARGS, state(12, log_history=history), None)
    seen = read(tmp_path)
    assert (seen["loss"], seen["position_std"], seen["last_checkpoint"]) == (2.0, 0.4, "checkpoint-12")
    assert (seen["loss_utterance"], seen["utterance_target_std"]) == (0.3, 0.2) and "eval_loss" not in seen


def test_it_is_json_whatever_the_loss_is(tmp_path):
    watch = Health(tmp_path, dict)
    watch.on_train_begin(ARGS, state(), None)
    watch.on_log(ARGS, state(1), None, logs={"loss": math.nan, "learning_rate": math.inf})
    text = (tmp_path / "health.json").read_text()
    seen = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert seen["loss"] == "nan" and seen["learning_rate"] == "inf"
    assert "loss nan" in watch.finish("diverged")


def test_one_process_writes(tmp_path):
    watch = Health(tmp_path, dict)
    watch.on_train_begin(ARGS, state(is_world_process_zero=False), None)
    watch.on_log(ARGS, state(1), None, logs={"loss": 1.0})
    watch.finish("finished")
    assert not list(tmp_path.iterdir())


def test_no_token_is_logged_or_kept(tmp_path):
    token = "hf_" + "aB3" * 10
    with logged_to(tmp_path, 0):
        logging.getLogger("data2vec.anything").warning("GET https://user:%s@host", token)
        logging.getLogger("transformers").error("token=%s", token)
    watch = Health(tmp_path, dict)
    watch.on_train_begin(ARGS, state(), None)
    watch.finish("failed", f"HTTPError: 401 with {token}")
    for path in (tmp_path / "logs" / "rank-0.log", tmp_path / "health.json"):
        assert "***" in path.read_text() and token not in path.read_text()


def test_the_log_is_rotated_and_kept_apart_by_rank(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(health, "LOG_BYTES", 1000)
    monkeypatch.setattr(health, "LOG_FILES", 2)
    level = logging.getLogger("data2vec.pretraining.monitoring.health").level
    with logged_to(tmp_path, 5):
        for i in range(200):
            logging.getLogger("data2vec.some.module").warning("line %d", i)
        health.logger.info("into the file only")
    logging.getLogger("data2vec.some.module").warning("after")
    files = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert files == ["rank-5.log", "rank-5.log.1", "rank-5.log.2"]
    assert all((tmp_path / "logs" / name).stat().st_size <= 1000 for name in files)
    newest = (tmp_path / "logs" / "rank-5.log").read_text()
    assert "line 199" in newest and "into the file only" in newest and "after" not in newest
    assert "into the file only" not in capsys.readouterr().err
    assert logging.getLogger("data2vec.pretraining.monitoring.health").level == level


def test_a_health_file_that_cannot_be_written_stops_the_run(tmp_path):
    watch = Health(tmp_path / "gone", dict)
    with pytest.raises(StorageError, match=r"health.json could not be written"):
        watch.on_train_begin(ARGS, state(), None)


class TestLayout:
    BEFORE = Layout(processes=2, batch_size=4, accumulation=3, workers=1, batches=COUNTED, threads=1, torch="2.13")

    def test_it_survives_json(self):
        assert Layout.from_dict(json.loads(json.dumps(self.BEFORE.to_dict()))) == self.BEFORE

    @pytest.mark.parametrize(
        ("now", "words"),
        [
            ({}, None),
            ({"workers": 9}, None),  # does not matter to a map-style data set
            ({"processes": 1, "accumulation": 6}, "every update sees the examples and masks that it would have seen"),
            ({"batch_size": 8}, "effective batch was 24 and is 48"),
            ({"processes": 1, "accumulation": 6, "batches": BY_COST}, "batches bounded by cost are other ones"),
            ({"processes": 1, "accumulation": 6, "batches": STREAM}, "a stream is dealt out to the processes"),
            ({"workers": 9, "batches": STREAM}, "1 loader workers before, 9 now"),
            ({"threads": 2}, "CPU threads of a process: 1 before, 2 now"),
            ({"torch": "2.14"}, "torch: 2.13 before, 2.14 now"),
        ],
    )
    def test_what_is_not_exact_is_said(self, now, words):
        after = Layout.from_dict(self.BEFORE.to_dict() | now)
        before = Layout.from_dict(self.BEFORE.to_dict() | {"batches": after.batches})
        said = changes(before, after)
        assert (said == []) if words is None else (len(said) == 1 and words in said[0])
