"""data/label_free.json of docs/results: what is said follows from the trials, and the recipes are theirs."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from data2vec.pretraining.arguments import field_names
from data2vec.pretraining.recipe import check_fields, parse_yaml
from data2vec.pretraining.sweep.arguments import MEASURES, SweepArguments
from data2vec.pretraining.sweep.suggest import SuggestArguments
from tests.code_blocks import ROOT


RESULTS = ROOT / "docs" / "results"
FOUND = json.loads((RESULTS / "data" / "label_free.json").read_text())


@pytest.mark.parametrize("modality", FOUND["modalities"])
def test_agreement_is_that_of_the_trials(modality):
    results = FOUND["modalities"][modality]
    trials = [trial for trial in results["trials"] if trial["state"] == "finished"]
    assert len(trials) == results["finished"] >= 15
    accuracy = np.array([trial["accuracy"] for trial in trials])
    better = accuracy > results["untrained"]
    assert better.sum() == results["better_than_untrained"]
    assert results["accuracy"]["best"] == accuracy.max()
    for name, row in results["agreement"].items():
        sign = -1 if MEASURES.get(name) == "minimize" else 1
        values = sign * np.array([trial["measures"][name] for trial in trials])
        assert row["spearman"] == pytest.approx(spearmanr(values, accuracy).statistic, abs=1e-3), name
        assert row["interval"][0] <= row["spearman"] <= row["interval"][1]
        picked = trials[int(values.argmax())]
        assert row["picks"] == picked["run"] and row["accuracy"] == picked["accuracy"]
        assert row["regret"] == pytest.approx(accuracy.max() - row["accuracy"], abs=1e-3)


@pytest.mark.parametrize("modality", FOUND["modalities"])
def test_the_recipe_is_the_one_that_was_run(modality):
    recipe = parse_yaml((RESULTS / "systems" / f"label_free_{modality}.yaml").read_text())
    plan = SweepArguments.from_dict(recipe.pop("sweep"))
    check_fields(recipe, field_names)
    results = FOUND["modalities"][modality]
    trials = [results["recipe"], *results["trials"]]
    assert plan.trials == len(trials)
    for trial in trials:
        assert set(trial["values"]) == set(plan.space)
        for name, value in trial["values"].items():
            values = plan.space[name]
            assert value in values["choices"] if "choices" in values else values["low"] <= value <= values["high"]


def test_what_is_trusted_agrees_in_every_modality_and_suggest_compares_by_nothing_else():
    def worst(name: str) -> float:
        return min(part["agreement"][name]["spearman"] for part in FOUND["modalities"].values())

    agree = [
        name
        for name in MEASURES
        if name != "eval_loss" and not name.startswith("probe/")
        if all(part["agreement"][name]["interval"][0] > 0 for part in FOUND["modalities"].values())
    ]
    assert FOUND["trusted"] == max(agree, key=worst, default=None)
    assert FOUND["trusted"] in (None, SuggestArguments().measure)
