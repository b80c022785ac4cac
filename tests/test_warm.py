"""The commands that tests start warm do what the real ones do: arguments, streams, exit codes, environment."""

import os
import subprocess

import pytest

from tests.warm import COLD, commands_for


CODE = "import sys; print('data2vec' in sys.modules, 'torch' in sys.modules, sys.argv[1:]); sys.exit(3)"


@pytest.fixture
def environment():
    if os.environ.get(COLD) or not hasattr(os, "pidfd_open"):
        pytest.skip("nothing starts warm here")
    return os.environ | {"PYTHONPATH": "", "ACCELERATE_USE_CPU": "true"}


def run(environment, *words, env=None, cwd=None):
    command = [str(commands_for(environment) / "python"), *words]
    return subprocess.run(command, env=env or environment, capture_output=True, text=True, timeout=240, cwd=cwd)


def test_a_process_has_the_libraries_and_not_this_package(environment):
    done = run(environment, "-c", CODE, "a", "b c")
    assert (done.returncode, done.stdout) == (3, "False True ['a', 'b c']\n")


def test_another_environment_starts_cold(environment):
    done = run(environment, "-c", CODE, env=environment | {"HF_HOME": "/elsewhere"})
    assert (done.returncode, done.stdout) == (3, "False False []\n")


def test_scripts_and_errors(environment, tmp_path):
    (tmp_path / "beside.py").write_text("print('imported')")
    (tmp_path / "script.py").write_text("import beside, os\nprint(__name__, os.getcwd(), __file__)\n1 / 0\n")
    done = run(environment, "script.py", cwd=tmp_path)
    assert done.stdout.splitlines() == ["imported", f"__main__ {tmp_path} script.py"] and done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
