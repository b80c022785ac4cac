"""docs/results/trunks.py and the claims on it: every arm can be run, and differs in what it should alone."""

from pathlib import Path
from typing import Any

import forgetting
import joint
import pytest
import trunks
import universal
from prepare import Prepared
from trunks import SETS, TrunkRun

from data2vec.pretraining.arguments import resolve
from data2vec.pretraining.recipe import STAGES
from data2vec.pretraining.stage_arguments import StagesArguments
from data2vec.pretraining.stages import stages_of


@pytest.fixture(autouse=True)
def nothing_is_prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trunks, "prepared", lambda name, data, runs: Prepared(str(data / name), data / name))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, TrunkRun]:
    """Runs that are trained, by folder, when a claim is evaluated; none is."""
    found: dict[str, TrunkRun] = {}

    def trained(of: TrunkRun) -> dict[str, Any]:
        found[of.folder.name] = of
        scores = dict.fromkeys(of.sets, dict.fromkeys((*trunks.MEASURES, "validation"), 50.0))
        return {"scores": scores, "training_seconds": 1.0, "wall_seconds": 1.0}

    for module in (joint, universal, forgetting):
        monkeypatch.setattr(module, "trained", trained)
        monkeypatch.setattr(module, "untrained", trained)
    monkeypatch.setattr(joint, "raw", lambda of: {"seconds": 1.0})
    return found


def test_single_runs_and_joint_ones_have_as_many_updates_as_they_say(asked: dict[str, TrunkRun], tmp_path: Path):
    found = joint.evaluate(tmp_path, tmp_path, seeds=(0,))
    runs = [of.arguments() for of in asked.values()]
    steps = {(tuple(run.modalities), run.training.max_steps) for run in runs}
    each = joint.UPDATES
    assert steps == {*(((name,), each) for name in SETS), (tuple(SETS), each), (tuple(SETS), 3 * each)}
    assert {part.weight for run in runs for part in run.modalities.values()} == {1.0}
    assert list(found["arms"][joint.SINGLE][0]["scores"]) == list(SETS)
    trunk = {tuple(run.config.to_dict()[field] for field in ("hidden_size", "num_hidden_layers")) for run in runs}
    assert trunk == {(64, 3)}


def test_without_front_ends_all_else_is_the_same(asked: dict[str, TrunkRun], tmp_path: Path):
    universal.evaluate(tmp_path, tmp_path, seeds=(0,))
    runs = [of.arguments() for of in asked.values()]
    kinds = {
        name: {
            (run.modalities[name].config.model_type, str(run.modalities[name].objective))
            for run in runs
            if name in run.modalities
        }
        for name in SETS
    }
    for name, found in kinds.items():
        types, objectives = zip(*found, strict=True)
        assert len(set(objectives)) == 1 and len(types) == 2, name
        assert {kind.split("-")[0] for kind in types} == {"universal", "data2vec2"}


def test_stages_differ_in_rehearsal_alone_and_train_the_new_modality_as_long(tmp_path: Path):
    first = set()
    for arm, rehearsal in forgetting.REHEARSAL.items():
        recipe = forgetting.Staged(arm, 0, tmp_path, tmp_path).recipe()
        args = StagesArguments.from_dict(recipe[STAGES])
        args.check(recipe)
        resolve({section: fields for section, fields in recipe.items() if section != STAGES})
        stages = stages_of(recipe, args)
        first.add(str({**stages[0].recipe, "training": {**stages[0].recipe["training"], "output_dir": ""}}))
        for stage in stages:
            weights = {name: part["weight"] for name, part in stage.recipe["modalities"].items()}
            share = weights[stage.name] / sum(weights.values())
            assert stage.recipe["training"]["max_steps"] * share == pytest.approx(forgetting.UPDATES[stage.name])
            if rehearsal["rehearsal"] == "none":
                assert set(weights) == {stage.name}
    assert len(first) == 1, "the first stage is copied"


def test_what_is_forgotten_is_what_a_probe_lost_after_its_own_stage():
    def scores(text: float, image: float) -> dict[str, dict[str, float]]:
        return {"text": {"linear": text}, "image": {"linear": image}}

    row = {"after": {"text": scores(70, 0), "image": scores(66, 80)}, "scores": scores(61, 82)}
    assert forgetting.forgotten(row, "text") == 9 and forgetting.forgotten(row, "image") == -2
