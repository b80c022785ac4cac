"""Checkpoints as files: whole or invisible, damage named, old ones kept until a new one is safe."""

import errno
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException

from data2vec.pretraining.checkpoints import storage as checkpoints
from data2vec.pretraining.checkpoints.run_files import write_text
from data2vec.pretraining.checkpoints.storage import (
    MANIFEST,
    WRITING,
    StorageError,
    claimed,
    damage,
    exit_code,
    go_back,
    is_write_error,
    list_checkpoints,
    move_files,
    publish,
    read_manifest,
    recover,
    rotate,
    step_of,
    storage_error,
)


FILES = ("model.safetensors", "optimizer.pt", "shards/0.distcp")


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles errors may catch it."""


def write(run, step, text="weights"):
    """A checkpoint as a `Trainer` writes one, with a folder inside."""
    staged = run / WRITING / f"checkpoint-{step}"
    (staged / "shards").mkdir(parents=True)
    for i, name in enumerate(FILES):
        (staged / name).write_text(f"{text} {step} {name}" * (7 + i))
    return staged


def save(run, step, keep=None):
    publish(write(run, step), run / f"checkpoint-{step}", {"step": step})
    rotate(run, keep)


def visible(run):
    return sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))


def test_a_checkpoint_holds_what_was_written_and_says_so(tmp_path):
    save(tmp_path, 5)
    manifest = read_manifest(tmp_path / "checkpoint-5")
    assert manifest["step"] == 5
    assert set(manifest["files"]) == set(FILES)
    assert damage(tmp_path / "checkpoint-5") is None and recover(tmp_path) == tmp_path / "checkpoint-5"
    assert not (tmp_path / WRITING).exists()


def test_killed_at_any_operation_of_a_write_nothing_is_lost(tmp_path, monkeypatch):
    """Every fsync, rename, removal and hash of two saves with rotation, one by one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes the time of this test
    for last in itertools.count(1):
        run = tmp_path / str(last)
        run.mkdir()
        save(run, 1)
        left = last

        def deadly(function):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if left == 0:
                    raise Killed
                return function(*args, **kwargs)

            return call

        safe = [1]
        try:
            with monkeypatch.context() as patch:
                for owner, name in ((os, "fsync"), (os, "rename"), (shutil, "rmtree"), (checkpoints, "describe_file")):
                    patch.setattr(owner, name, deadly(getattr(owner, name)))
                for step in (2, 3):
                    save(run, step, keep=1)
                    safe.append(step)
        except Killed:
            pass
        newest = recover(run)
        assert newest is not None and damage(newest) is None
        assert int(newest.name.split("-")[1]) >= safe[-1], f"killed at operation {last}"
        assert all(damage(run / f"checkpoint-{step}") is None for step in visible(run))
        assert not (run / WRITING).exists()
        if left > 0:  # not killed any more: there are no more operations
            assert visible(run) == [3]
            break
    assert last > 20


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: os.truncate(path / "optimizer.pt", 20), "optimizer.pt has 20 bytes of"),
        (lambda path: (path / "shards/0.distcp").unlink(), "shards/0.distcp is missing"),
        (lambda path: (path / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda path: (path / MANIFEST).write_text("{"), "manifest.json is missing or unreadable"),
        (lambda path: forget(path, "shards/0.distcp"), "manifest.json was changed after it was written"),
        (lambda path: forget(path, *FILES), "manifest.json was changed after it was written"),
        (lambda path: (path / MANIFEST).write_text("[]"), "manifest.json is missing or unreadable"),
        (lambda path: flip_a_bit(path / "model.safetensors"), "model.safetensors is not what was written"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, harm, words):
    for step in (1, 2, 10):
        save(tmp_path, step)
    harm(tmp_path / "checkpoint-10")
    assert recover(tmp_path) == tmp_path / "checkpoint-2"
    assert words in caplog.text and "checkpoint-10 is damaged" in caplog.text and "checkpoint-2 is used" in caplog.text
    assert list_checkpoints(tmp_path)[-1] == tmp_path / "checkpoint-2"
    assert (tmp_path / "_damaged-checkpoint-10").is_dir()  # kept for a look
    save(tmp_path, 10)  # the run comes by again
    assert recover(tmp_path) == tmp_path / "checkpoint-10"


def forget(checkpoint, *names):
    """Files and what the manifest says of them are both gone."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    for name in names:
        (checkpoint / name).unlink()
        del manifest["files"][name]
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[11] ^= 4
    path.write_bytes(data)


def test_a_run_does_not_start_anew_because_all_its_checkpoints_are_damaged(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
        os.truncate(tmp_path / f"checkpoint-{step}" / "optimizer.pt", 3)
    with pytest.raises(ValueError, match=r"(?s)none that is complete.*checkpoint-2: optimizer.*checkpoint-1.*remove"):
        recover(tmp_path)
    assert visible(tmp_path) == [1, 2]
    assert recover(tmp_path / "new") is None


@pytest.mark.parametrize("name", ["a\nb", "tab\there", " blank ", "[1]*?", "checkpoint-9", "ünï"])
def test_checkpoints_are_found_whatever_the_folder_is_called(tmp_path, name):
    """`transformers`' own list has none of `a\\nb`, and takes checkpoint-9/checkpoint-best for a step."""
    run = tmp_path / name
    for step in (2, 10, 9):
        save(run, step, keep=2)
    for stray in ("checkpoint-best", "checkpoint-5-old", "old-checkpoint-7"):
        (run / stray).mkdir()
    (run / "checkpoint-11").write_text("a file")
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-9", "checkpoint-10"]
    assert recover(run) == run / "checkpoint-10"


def test_going_back_keeps_what_is_from_before_or_the_oldest(tmp_path):
    for step in (20, 100, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    go_back(tmp_path, 30)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [20, 30]
    go_back(tmp_path, 7)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [20]


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    os.utime(tmp_path / "checkpoint-1")  # as after a copy: the number counts, not the clock
    rotate(tmp_path, 3)
    assert visible(tmp_path) == [2, 3, 10]
    rotate(tmp_path, 1, best=str(tmp_path / "checkpoint-2"))
    assert visible(tmp_path) == [2, 10]
    rotate(tmp_path, None)
    assert visible(tmp_path) == [2, 10]


def test_the_same_step_saved_again_replaces_the_first(tmp_path):
    publish(write(tmp_path, 4, "old"), tmp_path / "checkpoint-4", {})
    publish(write(tmp_path, 4, "new"), tmp_path / "checkpoint-4", {})
    assert (tmp_path / "checkpoint-4" / "optimizer.pt").read_text().startswith("new")
    assert damage(tmp_path / "checkpoint-4") is None


def test_files_at_the_top_are_replaced_whole_and_the_config_last(tmp_path, monkeypatch):
    for folder, text in ((tmp_path / "top", "old"), (tmp_path / "staged", "new")):
        folder.mkdir()
        for name in ("config.json", "model.safetensors", "z.json"):
            (folder / name).write_text(text)
    order, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(b.name), replace(a, b)))
    move_files(tmp_path / "staged", tmp_path / "top")
    assert order == ["model.safetensors", "z.json", "config.json"]
    assert {path.read_text() for path in (tmp_path / "top").iterdir()} == {"new"}


