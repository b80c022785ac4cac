"""`transformers`' own `ModelTesterMixin`, out of the sdist of the installed version, which pip downloads once."""

import importlib
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path
from typing import Any

import pytest
import transformers
from filelock import FileLock


def sdist_tests(version: str) -> Path:
    """The folder whose `tests` is the sdist's; skips where the package index cannot be reached."""
    cache = Path(tempfile.gettempdir()) / f"data2vec-transformers-{version}"
    with FileLock(f"{cache}.lock"):
        if not cache.exists():
            with tempfile.TemporaryDirectory() as scratch:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
                command += ["--no-binary", ":all:", "--dest", scratch, f"transformers=={version}"]
                download = subprocess.run(command, capture_output=True, text=True)
                if download.returncode:
                    reason = f"pip cannot download the sdist of transformers {version}: {download.stderr[-300:]}"
                    pytest.skip(reason, allow_module_level=True)
                unpacked = Path(scratch) / "unpacked"
                with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as archive:
                    members = [m for m in archive.getmembers() if m.name.split("/")[1:2] == ["tests"]]
                    archive.extractall(unpacked, members, filter="data")
                next(unpacked.iterdir()).rename(cache)
    return cache


def load_mixin() -> Any:
    """`ModelTesterMixin`. Its base classes for export and generation are not in the sdist, and stay empty here."""
    name = "transformers_sdist_tests"
    package = types.ModuleType(name)
    package.__path__ = [str(sdist_tests(transformers.__version__) / "tests")]
    sys.modules[name] = package
    for module, missing in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        parent = module.split(".")[0]
        sys.modules[f"{name}.{parent}"] = types.ModuleType(f"{name}.{parent}")
        stand_in = types.ModuleType(f"{name}.{module}")
        setattr(stand_in, missing, type(missing, (), {}))
        sys.modules[f"{name}.{module}"] = stand_in
    return importlib.import_module(f"{name}.test_modeling_common").ModelTesterMixin
