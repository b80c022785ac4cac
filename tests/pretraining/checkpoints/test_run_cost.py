"""What a training costs: in run.json, added up over the parts of a run."""

import json

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from data2vec.pretraining.checkpoints import run_cost as compute
from data2vec.pretraining.checkpoints.run_cost import ComputeCallback, peak_memory
from data2vec.pretraining.checkpoints.run_folder import write_run_files
from data2vec.pretraining.run import main
from tests.pretraining.tiny_runs import write_recipe


def cost(folder) -> dict[str, float]:
    return json.loads((folder / "run.json").read_text())["compute"]


def test_a_run_says_what_it_cost_and_goes_on_counting(tmp_path):
    recipe = write_recipe(tmp_path, "run", "vision-1", tmp_path)
    assert main([str(recipe)]) == 0
    first = cost(tmp_path / "run")
    assert 0 < first["wall_seconds"] < 600 and 0.1 < first["peak_memory_gib"] < 64
    assert ("peak_gpu_memory_gib" in first) == torch.cuda.is_available()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    facts["compute"] = {"wall_seconds": 1000.0, "peak_memory_gib": 99.5}
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    assert main([str(recipe), "--max_steps", "10"]) == 0
    second = cost(tmp_path / "run")
    assert 1000 < second["wall_seconds"] < 1600 and second["peak_memory_gib"] == 99.5


def test_a_run_that_starts_anew_counts_from_nothing(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"compute": {"wall_seconds": 1000.0}}))
    write_run_files(tmp_path, {})
    args, state = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(is_world_process_zero=True)
    callback = ComputeCallback()
    callback.on_train_begin(args, state, TrainerControl())
    callback.on_train_end(args, state, TrainerControl())
    assert cost(tmp_path)["wall_seconds"] < 100


def test_the_most_memory_that_was_held(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("VmPeak:\t 9999999 kB\nVmHWM:\t 1310720 kB\n")
    monkeypatch.setattr(compute, "STATUS", tmp_path / "status")
    assert peak_memory()["peak_memory_gib"] == pytest.approx(1.25)
    monkeypatch.setattr(compute, "STATUS", tmp_path / "absent")
    assert 0.1 < peak_memory()["peak_memory_gib"] < 64
