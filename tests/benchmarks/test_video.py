"""benchmarks/video.py: that it reads and trains on films of both recipes."""

import re
from typing import Any


def test_reading_is_compared_with_a_step(script: Any) -> None:
    ended = script("video.py", "--tiny", "--repetitions", "1")
    assert ended.returncode == 0, ended.stderr
    rows = re.findall(r"^\| (\w+), .*\| 1 : (\d+) \|$", ended.stdout, flags=re.M)
    assert [name for name, _ in rows] == ["lips", "actions"]
