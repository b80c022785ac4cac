"""Libraries print what a person needs: no table of missing weights, no bars while files are written."""

import logging
import sys

import datasets
import pytest
from transformers import AutoModel, AutoModelForImageClassification, Data2VecVisionConfig
from transformers.utils import logging as transformers_logging

from data2vec.pretraining.console.libraries import new_weights, quiet_libraries, save_to_disk


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8}


@pytest.fixture
def quiet():
    shown, hidden = transformers_logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    logger = logging.getLogger("transformers.modeling_utils")
    before = list(logger.filters)
    quiet_libraries()
    yield
    logger.filters[:] = before
    if not hidden:
        datasets.enable_progress_bars()
    if shown:
        transformers_logging.enable_progress_bar()


def test_what_a_checkpoint_lacks_is_said_in_a_line(quiet, tmp_path, capfd):
    AutoModel.from_config(Data2VecVisionConfig(**TINY, patch_size=4)).save_pretrained(tmp_path)
    _, loading = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    said = capfd.readouterr()
    assert "LOAD REPORT" not in said.err + said.out and "shards" not in said.err
    assert new_weights(loading, "runs/a") == "new, not in runs/a: classifier, data2vec_vision.pooler.layernorm"
    _, loading = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert new_weights(loading, "runs/a") is None


def test_a_data_set_is_saved_without_bars(tmp_path, capfd):
    save_to_disk(datasets.Dataset.from_dict({"a": [1, 2]}), str(tmp_path / "set"))
    assert "Saving" not in capfd.readouterr().err
    assert datasets.load_from_disk(str(tmp_path / "set"))["a"][:] == [1, 2]


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_of_data_sets_are_for_terminals(quiet, terminal, monkeypatch):
    datasets.enable_progress_bars()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    quiet_libraries()
    assert datasets.are_progress_bars_disabled() is not terminal
