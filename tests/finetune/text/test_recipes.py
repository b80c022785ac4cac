"""The text recipes: each loads, holds the published numbers, and makes a step with a model of small size."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data2vec.finetune.arguments import field_names, resolve
from data2vec.finetune.help_text import RECIPES
from data2vec.finetune.run_glue import main
from data2vec.finetune.text.glue_sweep import GlueSweep, plan, recipe_of_task
from data2vec.finetune.text.glue_tasks import AVERAGED
from data2vec.finetune.text.task import TextClassification
from data2vec.pretraining.recipe import parse_yaml
from tests.finetune.encoders import encoder_folder
from tests.finetune.texts import glue_folder


HERE = ["--use_cpu", "true", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true", "--max_steps", "1"]
# task -> batch, warm-up as a share, of fairseq's updates: 320 / 5336 is CoLA's
ROBERTA: dict[str, Any] = {
    "mnli": (32, 7432 / 123873),
    "qnli": (32, 1986 / 33112),
    "rte": (16, 122 / 2036),
    "mrpc": (16, 137 / 2296),
    "qqp": (32, 28318 / 113272),
    "stsb": (16, 214 / 3598),
    "cola": (16, 320 / 5336),
    "sst2": (32, 1256 / 20935),
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    return {family: str(encoder_folder(folder / family, "text", family)) for family in ("v1", "v2")}


@pytest.fixture(scope="module")
def glue(tmp_path_factory) -> str:
    return str(glue_folder(tmp_path_factory.mktemp("glue"), AVERAGED))


@pytest.mark.parametrize(
    ("name", "rates", "shared", "over_seeds"),
    [
        ("glue_base", [1e-5, 2e-5, 3e-5, 4e-5], True, "mean"),
        ("glue_base_v2", [1e-5, 2e-5, 4e-5, 6e-5], False, "median"),
    ],
)
def test_published_settings(name, rates, shared, over_seeds, encoders):
    recipe = parse_yaml((RECIPES / f"{name}.yaml").read_text())
    recipe["model"]["model_name_or_path"] = encoders["v1"]
    sweep = GlueSweep.from_dict({**recipe["task"]["sweep"], "tasks": "all"})
    assert sweep.learning_rates == rates
    assert (sweep.shared_learning_rate, sweep.over_seeds, len(sweep.seeds)) == (shared, over_seeds, 5)
    names = field_names(TextClassification)
    assert len(plan(recipe, [], names, sweep)) == 8 * 4 * 5
    for task, (batch, warmup) in ROBERTA.items():
        run = resolve(recipe_of_task(recipe, HERE[:6], names, task), TextClassification)
        arguments = run.training
        assert arguments.per_device_train_batch_size == batch and arguments.num_train_epochs == 10
        assert arguments.warmup_steps == pytest.approx(warmup, abs=1e-3)
        assert (arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon) == (0.9, 0.98, 1e-6)
        assert (arguments.weight_decay, arguments.max_grad_norm, run.config.classifier_dropout) == (0.1, 0.0, 0.0)
        assert arguments.lr_scheduler_type == "linear" and arguments.load_best_model_at_end
        assert run.data.skip_bad == (task == "qqp")


@pytest.mark.slow  # a fine-tuning for each of eight tasks; run_glue's own tests make a row of four
def test_glue_base_makes_the_whole_row(encoders, glue, tmp_path, capsys):
    arguments = ["glue_base.yaml", "--model_name_or_path", encoders["v1"], "--glue", glue, *HERE]
    arguments += ["--sweep.tasks", "all", "--sweep.learning_rates", "[1e-3]", "--sweep.seeds", "[0]"]
    assert main([*arguments, "--output_dir", str(tmp_path / "run")]) == 0
    row = json.loads((tmp_path / "run" / "glue_row.json").read_text())
    assert set(row["tasks"]) == set(AVERAGED) and row["missing"] == [] and row["over_seeds"] == "mean"
    assert "| Avg. |" in capsys.readouterr().out


def test_glue_base_v2_makes_a_step(encoders, glue, tmp_path):
    arguments = ["glue_base_v2.yaml", "--model_name_or_path", encoders["v2"], "--glue", glue, *HERE]
    assert main([*arguments, "--task_name", "qqp", "--output_dir", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["validation"]["examples"] == 47
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["training"]["warmup_steps"] == 0.25


def test_glue_small_makes_a_sweep(encoders, glue, tmp_path):
    arguments = ["glue_small.yaml", "--model_name_or_path", encoders["v1"], "--glue", glue, *HERE]
    arguments += ["--sweep.tasks", "[mrpc]", "--sweep.seeds", "[0]"]
    assert main([*arguments, "--output_dir", str(tmp_path / "run"), "--eval_steps", "1", "--save_steps", "1"]) == 0
    row = json.loads((tmp_path / "run" / "glue_row.json").read_text())
    assert {task: list(found["scores"]) for task, found in row["tasks"].items()} == {"mrpc": ["0.001", "0.003"]}


def test_imdb_small_makes_a_step(encoders, glue, tmp_path):
    train, test = (
        f"{{path: {next(Path(glue, 'sst2').glob(name))}, column: sentence}}" for name in ("train*", "validation*")
    )
    arguments = ["imdb_small.yaml", "--model_name_or_path", encoders["v1"], "--train", train, "--data.test", test]
    arguments += [*HERE, "--text_columns", "[sentence]", "--output_dir", str(tmp_path / "run")]
    assert main([*arguments, "--eval_steps", "1", "--save_steps", "1"]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (
        found["main"]["split"] == "test" and found["test"]["examples"] == 47 and found["validation"]["examples"] == 22
    )
