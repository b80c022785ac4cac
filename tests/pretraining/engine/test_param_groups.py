"""Parameters with a learning rate of their own, through a whole run: schedule, checkpoints, continuing."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from data2vec.modeling.deep_norm import alpha
from data2vec.pretraining.run import main
from data2vec.tests.pretraining.tiny_runs import write_recipe, write_sources


RATE, DECAY, STEPS, EVERY = 1e-2, 0.3, 8, 2


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deep_norm")
    write_sources(folder / "sources")
    schedule = {"lr_scheduler_type": "linear", "learning_rate": RATE, "weight_decay": DECAY, "save_total_limit": 9}
    path = write_recipe(folder, "run", "audio-1", folder / "sources", **schedule)
    content = yaml.safe_load(path.read_text())
    content["model"]["deep_norm"] = True
    path.write_text(yaml.safe_dump(content))
    assert main([str(path)]) == 0
    return path


def test_shares_hold_under_the_schedule(recipe):
    for step in (EVERY, STEPS - EVERY):
        saved = torch.load(recipe.parent / "run" / f"checkpoint-{step}" / "optimizer.pt", weights_only=True)
        groups = saved["param_groups"]
        decays = sorted((round(group["lr"], 9), round(group["weight_decay"], 6)) for group in groups)
        now = RATE * (1 - step / STEPS)
        factor = alpha(2)
        expected = [(now / factor, 0.0), (now / factor, DECAY * factor), (now, 0.0), (now, DECAY)]
        assert decays == pytest.approx([pytest.approx(pair, rel=1e-5) for pair in expected])
        # of 2 blocks, the weights and the biases of two layers each
        assert sorted(len(group["params"]) for group in groups)[:2] == [4, 4]


def test_a_continued_run_ends_with_the_same_weights(recipe):
    run = recipe.parent / "run"
    before = load_file(run / "model.safetensors")
    for path in [*run.glob("checkpoint-[68]"), run / "pretraining"]:
        shutil.rmtree(path)
    (run / "model.safetensors").unlink()
    assert main([str(recipe)]) == 0
    after = load_file(run / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
