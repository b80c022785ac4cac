"""The growth benchmark: its exponents, and that it runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from growth import exponents


def test_an_exponent_says_how_time_grows() -> None:
    points = [{"value": value, "seconds": 0.3 * value**2} for value in (2, 6, 14)]
    assert exponents(points, "seconds") == pytest.approx([2, 2])


@pytest.mark.slow
def test_a_sweep_is_added_to_the_file_and_drawn(tmp_path: Path, script: Any) -> None:
    written = tmp_path / "growth.json"
    written.write_text(json.dumps({"batch, clips": {"system": "audio_v2", "points": POINTS}}))
    ended = script("growth.py", "--size", "tiny", "--few", "--rounds", "1", "--out", str(tmp_path / "growth"))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(written.read_text())
    assert list(found) == ["batch, clips", "views"]
    first, second = found["views"]["points"]
    assert (first["value"], second["value"]) == (1, 2)
    assert first["flops"] < second["flops"] < 2 * first["flops"]  # the teacher runs once for all views
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


POINTS = [{"value": value, "seconds": value, "flops": value, "peak_bytes": 1e9} for value in (1, 2)]
