"""docs/getting_started_text.md: data -> encoder -> task -> card -> published -> pipeline."""

import pytest

from tests.code_blocks import ROOT, blocks_of, run_block
from tests.getting_started import blocks_to_run, check_number_of_commands, check_published, reader, texts


PAGE = ROOT / "docs" / "getting_started_text.md"

pytestmark = pytest.mark.slow  # a minute; that of sounds stays with the fast ones


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def hub(folder):
    texts(folder)
    with reader(folder) as hub:
        yield hub


@pytest.mark.parametrize("index", blocks_to_run(PAGE))
def test_block(index, folder, hub):
    run_block(*blocks_of(PAGE)[index], folder)


def test_what_is_published(hub):
    check_published(hub, "me/my-reviews")


def test_under_ten_commands():
    check_number_of_commands(PAGE)
