"""docs/results/data/sweep.json: what is said of the measures follows from the trials, and the recipe is one."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from data2vec.pretraining.arguments import field_names
from data2vec.pretraining.recipe import check_fields, parse_yaml
from data2vec.pretraining.sweep.arguments import SweepArguments
from tests.code_blocks import ROOT


RESULTS = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads((RESULTS / "data" / "sweep.json").read_text())


def test_agreement_is_that_of_the_trials(results):
    trials = [trial for trial in results["trials"] if trial["state"] == "finished"]
    assert len(trials) == results["finished"]
    accuracy = np.array([trial["test"]["knn"] for trial in trials])
    better = accuracy > results["untrained"]["knn"]
    assert better.sum() == results["better_than_untrained"]
    assert results["accuracy"]["best"] == accuracy.max()
    for name, row in results["agreement"].items():
        sign = -1 if name == "loss" else 1
        values = sign * np.array([trial["measures"][name] for trial in trials])
        assert row["spearman"] == pytest.approx(spearmanr(values, accuracy).statistic, abs=1e-3), name
        assert row["spearman_of_better"] == pytest.approx(
            spearmanr(values[better], accuracy[better]).statistic, abs=1e-3
        ), name
        assert row["interval"][0] <= row["spearman"] <= row["interval"][1]
        picked = trials[int(values.argmax())]
        assert row["picks"] == picked["run"] and row["accuracy"] == picked["test"]["knn"]
        assert row["regret"] == pytest.approx(accuracy.max() - row["accuracy"], abs=1e-3)


def test_the_recipe_is_the_one_that_was_run(results):
    recipe = parse_yaml((RESULTS / "systems" / "sweep_vision.yaml").read_text())
    plan = SweepArguments.from_dict(recipe.pop("sweep"))
    check_fields(recipe, field_names)
    assert plan.trials == len(results["trials"])
    for trial in results["trials"]:
        assert set(trial["values"]) == set(plan.space)
        for name, value in trial["values"].items():
            values = plan.space[name]
            assert value in values["choices"] if "choices" in values else values["low"] <= value <= values["high"]
