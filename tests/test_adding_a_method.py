"""docs/adding_a_method.md: its code is the example's, its commands run, and method and modality train and resume."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.code_blocks import ROOT, blocks_of, run_block
from tests.warm import commands_for


EXAMPLE = ROOT / "docs" / "examples" / "series"
BLOCKS = blocks_of(ROOT / "docs" / "adding_a_method.md")
RUNNABLE = [i for i, (language, code) in enumerate(BLOCKS) if language == "bash" or "import sys" in code]
JOINTS, LENGTHS = 60, (31, 47, 13, 83, 5)  # 5 steps are too few


def series_table(path: Path, rows: int = 40, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    numbers = [rng.normal(size=lengths[i % len(lengths)] * JOINTS).cumsum().astype(np.float32) for i in range(rows)]
    pq.write_table(pa.table({"series": numbers, "label": [i % 2 for i in range(rows)]}), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    here = tmp_path_factory.mktemp("reader")
    (here / "docs").symlink_to(ROOT / "docs")
    series_table(here / "my_series.parquet", lengths=LENGTHS[:4])
    return here


@pytest.mark.parametrize("index", [i for i in range(len(BLOCKS)) if i not in RUNNABLE])
def test_code_on_the_page_is_in_the_example(index):
    code = BLOCKS[index][1]
    assert any(code in path.read_text(encoding="utf-8") for path in EXAMPLE.glob("*.py")), code


@pytest.mark.parametrize("index", RUNNABLE)
def test_block(index, folder):
    run_block(*BLOCKS[index], folder)


def test_what_the_page_shows_of_a_run_is_there(folder):
    """After the blocks: card, report page with masks and attention, export, by the example's own entries."""
    run = folder / "runs" / "my_series"
    assert "time-series" in (run / "README.md").read_text() and "(batch, time, dim)" in (run / "README.md").read_text()
    assert (run / "report_pictures" / "masks.png").is_file() and (run / "report_pictures" / "attention.png").is_file()
    (checks,) = json.loads((folder / "my_export" / "export.json").read_text())["files"].values()
    assert checks["largest_difference"] < 1e-5


def test_the_method_of_the_page_has_a_second_term(folder):
    """After the blocks: it is trained and logged; the encoder that is left is that of any series."""
    run = folder / "runs" / "my_method"
    state, health = (json.loads((run / name).read_text()) for name in ("trainer_state.json", "health.json"))
    last = [entry for entry in state["log_history"] if "loss" in entry][-1]
    assert last["loss_reconstruction"] == health["loss_reconstruction"] > 0 and last["loss_regression"] > 0
    whole, encoder = (load_file(run / place / "model.safetensors") for place in ("pretraining", "."))
    assert "reconstruction.weight" in whole and not [name for name in encoder if "reconstruction" in name]


def test_the_example_edits_no_file_of_the_core():
    for path in EXAMPLE.glob("*.py"):
        assert "setattr" not in path.read_text() and "monkey" not in path.read_text()
    core = [path for layer in ("modeling", "pretraining", "finetune") for path in (ROOT / layer).glob("*.py")]
    assert not [path for path in core if "series_values" in path.read_text(encoding="utf-8")]


# Several runs in one process, so that the libraries are imported once.
RUNS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import series_register
from data2vec.pretraining.run import main
for words in json.loads(sys.argv[2]):
    assert main(words) == 0, words
