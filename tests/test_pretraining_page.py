"""Every code block of docs/pretraining.md, executed or, a recipe's, read."""

import numpy as np
import pytest
from PIL import Image

from data2vec.pretraining.data.build import AudioDataArguments
from data2vec.pretraining.recipe import parse_yaml
from tests.code_blocks import ROOT, blocks_of, run_block


PAGE = ROOT / "docs" / "pretraining.md"
BLOCKS = blocks_of(PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("reader")
    (here / "pretraining").symlink_to(ROOT / "pretraining")
    (here / "my_images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, size=(20, 24, 3), dtype=np.uint8)).save(here / "my_images" / f"{i}.png")
    words = "the of and to in is that for it was on are as with his they at be this from".split()
    (here / "my_text.txt").write_text("\n".join(" ".join(rng.choice(words, size=30)) for _ in range(300)))
    return here


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
