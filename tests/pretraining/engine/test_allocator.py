"""Memory that a step frees stays with the process: the next one finds its pages there."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from data2vec.pretraining.checkpoints import resume as trainer_resume
from tests.warm import warm_python


# 12 "steps", each of which allocates and frees 255 MiB in blocks of many sizes; prints page faults after the first
STEPS = """
import resource, sys
import torch
from data2vec.pretraining.engine.allocator import keep_freed_memory

def step():
    held = [torch.ones(size * 2**18) for size in (1, 2, 4, 8, 16, 32, 64, 128)]

if sys.argv[1] == "keep":
    assert keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(11):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


@pytest.mark.skipif(not GLIBC, reason="this C library's allocator has no such setting")
def test_what_a_step_frees_is_there_for_the_next():
    """Not from the second on: where a live block lies between freed ones, some step asks for more, once."""
    faults = {}
    for how in ("keep", "return"):
        ran = subprocess.run([warm_python(), "-c", STEPS, how], capture_output=True, text=True, check=True)
        faults[how] = int(ran.stdout)
    pages = 255 * 2**20 // 4096  # of a step
    assert faults["keep"] < 2 * pages
    assert faults["return"] > 5 * pages  # or the test shows nothing


@pytest.mark.parametrize(("device", "wanted", "called"), [("cpu", True, 1), ("cpu", False, 0), ("cuda", True, 0)])
def test_a_training_on_a_cpu_asks_for_it(device, wanted, called, monkeypatch):
    calls = []
    monkeypatch.setattr(trainer_resume, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr(trainer_resume.EngineTrainer, "train", lambda self, **kwargs: None)
    trainer = object.__new__(trainer_resume.ResumableTrainer)
    trainer.args = SimpleNamespace(device=SimpleNamespace(type=device), keep_freed_memory=wanted)
    trainer.train()
    assert len(calls) == called
