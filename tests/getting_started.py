"""What the tests of the pages for a stranger share: the reader's data, a Hub on this machine, and the checks."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.code_blocks import ROOT, blocks_of
from tests.model_cards.hub_server import HubServer


@contextmanager
def reader(folder: Path) -> Iterator[HubServer]:
    """`folder` as a checkout to stand in; the commands run there speak to the Hub that is given, as the user `me`."""
    for name in ("pretraining", "finetune"):
        (folder / name).symlink_to(ROOT / name)
    saved = dict(os.environ)
    with HubServer("me") as hub:
        os.environ.update(hub.environment(folder / "cache"))
        try:
            yield hub
        finally:
            os.environ.clear()
            os.environ.update(saved)


def texts(folder: Path) -> None:
    """Three files of sentences in my_text, and my_reviews.csv: 60 rows with a verdict."""
    (folder / "my_text").mkdir()
    rng = np.random.default_rng(3)
    words = "the of and to in is that for it was on are as with his they at be this from".split()
    for i in range(3):
        lines = [" ".join(rng.choice(words, size=30)) + "." for _ in range(100)]
        (folder / "my_text" / f"{i}.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = [f"it was {word} {n} times,{word}" for n in range(30) for word in ("good", "bad")]
    (folder / "my_reviews.csv").write_text("\n".join(["review,verdict", *rows]) + "\n", encoding="utf-8")


def blocks_to_run(page: Path) -> list[int]:
    """Numbers of the page's blocks but the two that make the environment, which a test has."""
    return [i for i, (_, code) in enumerate(blocks_of(page)) if not code.startswith(("make ", "source "))]


def check_published(hub: HubServer, repo: str) -> None:
    """A private repository with weights, card, curves and results, whose metadata has the measured results."""
    files = hub.files(repo)
    assert {"model.safetensors", "config.json", "README.md", "curves.png", "results.json"} <= set(files)
    assert hub.repo(repo).private
    card = files["README.md"].decode()
    assert card.startswith("---\n") and "license: apache-2.0" in card and "model-index:" in card
    assert re.search(r"!\[[^\]]*\]\(curves\.png\)", card), "the curves are on the page"
    assert files["curves.png"].startswith(b"\x89PNG")


def check_number_of_commands(page: Path) -> None:
    """Below ten, `git clone` and `hf auth login` counted, and as many as the page says."""
    text = page.read_text(encoding="utf-8")
    bash = [code for language, code in blocks_of(page) if language == "bash"]
    commands = [line for code in bash for line in code.replace("\\\n", " ").splitlines() if line.strip()]
    assert "`git clone`" in text and "`hf auth login`" in text
    said = re.search(r"in (eight|nine) commands.*?and the (six|seven)\s+below", text, re.DOTALL)
    assert said is not None
    assert len(commands) == {"six": 6, "seven": 7}[said[2]]
    assert len(commands) + 2 == {"eight": 8, "nine": 9}[said[1]]
    assert [code for code in bash if code.startswith("make ")] == ["make install\n"]
