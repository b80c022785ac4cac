"""Every code block of docs/sweeping.md, executed or, a recipe's, read."""

import dataclasses
import json

import pytest

from data2vec.pretraining.recipe import parse_yaml
from data2vec.pretraining.sweep.arguments import MEASURES, SweepArguments
from tests.code_blocks import ROOT, blocks_of, run_block


PAGE = ROOT / "docs" / "sweeping.md"
BLOCKS = blocks_of(PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("reader")
    (here / "pretraining").symlink_to(ROOT / "pretraining")
    return here


@pytest.mark.slow
@pytest.mark.parametrize("index", [i for i, (language, _) in enumerate(BLOCKS) if language != "yaml"])
def test_block(index, folder):
    pytest.importorskip("optuna", reason="needs the extra `sweep`")
    run_block(*BLOCKS[index], folder)


@pytest.mark.slow
def test_what_a_sweep_leaves_is_what_the_page_says(folder):
    sweep = folder / "runs" / "my_sweep"
    if not sweep.is_dir():
        pytest.skip("the block that sweeps was not run before")
    for name in ("run-0", "run-2", "sweep.json", "best.yaml", "optuna.db", "recipe.yaml", "run.json"):
        assert (sweep / name).exists()
    found = json.loads((sweep / "sweep.json").read_text())
    assert len(found["trials"]) == 3 and (folder / "runs" / "my_best" / "model.safetensors").is_file()


def test_the_section_of_the_page_is_possible():
    (code,) = [code for language, code in BLOCKS if language == "yaml"]
    plan = SweepArguments.from_dict(parse_yaml(code)["sweep"])
    assert plan.space["objective.top_k_layers"] == {"low": 1, "high": 4}
    assert plan.space["training.learning_rate"]["low"] == 5e-4


def test_the_page_has_every_field_and_measure():
    text = PAGE.read_text(encoding="utf-8")
    names = [*(field.name for field in dataclasses.fields(SweepArguments)), *MEASURES]
    assert [name for name in names if f"`{name}`" not in text] == []
