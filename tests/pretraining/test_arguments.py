"""Recipes and the command line: what is refused, with which words, before anything is loaded."""

import json

import pytest
import yaml

from data2vec.modeling import Data2VecAudioForPreTraining, Data2VecTextForPreTraining, Data2VecVisionForPreTraining
from data2vec.pretraining.arguments import RECIPES, override, parse_arguments, parse_yaml, read_recipe, resolve
from data2vec.pretraining.run import main


CLASSES = {
    "audio": Data2VecAudioForPreTraining,
    "text": Data2VecTextForPreTraining,
    "vision": Data2VecVisionForPreTraining,
}
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_resolves(name, tmp_path):
    on_cpu = ["--bf16", "false", "--output_dir", str(tmp_path)]
    run = parse_arguments([f"{name}.yaml", *on_cpu])
    assert run.model_class is CLASSES[name.split("_")[1 if name.startswith("demo") else 0]]
    assert run.training.max_steps > 0


@pytest.mark.parametrize("name", NAMES)
def test_recipe_opens_with_what_a_reader_needs(name):
    opening = (RECIPES / f"{name}.yaml").read_text().split("\n\nmodel:")[0]
    assert f"accelerate launch pretraining/run.py {name}.yaml" in opening
    assert "Hardware" in opening and "Duration" in opening
    if not name.startswith("demo"):
        assert "Paper" in opening and "2202.03555" in opening or "no published" in opening


@pytest.mark.parametrize("kind", CLASSES)
def test_base_recipe_is_the_models_default_objective(kind, tmp_path):
    """One source for a number: the recipe, the default and the paper's row are the same."""
    recipe = read_recipe(RECIPES / f"{kind}_base.yaml")
    recipe["training"] |= {"bf16": False, "output_dir": str(tmp_path)}
    written = resolve(recipe).objective
    recipe["objective"] = {}
    assert resolve(recipe).objective == written


def test_published_numbers():
    audio, text, vision = (read_recipe(RECIPES / f"{kind}_base.yaml") for kind in CLASSES)
    assert audio["training"]["learning_rate"] == 5e-4
    assert audio["data"]["batch_seconds"] * 16 / 60 == pytest.approx(63, abs=0.5)
    assert text["training"]["per_device_train_batch_size"] * 16 == 256 and text["data"]["block_size"] == 512
    assert vision["training"]["per_device_train_batch_size"] * 16 == 2048
    assert int(vision["objective"]["masking"]["ratio"] * 196) == 120


DEMO = "demo_vision.yaml"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max_stepz", "5"], ["max_stepz", "--max_steps"]),
        (["--objective.top_k_layer", "5"], ["objective.top_k_layer", "top_k_layers"]),
        (["--top_k_layers", "5"], ["top_k_layers = 5", "num_hidden_layers = 4"]),
        (["--max_steps", "100"], ["ema_anneal_steps = 750", "max_steps = 100"]),
        (["--warmup_steps", "1600"], ["warmup_steps = 1600", "max_steps = 1500"]),
        (["--masking.ratio", "1.5"], ["masking", "ratio=1.5"]),
        (["--masking.method", "blocks"], ["blocks", "beit_block"]),
        (["--model.hidden_size", "tiny"], ["hidden_size", "int"]),
        (["--model.model_type", "data2vec-video"], ["data2vec-video", "data2vec-vision"]),
        (["--data.sources", "digits"], ["data.sources", "list"]),
        (["--data.sources", "[{pth: x}]"], ["pth", "path"]),
        (["--learning_rate"], ["--field value"]),
        (["--lr_scheduler_type", "cosin"], ["cosin"]),
    ],
)
def test_slip_is_refused_in_words(arguments, words, capsys):
    assert main([DEMO, *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    assert all(word in message for word in words), message


def test_mask_longer_than_the_clip_is_refused(capsys):
    assert main(["audio_base.yaml", "--bf16", "false", "--masking.length", "200"]) == 2
    message = capsys.readouterr().err
    assert "length=200" in message and "min_seconds" in message


def test_recipe_that_does_not_exist(capsys):
    assert main(["nowhere.yaml"]) == 2
    assert "demo_vision.yaml" in capsys.readouterr().err


def test_override_is_written_where_it_belongs():
    recipe = read_recipe(RECIPES / DEMO)
    changed = override(recipe, ["--masking.ratio", "0.5", "--learning_rate=1e-4", "--data.shift-pixels", "2"])
    assert changed["objective"]["masking"]["ratio"] == 0.5 and changed["training"]["learning_rate"] == 1e-4
    assert changed["data"]["shift_pixels"] == 2
    assert recipe["objective"]["masking"]["ratio"] != 0.5  # the recipe itself is not touched


def test_numbers_of_yaml_are_numbers():
    assert parse_yaml("5e-4") == 5e-4 and parse_yaml("1e6") == 1e6 and parse_yaml("1.5e+2") == 150.0
    assert parse_yaml("e5") == "e5" and parse_yaml("12") == 12
    with pytest.raises(yaml.YAMLError):
        parse_yaml("!!python/object/apply:os.system ['true']")


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and "demo_vision.yaml" in text and "guard_start_step" in text


def test_without_labelled_data_there_is_no_probe_and_no_report(tmp_path):
    run = parse_arguments([DEMO, "--probe", "null", "--output_dir", str(tmp_path)])
    assert run.report is None and run.training.probe_steps == 0
    assert json.dumps(run.recipe)  # and it can be written down
