"""docs/getting_started_*.md: data -> encoder -> task -> card -> published -> pipeline, by the pages' commands."""

from pathlib import Path

import pytest

from tests.code_blocks import ROOT, blocks_of, run_block
from tests.getting_started import blocks_to_run, check_number_of_commands, check_published, reader, texts
from tests.test_task_pages import photos, sounds
from tests.warm import COLD


PAGES = {name: ROOT / "docs" / f"getting_started_{name}.md" for name in ("audio", "images", "text")}
PUBLISHED = {"audio": "me/my-sounds", "images": "me/my-classifier", "text": "me/my-reviews"}
BLOCKS = [(name, index) for name, page in PAGES.items() for index in blocks_to_run(page)]


def bring_data(folder: Path) -> None:
    """What the readers of the three pages have."""
    sounds(folder / "my_sounds")
    photos(folder / "my_photos")
    texts(folder)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A Hub, and a checkout to stand in with one's own data."""
    folder = tmp_path_factory.mktemp("reader")
    bring_data(folder)
    with reader(folder) as hub:
        yield hub, folder


@pytest.mark.parametrize(("name", "index"), BLOCKS)
def test_block(name, index, stranger):
    run_block(*blocks_of(PAGES[name])[index], stranger[1])


@pytest.mark.parametrize("name", PAGES)
def test_what_is_published(name, stranger):
    check_published(stranger[0], PUBLISHED[name])


@pytest.mark.parametrize("name", PAGES)
def test_under_ten_commands(name):
    check_number_of_commands(PAGES[name])


@pytest.mark.slow
def test_every_command_in_a_process_of_its_own(tmp_path, monkeypatch):
    """As above, but each process imports its libraries: nothing depends on those that were there before."""
    bring_data(tmp_path)
    monkeypatch.setenv(COLD, "1")
    with reader(tmp_path) as hub:
        for index in blocks_to_run(PAGES["audio"]):
            run_block(*blocks_of(PAGES["audio"])[index], tmp_path)
        check_published(hub, PUBLISHED["audio"])
