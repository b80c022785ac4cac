"""docs/results/forgetting.md: what is said of the arms is in the numbers."""

import json
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
    staged = [found["arms"][arm][0]["after"] for arm in forgetting.REHEARSAL]
    assert len({after["text"]["text"]["linear"] for after in staged}) == 1
    assert all(set(after["audio"]) == set(forgetting.SETS) for after in staged)


def test_nothing_was_forgotten_and_digits_gain_from_buffers(found):
    """More than two standard errors would be forgetting."""
    for arm in forgetting.REHEARSAL:
        (row,) = found["arms"][arm]
        assert all(forgetting.forgotten(row, name) < 2 for name in ("text", "image")), arm
    digits = {arm: rows[0]["scores"]["audio"]["linear"] for arm, rows in found["arms"].items()}
    without = (digits[forgetting.NONE], digits[forgetting.JOINT])
    assert min(digits[arm] for arm in forgetting.REHEARSAL if arm != forgetting.NONE) > max(without) + 8
