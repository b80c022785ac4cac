"""Every code block of docs/pretraining.md, executed or, a recipe's, read."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from data2vec.pretraining.modalities.build import AudioDataArguments
from data2vec.pretraining.recipe import parse_yaml
from tests.code_blocks import ROOT, blocks_of, run_block


PAGE = ROOT / "docs" / "pretraining.md"
BLOCKS = blocks_of(PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("reader")
    own_data(here)
    return here


def own_data(folder: Path) -> None:
    """What a reader has: 40 clips of three formats, 40 images, and 400 lines of text."""
    rng = np.random.default_rng(0)
    (folder / "my_clips").mkdir()
    (folder / "my_images").mkdir()
    for i in range(40):
        wave = 0.3 * np.sin(np.linspace(0, 600 + 40 * i, int(16000 * rng.uniform(1, 2)))) + rng.normal(scale=0.05)
        soundfile.write(folder / "my_clips" / f"{i}.{('wav', 'flac', 'ogg')[i % 3]}", wave, 16000)
        pixels = rng.integers(0, 255, size=(20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "my_images" / f"{i}.png")
    words = "the of and to in is that for it was on are as with his they at be this from".split()
    lines = [" ".join(rng.choice(words, size=30)) + "." for _ in range(400)]
    (folder / "my_text.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("index", [i for i, (language, _) in enumerate(BLOCKS) if language != "yaml"])
def test_block(index, folder):
    run_block(*BLOCKS[index], folder)


def test_the_sources_of_the_page_are_possible():
    (code,) = [code for language, code in BLOCKS if language == "yaml"]
    data = AudioDataArguments.from_dict(parse_yaml(code)["data"])
    assert [source.weight for source in data.sources] == [None, 2.0, None]
    assert data.shares() == pytest.approx([0.25, 0.5, 0.25])


def test_what_a_run_leaves_is_what_the_page_says(folder):
    """The files in the page's table, of those that a run without labels writes."""
    run = folder / "runs" / "mine"
    if not run.is_dir():
        pytest.skip("the block that trains was not run before")
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "pretraining", "recipe.yaml"):
        assert (run / name).exists()
    for name in ("run.json", "health.json", "logs", "trainer_state.json", "runs"):
        assert (run / name).exists()
