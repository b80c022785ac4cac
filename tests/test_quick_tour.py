"""docs/quick_tour.md, docs/python.md and the notebooks, run in this process on a reader's small data."""

import json
import shlex
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image

from data2vec.cli import main
from data2vec.pretraining import recipe as recipe_file
from tests.code_blocks import ROOT, blocks_of
from tests.getting_started import texts
from tests.test_task_pages import photos, sounds


TOUR, PYTHON = blocks_of(ROOT / "docs" / "quick_tour.md"), blocks_of(ROOT / "docs" / "python.md")
# the second uses what the first leaves
NOTEBOOKS = [ROOT / "docs" / "notebooks" / f"{name}.ipynb" for name in ("pretrain_images", "features")]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    photos(folder / "my_photos")
    for path in (folder / "my_photos").rglob("*.png"):  # as large as the recipes read them
        Image.open(path).resize((80, 72)).save(path)
    sounds(folder / "my_sounds")
    texts(folder)
    read = recipe_file.parse_yaml
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(recipe_file, "parse_yaml", lambda *words: smaller(read(*words)))
        yield folder


def smaller(recipe: Any) -> Any:
    """A recipe for a model of two narrow blocks, small batches and no workers; anything else as it is."""
    if not isinstance(recipe, dict) or not {"data", "training"} <= set(recipe):
        return recipe
    model, training = recipe.get("model", {}), recipe["training"]
    if "num_hidden_layers" in model:
        model |= {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 3, "num_hidden_layers": 2}
        recipe["objective"]["top_k_layers"] = 2
    if "conv_dim" in model:
        model["conv_dim"] = [16 for _ in model["conv_dim"]]
    training |= {"gradient_accumulation_steps": 1, "dataloader_num_workers": 0}
    training["per_device_train_batch_size"] = min(8, training.get("per_device_train_batch_size", 8))
    return recipe


def run(language: str, code: str, names: dict) -> None:
    """As `run_block`, without a process: `data2vec` commands, or Python whose names the next block knows."""
    if language == "python":
        exec(compile(code, "<block>", "exec"), names)
        return
    for line in code.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        assert program == "data2vec" and main(words) == 0, line


@pytest.mark.parametrize("index", range(len(TOUR)))
def test_block_of_the_tour(index, here):
    run(*TOUR[index], {})


def test_each_way_is_below_ten_lines():
    assert max(len([line for line in code.splitlines() if line]) for _, code in TOUR) < 10


def test_blocks_of_the_python_page(here):
    names: dict = {}
    for language, code in PYTHON:
        run(language, code, names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, here, monkeypatch):
    """Cell by cell, as written: no output is kept in the file, and nothing is left open."""
    matplotlib.use("Agg")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), path.name, "exec"), names)


def test_the_notebooks_are_linked():
    assert set((ROOT / "docs" / "notebooks").glob("*.ipynb")) == set(NOTEBOOKS)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert all(f"notebooks/{Path(path).name}" in page for path in NOTEBOOKS)
