"""Runs that are killed, signalled or out of disk, as commands; continued, they end as if nothing had been.

Three kills here, at chosen file operations; at random moments in every system: `make test-slow ARGS="-k matrix"`.
"""

import json
import shutil
import signal

import pytest
import yaml

from data2vec.pretraining.buffer import PROVENANCE
from data2vec.pretraining.checkpoints.storage import damage
from data2vec.pretraining.console.help import EXIT_PREEMPTED, EXIT_REFUSED, EXIT_STORAGE
from data2vec.pretraining.stages import BUFFERS, SUMMARY
from data2vec.tests.pretraining.kill_matrix import WAYS, differences, finish, logged, matrix, start
from data2vec.tests.pretraining.tiny_runs import JOINT, MODELS, staged_recipe, write_recipe, write_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder / "data")
    return folder / "data"


def how(way):
    fields = dict(WAYS[way])
    return {"processes": fields.pop("processes", 1)}, fields


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sources):
    """Two processes, accumulation 2: 8 updates of 16 images; checkpoints 6 and 8, and a copy of 4."""
    launch, fields = how("2 processes, accumulation 2")
    path = write_recipe(
        tmp_path_factory.mktemp("runs"), "run", "vision-1", sources, **fields | {"save_total_limit": 3}
    )
    finish(path, **launch)
    return path.with_suffix("")


def health(run):
    return json.loads((run / "health.json").read_text())


def checkpoints(run):
    return sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))


def test_a_stream_is_killed_while_it_writes_its_second_checkpoint(tmp_path, sources):
    launch, fields = how("stream, 2 workers")
    one = write_recipe(tmp_path, "one", "audio-1", sources, **fields)
    finish(one, **launch)
    other = write_recipe(tmp_path, "other", "audio-1", sources, **fields)
    assert start(other, **launch, signal_at=(2, 6, signal.SIGKILL)).wait() == -signal.SIGKILL
    run = other.with_suffix("")
    assert (run / "_writing" / "checkpoint-4").exists() and checkpoints(run) == [2]
    assert health(run)["state"] == "running" and health(run)["step"] == 3
    finish(other, **launch)
    assert not differences(one.with_suffix(""), run)
    assert health(run)["state"] == "finished" and not (run / "_writing").exists()


def test_two_processes_are_killed(tmp_path, sources, undisturbed):
    launch, fields = how("2 processes, accumulation 2")
    path = write_recipe(tmp_path, "run", "vision-1", sources, **fields)
    assert start(path, **launch, signal_at=(3, 4, signal.SIGKILL)).wait() == -signal.SIGKILL
    finish(path, **launch)
    assert not differences(undisturbed, tmp_path / "run")


@pytest.mark.parametrize(
    ("way", "method"),
    [
        ("2 workers, accumulation 2", "attention"),
        pytest.param("2 processes, accumulation 2", "error", marks=pytest.mark.slow),
    ],
)
def test_masks_that_depend_on_weights_are_chosen_alike(tmp_path, sources, way, method):
    """By what the teacher attends to, with loader workers that run ahead of the updates; by the student's error."""
    launch, fields = how(way)
    masking = f"{{method: {method}, candidates: 4, of: {{method: block, prob: 0.5, length: 2}}}}"
    launch |= {"overrides": ["--objective.masking", masking]}
    one = write_recipe(tmp_path, "one", "audio-2", sources, **fields)
    finish(one, **launch)
    other = write_recipe(tmp_path, "other", "audio-2", sources, **fields)
    assert start(other, **launch, signal_at=(2, 4, signal.SIGKILL)).wait() == -signal.SIGKILL
    finish(other, **launch)
    assert not differences(one.with_suffix(""), other.with_suffix(""))


@pytest.mark.slow  # quick: two processes, below and above; a joint run, as the second of ../test_stages.py
def test_a_joint_run_on_two_processes_is_killed(tmp_path, sources):
    """In the midst of a pass, with losses of several modalities that no log has told of yet."""
    launch, fields = how("2 processes, accumulation 2")
    one = write_recipe(tmp_path, "one", JOINT, sources, **fields)
    finish(one, **launch)
    other = write_recipe(tmp_path, "other", JOINT, sources, **fields)
    assert start(other, **launch, signal_at=(3, 4, signal.SIGKILL)).wait() == -signal.SIGKILL
    finish(other, **launch)
    assert not differences(one.with_suffix(""), tmp_path / "other")
    logs = logged(tmp_path / "other")
    losses = {name for log in logs for name in log if name.endswith("/loss")}
    assert losses == {"vision/loss", "text/loss", "audio/loss"}


