"""docs/reading_a_run.md: its pictures are there and small, its names are those of the code."""

import json
import re

import pytest
from PIL import Image

from data2vec.model_cards.report.page_pictures import SECTIONS
from data2vec.pretraining.evaluation.panels import PANELS
from tests.code_blocks import ROOT, blocks_of, run_block


FILE = ROOT / "docs" / "reading_a_run.md"
PAGE = FILE.read_text(encoding="utf-8")
LOG = [{"step": 5, "loss": 3.0, "target_std": 0.9}, {"step": 10, "loss": 2.0, "target_std": 0.8}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader stands who has the logs of two runs and nothing else."""
    here = tmp_path_factory.mktemp("reader")
    for name in ("my_run", "my_other_run"):
        (here / "runs" / name).mkdir(parents=True)
        (here / "runs" / name / "trainer_state.json").write_text(json.dumps({"log_history": LOG}))
    return here


def test_its_commands_run(folder):
    for language, code in blocks_of(FILE):
        run_block(language, code, folder)
    assert "<svg" in (folder / "runs" / "my_run" / "report.html").read_text()
    assert (folder / "runs" / "my_run" / "report_pictures" / "curve_loss.png").is_file()
    assert "my_other_run" in (folder / "comparison.html").read_text()


def test_its_pictures_are_there_small_and_described():
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", PAGE)
    assert len(pictures) >= 3
    for described, path in pictures:
        file = ROOT / "docs" / path
        with Image.open(file) as picture:
            assert picture.width <= 1400, path
        assert file.stat().st_size < 200_000 and len(described) > 20, path


def test_it_names_the_sections_of_the_page():
    named = {re.split(r"\s*\|\s*", line)[1] for line in PAGE.splitlines() if line.startswith("| ")}
    for title, _, _ in SECTIONS.values():
        assert title in named, title


def test_it_speaks_of_what_is_logged():
    logged = {name for panel in PANELS.values() for name in panel.quantities}
    spoken = set(re.findall(r"`(target_std|prediction_std|position_std|effective_rank|[a-z_]+_std)`", PAGE))
    assert {"target_std", "position_std"} <= spoken <= logged