"""
TINY = {
    "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 2, "top_k_layers": 2, "use_cpu": "true",
    "ema_anneal_steps": 2, "per_device_train_batch_size": 5, "warmup_steps": 0, "lr_scheduler_type": "constant",
    "disable_tqdm": "true",
}  # fmt: skip


def pretrain(*runs: dict[str, Any]) -> None:
    """Runs of the example's recipe, one after another."""
    words = [
        [
            str(EXAMPLE / "series.yaml"),
            *(word for pair in (TINY | run).items() for word in (f"--{pair[0]}", str(pair[1]))),
        ]
        for run in runs
    ]
    environment = os.environ | {"PYTHONPATH": ""}
    command = [str(commands_for(environment) / "python"), "-c", RUNS, str(EXAMPLE), json.dumps(words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run of 6 updates at once, one in two parts, and one with probe and report."""
    here = tmp_path_factory.mktemp("runs")
    series_table(here / "series.parquet")
    often = {"sources": f"[{{path: {here / 'series.parquet'}}}]", "max_bad_share": 0.5, "save_steps": 3}
    often |= {"logging_steps": 3}
    plans = [
        often | {"output_dir": here / "whole", "max_steps": 6},
        often | {"output_dir": here / "parts", "max_steps": 3},
        often | {"output_dir": here / "parts", "max_steps": 6, "dataloader_num_workers": 2},
    ]
    (here / "labelled").mkdir()
    for seed, split in enumerate(("train", "test")):
        series_table(here / "labelled" / f"{split}.parquet", seed=seed)
    learned = {"output_dir": here / "report", "max_steps": 3, "probe": f"{{path: {here / 'labelled'}}}"}
    learned |= {"probe_steps": 3}
    learned |= {"report.labels_per_class": 2, "report.draws": 2, "report.fine_tune_steps": 2}
    learned |= {"min_steps": 4, "masking": "{method: random, prob: 0.5}"}
    plans.append(often | learned)
    pretrain(*plans)
    return here


def test_it_resumes_exactly(runs):
    """What the trainer promises holds for a modality that it has never seen."""
    first, second = (load_file(runs / name / "pretraining" / "model.safetensors") for name in ("whole", "parts"))
    assert first.keys() == second.keys() and any(name.startswith("teacher.") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((runs / "parts" / "trainer_state.json").read_text())["global_step"] == 6


def test_rows_that_cannot_be_used_are_named(runs):
    skipped = [json.loads(line) for line in (runs / "whole" / "skipped.jsonl").read_text().splitlines()]
    assert {row["problem"] for row in skipped} == {"too short"} and 1 <= len(skipped) <= 8


def test_the_report_at_its_end(runs):
    found = json.loads((runs / "report" / "report.json").read_text())
    assert list(found["rows"]) == ["student", "teacher", "untrained", "spread of channels"]
    assert found["model_type"] == "data2vec2-series" and found["raw"] == ["spread of channels"]
    assert "(batch, steps, channels) -> (batch, time, dim)" in (runs / "report" / "report.md").read_text()


def test_the_online_probe(runs):
    log = json.loads((runs / "report" / "trainer_state.json").read_text())["log_history"]
    found = [entry["probe/knn_student"] for entry in log if "probe/knn_student" in entry]
    assert len(found) == 2 and all(0 < accuracy < 1 for accuracy in found)  # labels are drawn, and mean nothing


@pytest.mark.parametrize("lengths", [(23, 14), (16, 16)])
def test_no_step_waits_for_the_device(monkeypatch, lengths):
    """The collator counts the masks, so that the model need not."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from series_data import SeriesCollator
    from series_encoder import SeriesConfig, SeriesForPreTraining

    config = SeriesConfig(num_channels=3, patch_steps=2, hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
    config.objective = SeriesConfig.default_objective | {"top_k_layers": 2}
    model = SeriesForPreTraining(config)
    examples = [{"series_values": torch.randn(n, 3), "epoch": 0, "index": i} for i, n in enumerate(lengths)]
    batch = SeriesCollator(model.objective, 2, seed=0)(examples)
    visible = ~batch["masked"]  # (batch, views, time)
    if lengths[0] != lengths[1]:
        visible[1, :, 7:] = False
    kept = visible.sum(-1)
    assert batch["mask_counts"] == (int(batch["masked"].sum()), int(kept.min()), int(kept.max()))
    torch.manual_seed(1)
    loss = model(**batch).loss
    monkeypatch.setattr("data2vec.modeling.gather.count_masks", None)  # what the model would wait for
    torch.manual_seed(1)
    assert torch.equal(model(**batch).loss, loss)


def test_padding_changes_nothing(monkeypatch):
    """A series alone and beside a longer one: the same features on its real tokens."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from series_encoder import SeriesConfig, SeriesModel

    torch.manual_seed(0)
    config = SeriesConfig(num_channels=3, patch_steps=2, hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = SeriesModel(config).eval()
    short, long = torch.randn(1, 14, 3), torch.randn(1, 23, 3)
    batch = torch.cat([torch.nn.functional.pad(short, (0, 0, 0, 9)), long])
    mask = torch.ones(2, 23, dtype=torch.long)
    mask[0, 14:] = 0
    together, alone = model(batch, mask).last_hidden_state, model(short).last_hidden_state
    torch.testing.assert_close(together[:1, :7], alone, rtol=1e-5, atol=1e-5)
    assert together.shape == (2, 11, 24)