@pytest.mark.slow  # three runs of two stages
def test_stages_on_two_processes_are_killed(tmp_path, sources):
    """In the second stage, which reads what the first one's process chose."""
    launch, fields = how("2 processes, accumulation 2")
    paths = [tmp_path / f"{name}.yaml" for name in ("one", "other")]
    for path in paths:
        made = staged_recipe(sources, path.with_suffix(""))
        made["training"] |= fields
        path.write_text(yaml.safe_dump(made))
    finish(paths[0], **launch)
    assert start(paths[1], **launch, signal_at=(4, 4, signal.SIGKILL)).wait() == -signal.SIGKILL
    assert not (tmp_path / "other" / SUMMARY).exists()
    finish(paths[1], **launch)
    for stage in ("1_text", "2_vision"):
        assert not differences(tmp_path / "one" / stage, tmp_path / "other" / stage)
    for place in (SUMMARY, f"{BUFFERS}/text/{PROVENANCE}"):
        one, other = ((tmp_path / name / place).read_text().replace(f"/{name}/", "") for name in ("one", "other"))
        assert one == other


def test_one_of_two_processes_is_told_to_stop(tmp_path, sources, undisturbed):
    launch, fields = how("2 processes, accumulation 2")
    path = write_recipe(tmp_path, "run", "vision-1", sources, **fields)
    started = start(path, **launch, signal_at=(1, 4, signal.SIGTERM))  # in the write of checkpoint-2
    assert started.wait() == EXIT_PREEMPTED and {rank.exitcode for rank in started.ranks} == {EXIT_PREEMPTED}
    run = tmp_path / "run"
    newest = max(checkpoints(run))
    assert newest in (3, 4) and health(run)["state"] == "preempted" and health(run)["step"] == newest
    assert health(run)["last_checkpoint"] == f"checkpoint-{newest}"
    assert "SIGTERM: this step is finished and saved" in started.log.read_text()
    finish(path, **launch)
    assert not differences(undisturbed, run)


def test_another_split_of_the_same_batch_sees_the_same_examples(tmp_path, sources, undisturbed):
    """2 processes x 4 x 2 until update 4, then 1 process x 16."""
    path = write_recipe(tmp_path, "run", "vision-1", sources, per_device_train_batch_size=16)
    shutil.copytree(undisturbed / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    finish(path)
    # up to step 6: sums in another order drift apart from there
    runs = (undisturbed, tmp_path / "run")
    one, other = ([log for log in logged(run) if "loss" in log and log["step"] <= 6] for run in runs)
    assert [log["step"] for log in one] == [1, 3, 6]
    for a, b in zip(one, other, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "target_std", "masked_fraction", "epoch", "step"):
            assert b[name] == pytest.approx(a[name], rel=2e-3 if name == "grad_norm" else 1e-4), name
    log = (tmp_path / "run" / "logs" / "rank-0.log").read_text()
    assert "2 x 4 x 2 before, 1 x 16 x 1 now" in log and "every update sees the examples and masks" in log


def test_a_full_disk_stops_the_run_with_its_last_checkpoint_intact(tmp_path, sources, undisturbed):
    launch, fields = how("2 processes, accumulation 2")
    path = write_recipe(tmp_path, "run", "vision-1", sources, **fields)
    run = tmp_path / "run"
    shutil.copytree(undisturbed / "checkpoint-4", run / "checkpoint-4")
    started = start(path, **launch, file_limit=20_000)
    assert started.wait() == EXIT_STORAGE
    assert checkpoints(run) == [4] and damage(run / "checkpoint-4") is None and not (run / "_writing").exists()
    words = started.log.read_text()
    assert "checkpoint-6 could not be written" in words and "checkpoint-4, is intact" in words and "MiB" in words
    assert health(run)["state"] == "failed" and "could not be written" in health(run)["message"]
    finish(path, **launch)  # there is room again
    assert not differences(undisturbed, run)


def test_damaged_checkpoints_only_are_no_start_from_the_beginning(tmp_path, sources, undisturbed):
    path = write_recipe(tmp_path, "run", "vision-1", sources)
    shutil.copytree(undisturbed / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    (tmp_path / "run" / "checkpoint-4" / "optimizer.pt").unlink()
    started = start(path)
    assert started.wait() == EXIT_REFUSED
    assert "checkpoint-4: optimizer.pt is missing" in started.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("system", [*MODELS, JOINT])
def test_matrix(tmp_path, system):
    (row,) = matrix(tmp_path, [system], kills=20, seed=0, steps=60)
    assert row["exact"] == row["kills"] == 20, row["wrong"]
