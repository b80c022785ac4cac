"""The benchmarks are scripts beside each other; here they are imported as they import one another."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script() -> Script:
    """Runs a benchmark from the command line on one thread."""

    def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(BENCHMARKS / name), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)

    return run
