"""Keeps `transformers`' own tests, which are downloaded, out of every run that does not ask for slow tests."""

from pathlib import Path

import pytest


FLASH = ("flash_attn_test", "flash_attn_3_test", "flash_attn_4_test")


def pytest_configure(config: pytest.Config) -> None:
    for marker in ("accelerate_tests", "torch_compile_test", *FLASH):
        config.addinivalue_line("markers", f"{marker}: of transformers' own tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    wanted = "slow" in config.option.markexpr.replace("not slow", "")
    return True if collection_path.name == "test_model_tester.py" and not wanted else None