def test_a_small_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "health.json"
    write_text(path, "{}")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "x" * 100)
    assert path.read_text() == "{}" and [p.name for p in tmp_path.iterdir()] == ["health.json"]


def test_a_full_disk_is_explained(tmp_path):
    save(tmp_path, 7)
    text = str(storage_error(tmp_path / "checkpoint-8", OSError(errno.ENOSPC, "No space left on device")))
    assert "checkpoint-8 could not be written" in text and "checkpoint-7, is intact" in text and "MiB" in text


def test_whatever_is_left_of_the_disk_it_is_full(tmp_path):
    """`torch.save` alone says it in four ways, by how many bytes still fit."""
    from data2vec.tests.finetune.encoders import processor

    tokenizer, tensor = processor("text"), torch.arange(3000.0)
    writers = {
        "state": lambda: torch.save({"a": tensor, "b": [tensor[:7].clone()] * 9}, tmp_path / "optimizer.pt"),
        "small": lambda: torch.save({"k": 1}, tmp_path / "scheduler.pt"),
        "old": lambda: torch.save({"a": tensor}, tmp_path / "old.bin", _use_new_zipfile_serialization=False),
        "weights": lambda: save_file({"a": tensor}, tmp_path / "model.safetensors"),
        "tokenizer": lambda: tokenizer.save_pretrained(tmp_path / "tokenizer"),
        "text": lambda: (tmp_path / "text.json").write_text("x" * 5000),
    }
    child = os.fork()
    if child == 0:  # the limit cannot be taken back everywhere
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        unknown, said = [], set()
        for room in (0, 1, 40, 300, 512, 777, 1024, 2000, 2700, 3100, 4096, 8192, 11000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            for write_one in writers.values():
                try:
                    write_one()
                except Exception as error:
                    said.add(str(error)[:20])
                    unknown += [] if is_write_error(error) else [error]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(2, "".join(f"{error!r}\n" for error in unknown).encode())
        os._exit(1 if unknown or len(said) < 4 else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("error", "write_error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True, 5),
        (OSError(errno.EIO, "Input/output error"), True, None),
        (StorageError("checkpoint-8 could not be written"), True, 5),
        (RuntimeError("basic_ios::clear: iostream error"), True, None),
        (Exception("No space left on device (os error 28)"), True, 5),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), False, None),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), False, None),
        (RuntimeError("CUDA out of memory"), False, None),
        (PermissionError(errno.EACCES, "Permission denied", "x.wav"), True, 2),
        (FloatingPointError("the loss is not finite"), False, 6),
        (ValueError("training.max_steps"), False, 2),
    ],
)
def test_errors_are_told_apart(error, write_error, code):
    assert is_write_error(error) is write_error and exit_code(error) == code


@pytest.mark.parametrize(("other", "full"), [(OSError(errno.EIO, "Input/output error"), True), (KeyError("a"), False)])
def test_shards_that_could_not_be_written_are_told_apart(other, full):
    failures = {0: (OSError(errno.ENOSPC, "No space left on device"), None), 1: (other, None)}
    assert is_write_error(CheckpointException("write", failures)) is full


def _hold(folder, ready, done):
    with claimed(folder):
        ready.set()
        done.wait(30)


def test_two_runs_do_not_share_a_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, done))
    other.start()
    assert ready.wait(30)
    with pytest.raises(ValueError, match="in use by another process"), claimed(tmp_path):
        pass
    other.kill()  # however it ends
    other.join()
    with claimed(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"(?s)could not be written.*permissions"),
        claimed(tmp_path / "file" / "run"),
    ):
        pass


def test_the_manifest_is_json_that_others_can_read(tmp_path):
    save(tmp_path, 3)
    manifest = json.loads((tmp_path / "checkpoint-3" / MANIFEST).read_text())
    assert all(set(facts) == {"bytes", "sha256"} for facts in manifest["files"].values())
