"""Recipes and the command line: what is refused, with which words, before anything is loaded."""

import json
from typing import Any

import pytest
import torch
from transformers.integrations import integration_utils

from data2vec.modeling import (
    AvData2VecForPreTraining,
    Data2Vec2AudioForPreTraining,
    Data2Vec2TextForPreTraining,
    Data2Vec2VisionForPreTraining,
    Data2VecAudioForPreTraining,
    Data2VecTextForPreTraining,
    Data2VecVisionForPreTraining,
    EatForPreTraining,
    Emotion2vecForPreTraining,
    JointForPreTraining,
    Point2VecForPreTraining,
    SvData2VecForPreTraining,
)
from data2vec.pretraining.arguments import override, parse_arguments, read_recipe, resolve
from data2vec.pretraining.command_line import RECIPES
from data2vec.pretraining.modalities.methods import METHODS
from data2vec.pretraining.recipe import parse_yaml
from data2vec.pretraining.run import main


CLASSES = {
    "audio": Data2VecAudioForPreTraining,
    "text": Data2VecTextForPreTraining,
    "vision": Data2VecVisionForPreTraining,
    "audio_v2": Data2Vec2AudioForPreTraining,
    "text_v2": Data2Vec2TextForPreTraining,
    "vision_v2": Data2Vec2VisionForPreTraining,
    "emotion2vec": Emotion2vecForPreTraining,
    "eat": EatForPreTraining,
    "points": Point2VecForPreTraining,
    "sv": SvData2VecForPreTraining,
    "av": AvData2VecForPreTraining,
}
SETS = {"audioset": "audio", "streams": "sv", "print": "vision_v2"}  # recipes by the name of their data -> modality
BASES = [name.replace("_v2", "") + "_base" + "_v2" * name.endswith("_v2") for name in CLASSES]
CLASSES |= dict.fromkeys(("joint", "medcoss", "stages"), JointForPreTraining)  # with its modalities' defaults
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_resolves(name, tmp_path):
    on_cpu = ["--bf16", "false", "--output_dir", str(tmp_path)]
    run = parse_arguments([f"{name}.yaml", *on_cpu])
    kind = name.split("_")[1 if name.startswith("demo") else 0]
    kind = SETS.get(kind, kind)
    assert run.model_class is CLASSES[kind + "_v2" * name.endswith("_v2")]
    assert run.training.max_steps > 0 or (name, run.training.num_train_epochs) == ("medcoss_base", 300)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_opens_with_what_a_reader_needs(name):
    opening = (RECIPES / f"{name}.yaml").read_text().split("\n\nmodel:")[0]
    assert f"accelerate launch pretraining/run.py {name}.yaml" in opening
    assert "Hardware" in opening and "Duration" in opening
    if not name.startswith("demo"):
        paper = METHODS[read_recipe(RECIPES / f"{name}.yaml")["model"]["model_type"]].arxiv
        assert "Paper" in opening and ((paper or "no arXiv") in opening or "no published" in opening)


@pytest.mark.parametrize("name", BASES)
def test_base_recipe_is_the_models_default_objective(name, tmp_path):
    """One source for a number: the recipe, the default and the paper's row are the same."""
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    recipe["training"] |= {"bf16": False, "output_dir": str(tmp_path)}
    written = resolve(recipe).objective
    recipe["objective"] = {}
    assert resolve(recipe).objective == written


def test_published_numbers():
    audio, text, vision = (read_recipe(RECIPES / f"{kind}_base.yaml") for kind in ("audio", "text", "vision"))
    assert audio["training"]["learning_rate"] == 5e-4
    assert audio["data"]["batch_seconds"] * 16 / 60 == pytest.approx(63, abs=0.5)
    assert text["training"]["per_device_train_batch_size"] * 16 == 256 and text["data"]["block_size"] == 512
    assert vision["training"]["per_device_train_batch_size"] * 16 == 2048
    assert int(vision["objective"]["masking"]["ratio"] * 196) == 120


def test_published_numbers_of_audioset(tmp_path):
    path = RECIPES / "audioset_base.yaml"
    recipe, speech = read_recipe(path), read_recipe(RECIPES / "audio_base.yaml")
    assert "# Hardware   24 GPUs" in path.read_text()
    assert recipe["data"]["batch_seconds"] * 24 / 60 == 94.5 and recipe["training"]["max_steps"] == 200_000
    objective = {"top_k_layers": 12, "target_layer_norm": "instance", "target_norm": "layer", "ema_scope": "encoder"}
    assert recipe["objective"] == speech["objective"] | objective
    assert recipe["model"] == speech["model"] | {"deep_norm": True}
    recipe["training"] |= {"bf16": False, "output_dir": str(tmp_path)}
    assert resolve(recipe).config.deep_norm


