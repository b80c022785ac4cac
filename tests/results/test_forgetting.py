"""docs/results/forgetting.md: what is said of the arms is in the numbers."""

import json
from statistics import mean
from typing import Any

import forgetting
import pytest

from tests.code_blocks import ROOT


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "results" / "data" / "forgetting.json").read_text())


def test_the_numbers_are_of_every_arm_and_of_one_first_stage(found):
    assert set(found["arms"]) == {*forgetting.REHEARSAL, forgetting.JOINT, "untrained"}
    assert all([row["seed"] for row in rows] == list(forgetting.SEEDS) for rows in found["arms"].values())
    first = next(iter(forgetting.SETS))
    for number, _ in enumerate(forgetting.SEEDS):
        staged = [found["arms"][arm][number]["after"] for arm in forgetting.REHEARSAL]
        assert len({after[first][first]["linear"] for after in staged}) == 1
        assert all(set(after[list(forgetting.SETS)[-1]]) == set(forgetting.SETS) for after in staged)


def test_nothing_was_forgotten_and_a_joint_run_knows_more_of_digits(found):
    """More than two standard errors of a mean would be forgetting."""
    for arm in forgetting.REHEARSAL:
        for name in list(forgetting.SETS)[:-1]:
            assert mean(forgetting.forgotten(row, name) for row in found["arms"][arm]) < 2, (arm, name)
    digits = {arm: [row["scores"]["audio"]["linear"] for row in rows] for arm, rows in found["arms"].items()}
    assert min(digits[forgetting.JOINT]) > max(max(digits[arm]) for arm in forgetting.REHEARSAL)
    assert mean(digits[forgetting.DISTILLATION]) < mean(digits[forgetting.NONE])
