"""The command as a user gives it: one process, two processes, interrupted, collapsed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from data2vec.pretraining.run import EXIT_COLLAPSED, EXIT_REFUSED, main
from tests.warm import commands_for


ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--max_steps", "6", "--save_steps", "3", "--logging_steps", "1", "--ema_anneal_steps", "4", "--probe", "null",
    "--per_device_train_batch_size", "8", "--model.num_hidden_layers", "2", "--top_k_layers", "2",
    "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true", "--save_total_limit", "3",
]  # fmt: skip


def launch(folder: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    how = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    # without --multi_gpu, `accelerate launch --cpu --num_processes 2` runs one process and says nothing
    how += ["--num_processes", str(processes), *(["--multi_gpu"] if processes > 1 else [])]
    environment = os.environ | {"PYTHONPATH": ""}
    launcher = [str(commands_for(environment) / "python"), "-m", "accelerate.commands.launch", *how]
    command = [*launcher, "pretraining/run.py", "demo_vision.yaml", *SMALL, "--output_dir", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def logs(folder: Path) -> list[dict]:
    state = json.loads((folder / "trainer_state.json").read_text())
    return [log for log in state["log_history"] if "loss" in log]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    done = launch(folder, "--gradient_accumulation_steps", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_run_folder_says_what_made_it(finished):
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert recipe["training"]["max_steps"] == 6 and recipe["objective"]["top_k_layers"] == 2
    facts = json.loads((finished / "run.json").read_text())
    assert "demo_vision.yaml" in facts["command"] and facts["versions"]["torch"] == torch.__version__
    assert {p.name for p in finished.iterdir()} >= {
        "config.json", "model.safetensors", "preprocessor_config.json", "pretraining", "checkpoint-6", "recipe.yaml",
    }  # fmt: skip


def test_two_processes_do_what_one_does_with_accumulation(finished, tmp_path):
    done = launch(tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = logs(finished), logs(tmp_path / "two")
    for name in ("loss", "target_std", "prediction_std", "position_std", "effective_rank", "masked_fraction"):
        assert [log[name] for log in two] == pytest.approx([log[name] for log in one], rel=1e-4), name
    expected = load_file(finished / "pretraining" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "two" / "pretraining" / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-3, msg=name)


def test_same_command_again_continues_where_it_stopped(finished, tmp_path):
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copytree(finished / "checkpoint-3", folder / "checkpoint-3")
    shutil.copy(finished / "recipe.yaml", folder)
    done = launch(folder, "--gradient_accumulation_steps", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    expected = load_file(finished / "pretraining" / "model.safetensors")
    got = load_file(folder / "pretraining" / "model.safetensors")
    assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in got)
    assert [log["loss"] for log in logs(folder)] == [log["loss"] for log in logs(finished)]


def test_another_recipe_does_not_continue_it(finished, capsys):
    assert main(["demo_vision.yaml", *SMALL, "--output_dir", str(finished), "--top_k_layers", "1"]) == EXIT_REFUSED
    message = capsys.readouterr().err
    assert "objective.top_k_layers: 2 there, 1 here" in message and "output_dir" in message


def test_collapse_has_an_exit_code_and_words(tmp_path):
    extreme = ["--ema_decay", "0.0", "--ema_end_decay", "0.0", "--ema_anneal_steps", "0", "--target_norm", "null"]
    extreme += ["--target_layer_norm", "layer", "--learning_rate", "0.03", "--max_steps", "400"]
    extreme += ["--logging_steps", "5", "--guard_start_step", "1", "--guard_patience", "2", "--save_steps", "5"]
    assert main(["demo_vision.yaml", *SMALL, "--output_dir", str(tmp_path), *extreme]) == EXIT_COLLAPSED
    assert not (tmp_path / "model.safetensors").exists()


def test_streaming_gives_an_encoder_too(tmp_path):
    assert main(["demo_vision.yaml", *SMALL, "--streaming", "true", "--output_dir", str(tmp_path)]) == 0
    log = logs(tmp_path)
    assert len(log) == 6 and all(0.4 < entry["masked_fraction"] < 0.7 for entry in log)
    assert (tmp_path / "model.safetensors").exists()


def test_dry_run_says_what_a_run_costs_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--model.hidden_size", "16", "--model.num_hidden_layers", "1", "--objective.top_k_layers", "1"]
    words = ["demo_vision", *small, "--gradient_accumulation_steps", "2", "--use_cpu", "true"]
    assert main([*words, "--dry-run"]) == 0
    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert said["data"] == "1,000 training examples" and said["steps"] == "1,500, 93.8 passes over the data"
    assert said["batch"].startswith("62 examples: 31.25 in memory at once x 2 accumulated x 1 devices")
    assert "GiB of this process" in said["memory"] and "s per step: about" in said["time"]
    assert list(tmp_path.iterdir()) == []
    assert main(["demo_vision", "--dry-run", "--sources", "[{path: none_such}]"]) == 2