# recipe -> devices, field of one's batch, whole batch, learning rate, clipping, warm-up, updates
PUBLISHED: dict[str, Any] = {
    "audio_base_v2": (16, "data.batch_seconds", 1000, 7.5e-4, 0, 8_000, 400_000),
    "audio_large_v2": (48, "data.batch_seconds", 960, 4e-4, 1, 10_000, 600_000),
    "vision_base_v2": (16, "training.per_device_train_batch_size", 256, 1e-3, 4, 50_040, 375_300),
    "vision_large_v2": (16, "training.per_device_train_batch_size", 128, 4e-4, 4, 50_040, 375_300),
    "vision_huge_v2": (32, "training.per_device_train_batch_size", 256, 4e-4, 4, 50_040, 500_000),
    "text_base_v2": (16, "training.per_device_train_batch_size", 64, 2e-4, 1, 4_000, 1_000_000),
    "text_large_v2": (32, "training.per_device_train_batch_size", 64, 1e-4, 1, 4_000, 600_000),
    "eat_base": (4, "training.per_device_train_batch_size", 48, 5e-4, 4, 53_333, 400_000),
    "eat_large": (4, "training.per_device_train_batch_size", 48, 4e-4, 4, 53_333, 400_000),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_batch_and_schedule_of_data2vec_2(name):
    path, recipe = RECIPES / f"{name}.yaml", read_recipe(RECIPES / f"{name}.yaml")
    devices, field, batch, *schedule = PUBLISHED[name]
    section, key = field.split(".")
    assert f"# Hardware   {devices} GPUs" in path.read_text() and recipe[section][key] * devices == batch
    training, objective = recipe["training"], recipe["objective"]
    assert [training[key] for key in ("learning_rate", "max_grad_norm", "warmup_steps", "max_steps")] == schedule
    assert training["lr_scheduler_type"] == "cosine"
    cls_loss = {"vision": 0.01, "eat": 1.0}.get(
        name.split("_")[0], 0.0
    )  # the original's, which images and views of a device multiply
    weight = cls_loss * training.get("per_device_train_batch_size", 0) * objective["views"]
    assert objective.get("cls_loss_weight", 0) == pytest.approx(weight)


# recipe -> blocks, millions of parameters of its encoder, tokens of the input below, and of these the student's
SIZES = {
    "audio_base_v2": (12, 93.2, 49, 25),  # half are hidden, rounded down
    "audio_large_v2": (24, 313.3, 49, 23),
    "vision_base_v2": (12, 85.8, 196, 39),
    "vision_large_v2": (24, 303.3, 196, 49),
    "vision_huge_v2": (32, 630.8, 256, 64),
    "text_base_v2": (12, 124.1, 67, 34),  # int(67 * 0.52)
    "text_large_v2": (24, 354.3, 67, 33),
    "eat_base": (12, 85.3, 512, 102),
    "eat_large": (24, 302.6, 512, 128),
}
INPUTS = {
    "audio": lambda: torch.randn(2, 16_000),
    "vision": lambda: torch.randn(2, 3, 224, 224),
    "text": lambda: torch.randint(3, 50_000, (2, 67)),
    "eat": lambda: torch.randn(2, 1024, 128),
}


@pytest.mark.parametrize("name", SIZES)
def test_model_of_a_data2vec_2_recipe(name, tmp_path):
    """As large as ViT, RoBERTa and data2vec 1 are known to be, told without memory; narrowed, it makes a step."""
    torch.manual_seed(0)
    kind, (blocks, millions, time, kept) = name.split("_")[0], SIZES[name]
    on_cpu = [f"{name}.yaml", "--bf16", "false", "--output_dir", str(tmp_path)]
    run = parse_arguments(on_cpu)
    with torch.device("meta"):
        encoder = run.model_class.base_class(run.config)
    assert encoder.num_parameters() / 1e6 == pytest.approx(millions, rel=3e-3)

    heads = run.config.num_attention_heads
    narrow = ["--hidden_size", str(4 * heads), "--intermediate_size", "56", "--decoder.dim", "32", "--views", "2"]
    narrow += ["--conv_dim", "[8, 8, 8, 8, 8, 8, 8]"] if kind == "audio" else []
    run = parse_arguments([*on_cpu, *narrow])
    model = run.model_class(run.config).train()
    output = model(**{model.main_input_name: INPUTS[kind]()}, output_teacher_layers=True)
    rows, extra = 2 * run.objective.views, run.config.num_extra_tokens
    assert len(output.teacher_layers) >= run.objective.top_k_layers
    assert len(output.teacher_layers) + run.config.num_prenet_layers == blocks
    assert output.last_hidden_state.shape == (rows, extra + kept, 4 * heads)
    assert output.predictions.shape == (rows * (time - kept), 4 * heads)
    assert output.target_std > 0.1
    before = output.loss.item()
    output.loss.backward()
    torch.optim.SGD((p for p in model.parameters() if p.grad is not None), lr=1e-3).step()
    model.update_teacher(run.objective.decay_at(1))
    assert 0 < before / max(run.objective.cls_loss_weight, 1) < 100 and all(
        p.isfinite().all() for p in model.parameters()
    )


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


@pytest.mark.parametrize(
    ("word", "folder"),
    [("5", "5"), ("run #2", "run #2"), ("a\nb", "a\nb"), ("a: b", "a: b"), ("'5'", "5"), ("null", None), ("", None)],
)
def test_a_folder_is_what_was_typed(word, folder):
    """YAML would cut it at a comment and make a blank of a line break: a run in another folder, without a word."""
    changed = override(read_recipe(RECIPES / DEMO), ["--output_dir", word])
    assert changed["training"]["output_dir"] == folder


def test_numbers_of_yaml_are_numbers():
    assert parse_yaml("5e-4") == 5e-4 and parse_yaml("1e6") == 1e6 and parse_yaml("1.5e+2") == 150.0
    assert parse_yaml("e5") == "e5" and parse_yaml("12") == 12
    with pytest.raises(ValueError, match="not YAML that a recipe may hold"):
        parse_yaml("!!python/object/apply:os.system ['true']")


def test_a_broken_value_is_refused_with_its_field():
    with pytest.raises(ValueError, match=r"--masking\.ratio: this is not YAML"):
        parse_arguments(["demo_vision.yaml", "--masking.ratio", "{a: [}"])


def test_a_section_is_replaced_or_left_out():
    run = parse_arguments(["demo_vision.yaml", "--report", "null", "--data.probe", "null"])
    assert run.report is None and "report" not in run.recipe
    assert parse_arguments(["demo_vision.yaml", "--report", "{draws: 7}"]).report.draws == 7
    with pytest.raises(ValueError, match="--model = None is invalid: it is a section"):
        parse_arguments(["demo_vision.yaml", "--model", "null"])


def test_no_is_a_strategy():
    assert parse_arguments(["demo_vision.yaml", "--save_strategy", "no"]).training.save_strategy == "no"


@pytest.mark.parametrize("there", [True, False])
def test_bf16_without_a_gpu_needs_no_other_field(monkeypatch, tmp_path, there):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: there)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    asked = ["demo_vision.yaml", "--bf16", "true", "--output_dir", str(tmp_path)]
    if there:  # but one that has no bf16, of which `transformers` says so
        with pytest.raises(ValueError, match="training: Your setup doesn't support bf16/gpu"):
            parse_arguments(asked)
    else:
        training = parse_arguments(asked).training
        assert training.bf16 and training.use_cpu and training.device.type == "cpu"
    assert not parse_arguments(asked[:1] + asked[3:]).training.use_cpu


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and "demo_vision.yaml" in text and "guard_start_step" in text


def test_without_labelled_data_there_is_no_probe_and_no_report(tmp_path):
    run = parse_arguments([DEMO, "--probe", "null", "--output_dir", str(tmp_path)])
    assert run.report is None and run.training.probe_steps == 0
    assert json.dumps(run.recipe)  # and it can be written down


def test_a_reporter_that_is_not_installed_is_refused(monkeypatch, tmp_path):
    def missing():
        raise RuntimeError("WandbCallback requires wandb to be installed. Run `pip install wandb`.")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", missing)
    with pytest.raises(ValueError, match="training.report_to = .*wandb.* is invalid: .*pip install wandb"):
        parse_arguments(["demo_text.yaml", "--report_to", "wandb", "--output_dir", str(tmp_path)])
