"""What a trainer does so that a run can be killed, told to stop and continued; whole commands are in test_kill.py."""

import errno
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback

from data2vec.pretraining.checkpoints import resume
from data2vec.pretraining.checkpoints.signals import Preemption, start_worker
from data2vec.pretraining.checkpoints.storage import StorageError, damage
from data2vec.pretraining.trainer import PretrainingArguments
from data2vec.tests.pretraining.kill_matrix import logged
from data2vec.tests.pretraining.test_trainer import make_trainer
from tests.warm import warm_python


def steps(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def logs(trainer):
    timings = ("_per_second", "_runtime", "_seconds")
    return [{k: v for k, v in log.items() if not k.endswith(timings)} for log in trainer.state.log_history]


def test_a_checkpoint_is_seen_when_it_is_complete_and_pushed_after(tmp_path, monkeypatch):
    seen, pushed = [], []
    trainer = make_trainer(tmp_path, save_steps=4, max_steps=8, save_total_limit=1)
    save = type(trainer)._save_rng_state

    def look(self, output_dir):
        seen.append((steps(tmp_path), [p.name for p in (tmp_path / "_writing").iterdir()]))
        save(self, output_dir)

    monkeypatch.setattr(type(trainer), "_save_rng_state", look)
    monkeypatch.setattr(resume, "push_checkpoint", lambda trainer, folder: pushed.append((folder, damage(folder))))
    trainer.args.push_to_hub = True
    trainer.train()
    assert seen == [([], ["checkpoint-4"]), ([4], ["checkpoint-8"])]  # the old one stays until the new one is safe
    assert pushed == [(tmp_path / f"checkpoint-{step}", None) for step in (4, 8)]
    assert steps(tmp_path) == [8]


def test_losses_that_were_not_logged_yet_are_in_the_checkpoint(tmp_path):
    """Logged every 3 and at both ends, saved every 4: after the resume the log of update 6 is about 4, 5 and 6."""
    how = {"logging_steps": 3, "save_steps": 4, "max_steps": 8}
    straight = make_trainer(tmp_path / "one", **how)
    straight.train()
    resumed = make_trainer(tmp_path / "two", **how)
    shutil.copytree(tmp_path / "one" / "checkpoint-4", tmp_path / "two" / "checkpoint-4")
    resumed.train(resume_from_checkpoint=True)
    assert [log["step"] for log in logs(straight)] == [1, 3, 6, 8, 8]
    assert logs(resumed) == logs(straight) and "train_loss" in logs(straight)[-1]
    assert logged(tmp_path / "one" / "checkpoint-8") == logged(tmp_path / "two" / "checkpoint-8")


def test_a_run_continued_after_its_last_step_makes_no_other(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=4)
    trainer.train()
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    again = make_trainer(tmp_path, max_steps=4)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4 and steps(tmp_path) == [4] and logs(again) == logs(trainer)
    assert all(torch.equal(before[name], tensor) for name, tensor in again.model.state_dict().items())


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_half_written(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, save_steps=2, max_steps=8)
    save, calls = torch.save, []

    def full(what, path, *args, **kwargs):
        calls.append(str(path))
        if "checkpoint-4" in str(path) and str(path).endswith("optimizer.pt"):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(what, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match=r"checkpoint-4 could not be written.*checkpoint-2, is intact"):
        trainer.train()
    assert any("checkpoint-4" in call for call in calls)
    assert steps(tmp_path) == [2] and damage(tmp_path / "checkpoint-2") is None
    assert not (tmp_path / "_writing").exists()


def test_other_errors_in_a_save_are_not_called_a_full_disk(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, save_steps=2, max_steps=8)

    def broken(self, output_dir):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", broken)
    with pytest.raises(RuntimeError, match="CUDA"):
        trainer.train()


class Interrupt(TrainerCallback):
    """A signal in the middle of an update."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(tmp_path, number, capfd):
    before = signal.getsignal(number)
    how = {"logging_steps": 2, "save_steps": 4, "max_steps": 8}
    trainer = make_trainer(tmp_path / "one", callbacks=[Interrupt(3, number)], **how)
    trainer.train()
    assert trainer.preempted and trainer.state.global_step == 3 and steps(tmp_path / "one") == [3]
    assert f"{number.name}: this step is finished" in capfd.readouterr().err
    assert signal.getsignal(number) is before
    resumed = make_trainer(tmp_path / "one", **how)
    resumed.train(resume_from_checkpoint=True)
    straight = make_trainer(tmp_path / "two", **how)
    straight.train()
    assert not resumed.preempted and logs(resumed) == logs(straight)
    a, b = straight.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_unhealthy_state_is_not_saved_by_a_signal_either(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[Interrupt(3)], save_steps=2)
    trainer.guards[""].unhealthy_since = 3
    trainer.train()
    assert trainer.preempted and trainer.state.global_step == 3 and steps(tmp_path) == []


def test_a_signal_in_the_last_step_does_not_make_the_run_unfinished(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[Interrupt(8)])
    trainer.train()
    assert not trainer.preempted and steps(tmp_path)[-1] == 8


def test_a_second_signal_ends_the_process_but_an_echo_of_the_first_does_not(capfd):
    child = os.fork()
    if child == 0:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # scheduler and launcher both say it
            os.write(1, b"still here\n" if preemption.received == signal.SIGTERM else b"lost\n")
            preemption._since -= 10
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT
    assert capfd.readouterr().out == "still here\n"


def test_outside_the_main_thread_nothing_is_installed():
    found = []

    def enter():
        with Preemption():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


class Pids(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        time.sleep(0.05)
        return os.getpid()


def test_loader_workers_leave_signals_to_their_process():
    pids = []
    for pid in DataLoader(Pids(), batch_size=1, num_workers=1, prefetch_factor=1, worker_init_fn=start_worker):
        pids.append(int(pid))
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pids[0], number)
    assert len(pids) == 6 and set(pids) != {os.getpid()}


def test_an_error_ends_a_process_whose_loader_workers_ignore_signals():
    code = (
        "import torch\nfrom torch.utils.data import DataLoader\n"
        "from data2vec.pretraining.checkpoints.signals import start_worker\n"
        "batches = iter(DataLoader(torch.zeros(99), num_workers=2, worker_init_fn=start_worker))\n"
        "next(batches)\nraise ValueError('a fault')\n"
    )
    done = subprocess.run([warm_python(), "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.rstrip().endswith("ValueError: a fault")


def test_no_token_is_in_anything_that_a_run_writes(tmp_path):
    token = "hf_" + "Zq7" * 11
    trainer = make_trainer(tmp_path, hub_token=token, max_steps=2, save_steps=1)
    trainer.train()
    trainer.save_model()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert trainer.args.hub_token == token  # it still pushes


def test_a_checkpoint_without_optimizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"training\.save_only_model = True is invalid"):
        PretrainingArguments(output_dir=str(tmp_path), save_only_model=True, use_cpu=True)


def test_the_state_at_the_top_is_replaced_whole(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train()
    trainer.save_state()
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 2
    assert not (tmp_path / "_writing").exists() and not list(tmp_path.glob(".trainer_state*"))
