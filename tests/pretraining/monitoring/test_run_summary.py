"""What a person reads in front of a run and soon after: sizes, device, steps, time left."""

import re
from types import SimpleNamespace

import pytest
import torch

from data2vec.pretraining.monitoring import run_summary
from data2vec.pretraining.monitoring.run_summary import (
    SLOW_BF16,
    TIMED,
    UNTIMED,
    RunSummary,
    describe_device,
    duration,
)
from tests.pretraining.test_trainer import make_trainer


def test_it_says_what_is_trained_and_how_long_it_takes(tmp_path, capsys):
    summary = RunSummary({"data": "37 training examples"})
    trainer = make_trainer(tmp_path / "run", callbacks=[summary], max_steps=UNTIMED + TIMED + 2)
    trainer.train()
    said = capsys.readouterr().out
    numbers = [parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad]
    lines = dict(re.findall(r"^(\w+) +(\S.*)$", said, re.MULTILINE))
    assert lines["data"] == "37 training examples"
    assert f"{sum(numbers) / 1e6:,.3g} M of them trained" in lines["model"]
    assert lines["device"] == "cpu, 1 process, fp32" and lines["folder"] == str(tmp_path / "run")
    assert lines["steps"].startswith(f"{UNTIMED + TIMED + 2} (")
    assert re.search(r"^[\d.e-]+ s per step: about \d+ s to go$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("device", "products", "words"),
    [
        ("cpu", True, "cpu, 1 process, bf16"),
        ("cpu", False, f"cpu, 1 process, bf16, {SLOW_BF16}"),
        ("cuda", False, "cuda, 1 process, bf16"),
    ],
)
def test_bf16_that_is_slow_says_so(monkeypatch, device, products, words):
    monkeypatch.setattr(run_summary.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: products)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    args = SimpleNamespace(bf16=True, fp16=False, world_size=1, device=torch.device(device))
    assert describe_device(args) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (1e6, "277.8 h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
