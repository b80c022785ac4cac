"""The measured results on the README are those of docs/results/data."""

import json
import re
from pathlib import Path

import comparisons
import numpy as np
import pytest


ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\|.*\| (\d+\.\d) [^|]*\| (\d+\.\d) [^|]*\| (yes|no, the reverse) \|$",
    (ROOT / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def compared() -> set[tuple[str, str, str]]:
    """The two means and the verdict of every comparison of every claim."""
    found = set()
    for path in (ROOT / "docs" / "results" / "data").glob("*.json"):
        data = json.loads(path.read_text())
        for pair in data["headline"] if "headline" in data else []:
            systems = pair["system"], pair.get("than", pair["system"])
            sides = [
                [comparisons.last(value) for value in comparisons.seeds_of(data, system, pair[side])]
                for system, side in zip(systems, ("better", "worse"), strict=True)
            ]
            found.add((*(f"{np.mean(side):.1f}" for side in sides), comparisons.verdict(*sides)))
    return found


def test_there_are_rows():
    assert len(ROWS) >= 5 and "no, the reverse" in {verdict for *_, verdict in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_the_row_is_measured(row, compared):
    assert row in compared
