"""Whose checkpoint is it: continued by its own run, refused by name in any other."""

import errno
import io
import json
import shutil
from pathlib import Path

import pytest
import yaml

from data2vec.pretraining.checkpoints.run_folder import check_same_recipe, identity_of
from data2vec.pretraining.checkpoints.storage import MANIFEST, list_checkpoints
from data2vec.pretraining.console.help import EXIT_REFUSED, EXIT_STORAGE
from data2vec.pretraining.run import main
from data2vec.tests.pretraining.tiny_runs import recipe


STEPS = {"max_steps": 4, "save_steps": 2, "save_total_limit": 3}


def run(folder: Path, system: str = "vision-1", objective: dict | None = None, **training) -> int:
    sections = recipe(system, folder, folder, **STEPS | training)
    sections["objective"] |= {"ema_anneal_steps": 2} | (objective or {})
    path = folder.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections))
    return main([str(path)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(folder) == 0
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-2", "checkpoint-4"]
    return folder


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"seed": 43}, "checkpoint-4 is of a run with another training.seed: 42 there, 43 here"),
        ({"system": "vision-2"}, "checkpoint-4 is of a run with another model."),
        ({"objective": {"top_k_layers": 1}}, "another objective.top_k_layers: 2 there, 1 here"),
    ],
)
def test_another_runs_checkpoint_is_refused_by_name(finished, tmp_path, capsys, now, words):
    """Copied into an empty folder: there is no recipe.yaml that could tell."""
    shutil.copytree(finished / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    assert run(tmp_path / "run", **now) == EXIT_REFUSED
    message = capsys.readouterr().err
    assert words in message and "training.output_dir" in message and "Traceback" not in message


def test_a_copy_under_another_step_is_refused(finished, tmp_path, capsys):
    shutil.copytree(finished / "checkpoint-2", tmp_path / "run" / "checkpoint-15")
    assert run(tmp_path / "run", max_steps=20) == EXIT_REFUSED
    assert "checkpoint-15 was written as checkpoint-2 and renamed or copied" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["no files", "no run"])
def test_a_manifest_that_was_edited_never_starts_a_fresh_optimizer(finished, tmp_path, capsys, harm):
    checkpoint = tmp_path / "run" / "checkpoint-2"
    shutil.copytree(finished / "checkpoint-2", checkpoint)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps(manifest | {"files" if harm == "no files" else "run": {}}))
    (checkpoint / "optimizer.pt").unlink()
    assert run(tmp_path / "run") == EXIT_REFUSED
    assert "manifest.json was changed after it was written" in capsys.readouterr().err


def test_another_length_and_batch_layout_continue(finished, tmp_path):
    shutil.copytree(finished / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    layout = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "dataloader_num_workers": 1}
    assert run(tmp_path / "run", max_steps=6, learning_rate=2e-3, **layout) == 0
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 6
    assert "1 x 4 x 1 before, 1 x 2 x 2 now" in (tmp_path / "run" / "logs" / "rank-0.log").read_text()


def test_a_disk_that_is_full_for_a_small_file_is_said_in_health_json(tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr("torch.save", full)
    assert run(tmp_path / "run") == EXIT_STORAGE
    assert "checkpoint-2 could not be written" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "health.json").read_text())["state"] == "failed"


def test_output_that_nobody_reads_is_no_full_disk(tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        run(tmp_path / "run")
    health = json.loads((tmp_path / "run" / "health.json").read_text())
    assert health["state"] == "failed" and health["message"] == "BrokenPipeError: [Errno 32] Broken pipe"


@pytest.mark.parametrize("text", ["", "[]", "{", "5"])
def test_a_damaged_run_json_is_named(finished, tmp_path, capsys, text):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(text)
    assert run(tmp_path / "run") == EXIT_REFUSED
    message = capsys.readouterr().err
    assert "run.json is damaged" in message and "remove it" in message


@pytest.mark.parametrize("text", ["", "[]", "model: 5", "a: {"])
def test_a_damaged_recipe_is_named(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml"):
        check_same_recipe(tmp_path, identity_of({"model": {"a": 1}}, ["model"]))


def test_secrets_and_dates_are_compared_without_being_kept(tmp_path):
    sections = {"data": yaml.safe_load("{path: 'https://me:secret@host/x', keep: {day: [2020-01-01]}, token: abc}")}
    identity = identity_of(sections, ["data"])
    assert "secret" not in json.dumps(identity) and "abc" not in json.dumps(identity)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(identity))
    check_same_recipe(tmp_path, identity)
