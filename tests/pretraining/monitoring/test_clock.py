"""The time axis of a run: what counts as training and what does not."""

import json
import time

import pytest

from data2vec.pretraining.evaluation import online_probe
from data2vec.pretraining.monitoring.clock import TrainingClock
from data2vec.pretraining.run import main


@pytest.fixture
def now(monkeypatch) -> list[float]:
    seconds = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    return seconds


def test_it_counts_from_the_start_except_while_paused(now):
    clock = TrainingClock()
    now[0] += 7
    assert clock.seconds() == 0  # set-up
    clock.start()
    now[0] += 5
    with clock.paused():
        now[0] += 11
        assert clock.seconds() == 5
        with clock.paused():
            now[0] += 13
        now[0] += 17
        assert clock.seconds() == 5
    now[0] += 3
    clock.start(at=1000)  # the next epoch: it runs already
    assert clock.seconds() == 8


def test_it_goes_on_where_an_interrupted_run_was_and_ends_its_pauses_after_errors(now):
    clock = TrainingClock()
    with clock.paused():
        now[0] += 2
    clock.start(at=40)
    with pytest.raises(KeyError), clock.paused():
        now[0] += 2
        raise KeyError
    now[0] += 1
    assert clock.seconds() == 41


def test_a_run_logs_training_time_without_its_probes(tmp_path, monkeypatch):
    measure, count, late = online_probe.extract_features, time.perf_counter, []

    def slowly(*args, **kwargs):
        late.append(50)  # seconds by the clock, of student and teacher, on two splits: 200 a probe
        return measure(*args, **kwargs)

    monkeypatch.setattr(time, "perf_counter", lambda: count() + sum(late))
    monkeypatch.setattr(online_probe, "extract_features", slowly)
    small = "--max_steps 4 --probe_steps 2 --logging_steps 2 --save_steps 2 --ema_anneal_steps 2 --warmup_steps 0"
    small += " --model.num_hidden_layers 2 --top_k_layers 2 --use_cpu true --report_to none --disable_tqdm true"
    small += " --report null"
    begin = time.perf_counter()
    assert main(["demo_vision.yaml", *small.split(), "--output_dir", str(tmp_path)]) == 0
    wall = time.perf_counter() - begin
    logs = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    seconds = [log["training_seconds"] for log in logs]
    probes = [log["training_seconds"] for log in logs if "probe/knn_student" in log]
    assert seconds == sorted(seconds) and len(probes) == 3 and probes[0] == 0 < probes[1] < probes[2]
    assert seconds[-1] < wall - 3 * 200
    second = [log for log in logs if "loss" in log][1]  # two updates of 32, since the first log and the probe after it
    assert 2 * 32 / second["samples_per_second"] <= second["training_seconds"]
