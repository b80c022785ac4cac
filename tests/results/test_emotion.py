"""docs/results/emotion.py: its arms can be run, and what is said of them follows from the numbers of each run."""

import json
from typing import Any

import emotion
import numpy as np
import pytest

from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.recipe import parse_yaml
from tests.code_blocks import ROOT


RESULTS = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads((RESULTS / "data" / "emotion.json").read_text())


@pytest.mark.parametrize("arm", emotion.ARMS)
def test_every_arm_can_be_run(arm, tmp_path):
    _, fields = emotion.ARMS[arm]
    values = {"data.sources": [{"path": str(tmp_path)}], "training.output_dir": str(tmp_path), **fields}
    words = [word for name, value in values.items() for word in (f"--{name}", emotion.yaml_word(value))]
    asked = parse_arguments([str(RESULTS / "systems" / "emotion.yaml"), *words])
    assert asked.config.model_type == "emotion2vec" and asked.config.num_extra_tokens == 10


def test_the_network_is_that_of_the_start():
    """Or its weights would not fit."""
    own, start = (
        parse_yaml((RESULTS / "systems" / f"{name}.yaml").read_text()) for name in ("emotion", emotion.START)
    )
    assert own["model"].pop("model_type") == "emotion2vec" and start["model"].pop("model_type") == "data2vec2-audio"
    assert own["model"].pop("num_prenet_layers") == 0  # data2vec 2.0's default
    assert own["model"] == start["model"] and own["objective"]["decoder"] == start["objective"]["decoder"]


def test_the_numbers_are_of_every_arm_and_seed(found):
    assert set(found["arms"]) == {*emotion.ARMS, *emotion.REFERENCES}
    for name, seeds in found["arms"].items():
        assert [seed["seed"] for seed in seeds] == list(emotion.SEEDS), name
        assert all(0 < seed[measure] < 100 for seed in seeds for measure in emotion.MEASURES)
    assert found["examples"]["clips"] == 157 and found["examples"]["speakers"] == 10


def test_the_guard_stops_utterances_alone_and_nothing_else(found):
    stopped = {name: [seed["health"]["guard_stops_at"] for seed in found["arms"][name]] for name in emotion.ARMS}
    assert all(stopped.pop("utterance alone"))
    assert not any(step for steps in stopped.values() for step in steps)


def test_the_utterance_target_is_zero_with_the_published_norms(found):
    for name, spread in (("emotion2vec", 0.001), ("utterance alone", 0.001)):
        of_runs = [seed["health"]["utterance_target_std"] for seed in found["arms"][name]]
        assert np.allclose(of_runs, spread, atol=1e-4), "the floor of the spread, sqrt(1e-6)"
    assert all(seed["health"]["utterance_target_std"] > 0.01 for seed in found["arms"]["emotion2vec, target norm"])
