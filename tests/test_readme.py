"""Every code block of the README, executed in the order of the page, as a reader would."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.code_blocks import ROOT, blocks_of, run_block


BLOCKS = blocks_of(ROOT / "README.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkout to stand in, without running in the real one, beside a reader's own data."""
    here = tmp_path_factory.mktemp("reader")
    for name in ("pretraining", "Makefile", "pyproject.toml", "constraints.txt"):
        (here / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    (here / "my_clips").mkdir()
    (here / "my_images").mkdir()
    for i in range(40):
        wave = 0.3 * np.sin(np.linspace(0, 600 + 40 * i, int(16000 * rng.uniform(1, 2)))) + rng.normal(scale=0.05)
        soundfile.write(here / "my_clips" / f"{i}.{('wav', 'flac', 'ogg')[i % 3]}", wave, 16000)
        pixels = rng.integers(0, 255, size=(20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "my_images" / f"{i}.png")
    words = "the of and to in is that for it was on are as with his they at be this from".split()
    lines = [" ".join(rng.choice(words, size=30)) + "." for _ in range(400)]
    (here / "my_text.txt").write_text("\n".join(lines))
    return here


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_block(index, folder):
    run_block(*BLOCKS[index], folder)


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
