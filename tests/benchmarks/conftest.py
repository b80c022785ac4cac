"""The benchmarks are scripts beside each other; here they are imported as they import one another."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.warm import warm_python


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script() -> Script:
    """Runs a benchmark from the command line on one thread."""

    def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [warm_python(), str(BENCHMARKS / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=1200)

    return run
