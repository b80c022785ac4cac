"""The comparison of precisions: what it says of two curves, and that it runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from precision import apart


def test_distances_are_relative_to_fp32() -> None:
    curves = {"fp32": [2.0, 4.0, 5.0], "bf16": [2.2, 3.0, 5.0]}
    found = apart({name: [{"loss": loss} for loss in losses] for name, losses in curves.items()})
    assert found == pytest.approx({"first": 0.1, "last": 0.0, "largest": 0.25})


@pytest.mark.slow
def test_two_runs_of_a_recipe_are_compared(tmp_path: Path, script: Any) -> None:
    ended = script("precision.py", "demo_vision.yaml", "--steps", "3", "--out", str(tmp_path / "precision"))
    assert ended.returncode == 0, ended.stderr
    [found] = json.loads((tmp_path / "precision.json").read_text()).values()
    full, half = found["curves"]["fp32"], found["curves"]["bf16"]
    assert [log["step"] for log in full] == [log["step"] for log in half] == [1, 2, 3]
    assert 0 < found["apart"]["largest"] < 0.1  # not the same run twice
    assert "| demo_vision |" in ended.stdout
    assert (tmp_path / "precision.png").read_bytes().startswith(b"\x89PNG")
