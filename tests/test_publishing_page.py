"""Every code block of docs/publishing.md, executed in the order of the page against a Hub on this machine."""

import os
from pathlib import Path

import pytest

from tests.code_blocks import ROOT, blocks_of, run_block
from tests.model_cards.hub_server import HubServer
from tests.model_cards.run_folders import fine_tuned, pretrained


BLOCKS = blocks_of(ROOT / "docs" / "publishing.md")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A checkout with finished runs in it, and a Hub where somebody already published a recogniser."""
    here = tmp_path_factory.mktemp("reader")
    (here / "pretraining").symlink_to(ROOT / "pretraining")
    pretrained(here / "runs" / "my_speech", "audio", "v2")
    letters = fine_tuned(here / "letters", "ctc", "v2")
    with pytest.MonkeyPatch.context() as patch, HubServer() as hub:
        for name, value in hub.environment(here / "cache").items():
            patch.setitem(os.environ, name, value)
        words = f"card {letters} --license mit", f"push {letters} me/my-letters"
        run_block("bash", "\n".join(f"data2vec {line}" for line in words), here)
        yield hub, here


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_block(index, reader):
    run_block(*BLOCKS[index], reader[1])


def test_what_the_page_published(reader):
    hub, here = reader
    speech, images = hub.files("me/my-speech", "v1.0"), hub.files("me/my-images")
    assert b"Ada Lovelace" in speech["README.md"] and "heads.py" in speech
    assert hub.repo("me/my-speech").private and hub.repo("me/my-images").private
    assert b"self-supervised-learning" in images["README.md"]  # our card in place of the Trainer's
    assert "pretraining/model.safetensors" in images
    assert not {"training_args.bin", "health.json", "pretraining/training_args.bin"} & set(images)
    assert (Path(here) / "runs" / "my_speech" / "card.yaml").is_file()
