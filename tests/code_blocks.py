"""The code blocks of a page of documentation, and running one as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.warm import commands_for


ROOT = Path(__file__).resolve().parents[1]


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """(language, code) of every fenced block, in the order of the page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def run_block(language: str, code: str, folder: Path) -> None:
    """Run a bash or python block in `folder`; AssertionError with what it printed where it fails.

    `python`, `accelerate` and `data2vec` start warm ([`warm_server`]), unless DATA2VEC_TESTS_COLD is set.
    """
    environment = os.environ | {"PYTHONPATH": "", "ACCELERATE_USE_CPU": "true"}
    commands = commands_for(environment)
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    if language == "bash" and code.startswith("make "):
        # `make test` runs this very test and `.ci/run` runs both: here, that make knows the target
        command = ["make", "--dry-run", *code.split()[1:]]
    elif language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", code]
    else:
        assert language == "python", f"a block of {language} is not executed by any test"
        command = [str(commands / "python"), "-c", code]
    environment["PATH"] = path
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
