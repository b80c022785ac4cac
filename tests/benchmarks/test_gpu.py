"""benchmarks/gpu.py rehearsed without a GPU: tiny models, and a backend that traces and does not compile."""

import json
from pathlib import Path
from typing import Any

import pytest
from gpu import BATCHES, main
from systems import SYSTEMS


def test_arms_are_timed_and_a_failed_one_is_written(tmp_path: Path, script: Any) -> None:
    arms = ["data2vec", "data2vec training.torch_compile_backend=eager", "data2vec training.optim=none"]
    words = ["--size", "tiny", "--rounds", "2", "--json", str(tmp_path / "gpu.json"), "--arms", *arms]
    ended = script("gpu.py", "--system", "text_v2", *words)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["system"], row["arm"]) for row in found["results"]] == [("text_v2", arm) for arm in arms]
    eager, compiled, refused = found["results"]
    for row in (eager, compiled):
        assert row["samples_per_second"] * row["seconds"] == pytest.approx(2) and row["peak_bytes"] > 1e8
        assert row["mfu"] * found["machine"]["gemm"]["bf16"] * row["seconds"] == pytest.approx(row["flops"])
    assert compiled["first_step_seconds"] > 2 * compiled["seconds"]  # it was traced
    assert "'none'" in refused["error"] and "seconds" not in refused
    assert "| text_v2 | data2vec | " in ended.stdout


def test_what_has_no_number_in_time_is_written_as_such(tmp_path: Path, script: Any) -> None:
    words = ["--size", "tiny", "--minutes", "0", "--json", str(tmp_path / "gpu.json"), "--arms", "data2vec"]
    ended = script("gpu.py", "--system", "text_v1", *words)
    assert ended.returncode == 0, ended.stderr
    [row] = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert "ended" in row["error"]


def test_base_size_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--json", "unused.json"])
    with pytest.raises(SystemExit, match="There is no GPU"):
        main()


def test_every_system_has_a_batch() -> None:
    assert list(BATCHES) == list(SYSTEMS)
