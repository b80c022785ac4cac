"""Commands that start warm, for tests that start many processes: see `warm_server`."""

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.warm_server import environment_at_import


COLD = "DATA2VEC_TESTS_COLD"  # of the environment: every process is started afresh, as a reader's is


def warm_python(environment: Mapping[str, str] = os.environ) -> str:
    """The command `python` of [`commands_for`]."""
    return str(commands_for(environment) / "python")


def commands_for(environment: Mapping[str, str]) -> Path:
    """The folder with the commands for processes with this environment; it ends with this process.

    They are forked from a process that has imported the libraries in that environment, so they share the seed of
    hashes: a test that compares what two processes do starts these itself.
    """
    if environment.get(COLD) or not hasattr(os, "pidfd_open"):  # the server watches its processes as Linux does
        return Path(sys.executable).parent
    return _serve(tuple(sorted(environment_at_import(environment).items())))


@cache
def _serve(environment: tuple[tuple[str, str], ...]) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    commands = Path(folder.name) / "bin"
    commands.mkdir()
    others = {name: value for name, value in os.environ.items() if name not in environment_at_import(os.environ)}
    script = Path(__file__).with_name("warm_server.py")
    server = subprocess.Popen(
        [sys.executable, str(script), str(commands), str(Path(folder.name) / "socket")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=others | dict(environment),
    )  # fmt: skip
    assert server.stdin is not None and server.stdout is not None
    assert server.stdout.readline() == "ready\n", "the server of warm processes did not start"

    def end() -> None:
        server.stdin.close()
        server.wait(timeout=60)
        folder.cleanup()

    atexit.register(end)
    return commands
