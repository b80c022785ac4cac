"""Every code block of the README, executed in the order of the page, as a reader would."""

from pathlib import Path

import pytest

from tests.code_blocks import ROOT, blocks_of, run_block
from tests.test_pretraining_page import own_data


BLOCKS = blocks_of(ROOT / "README.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkout to stand in, without running in the real one, beside a reader's own data."""
    here = tmp_path_factory.mktemp("reader")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (here / name).symlink_to(ROOT / name)
    own_data(here)
    return here


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_block(index, folder):
    run_block(*BLOCKS[index], folder)
