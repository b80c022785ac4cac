"""Values that no run can use: every command refuses them with 2, on one line that names the field."""

import copy
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data2vec.tests.finetune.encoders import encoder_folder
from data2vec.tests.pretraining.tiny_runs import recipe


NAN, INF = math.nan, math.inf
FINE_TUNING = {
    "run_image_classification": "vision", "run_ctc": "audio", "run_audio_classification": "audio", "run_glue": "text",
    "run_probe": "vision",
}  # fmt: skip
COMMANDS = {
    "run": "data2vec.pretraining.run",
    "sweep": "data2vec.pretraining.sweep.command",
    **{script: f"data2vec.finetune.{script}" for script in FINE_TUNING},
}
NOT_A_SECTION: list[Any] = [None, True, 5, "x", [1]]

# field -> values that it is refused with; of every recipe
EVERYWHERE: dict[str, list[Any]] = {
    "model": NOT_A_SECTION,
    "data": NOT_A_SECTION,
    "training": NOT_A_SECTION,
    "training.output_dir": ["", "  ", None, 5, ["a"], True, "a\nb", "a\tb", "a\0b"],
    "training.per_device_train_batch_size": [0, -2, 1.5, "8", [1], None, True],
    "training.per_device_eval_batch_size": [0],
    "training.gradient_accumulation_steps": [0, -1, 1.5],
    "training.dataloader_num_workers": [-1, 0.5],
    "training.learning_rate": [NAN, INF, -1e-3, None, "fast", [1], {"a": 1}],
    "training.weight_decay": [NAN, -1],
    "training.adam_beta1": [1, 2],
    "training.adam_beta2": [1, -0.1],
    "training.adam_epsilon": [NAN, -1],
    "training.max_grad_norm": [NAN, INF, -1],
    "training.label_smoothing_factor": [NAN, 1],
    "training.warmup_steps": [NAN, -1],
    "training.max_steps": [0, -5, 1.5, None],
    "training.num_train_epochs": [0, NAN, INF, -1],
    "training.logging_steps": [0, -1, NAN],
    "training.save_steps": [0, -1, NAN],
    "training.eval_steps": [0, -1],
    "training.save_total_limit": [0, -1],
    "training.seed": [-1, 2**70, None, 1.0],
    "training.data_seed": [-1],
    "training.lr_scheduler_type": [5, None, "cosin"],
    "training.lr_scheduler_kwargs": [5, [1], {"no_such_argument": 1}],
    "training.optim": [5, "foo"],
    "training.optim_args": [5],
    "training.report_to": [5, "foo"],
    "training.run_name": [5],
    "training.fsdp": [5],
    "training.deepspeed": [5, "no_such_file.json"],
    "training.accelerator_config": [5],
    "training.save_strategy": ["x"],
    "training.eval_strategy": [5],
    "training.logging_strategy": [None],
    "training.use_cpu": [None, 2],
    "training.save_only_model": [True],
    "model.model_name_or_path": [5, None, "", ["a"]],
    "model.hidden_size": [NAN, 0, -8, "tiny"],
    "model.num_attention_heads": [0, -2],
    "model.intermediate_size": [0],
    "model.layer_norm_eps": [NAN, -1.0],
    "model.initializer_range": [NAN, -1.0],
    "model.hidden_dropout": [NAN, 1, 2, -0.1],
    "model.attention_dropout": [-1],
    "model.activation_dropout": [1.5],
    "model.classifier_dropout": [2],
    "model.layerdrop": [NAN, 1],
    "model.drop_path_rate": [2, INF],
}
PRETRAINING: dict[str, list[Any]] = {
    "objective": NOT_A_SECTION,
    "report": [True, 5],
    "model.model_type": [5, [1], None],
    "objective.masking": [None, 5, [1], {"method": ["a"]}],
    "objective.masking.prob": [NAN, 2],
    "objective.masking.adjust": [NAN, INF],
    "objective.decoder": [5, [1]],
    "objective.decoder.input_dropout": [NAN, 1],
    "objective.loss_beta": [NAN, INF, -1],
    "objective.loss_scale": [NAN, INF, 0],
    "objective.cls_loss_weight": [INF],
    "objective.mask_noise_std": [INF],
    "objective.ema_decay": [NAN],
    "data.sources": [None, [], 5, [5], [None], [{"path": 5}], [{"path": ""}]],
    "data.probe": [5],
    "data.max_bad_share": [NAN],
    "training.guard_patience": [-1],
    "training.guard_start_step": [-1],
    "training.on_collapse": ["never", None],
    "training.probe_steps": [-1],
    "training.max_nonfinite_steps": [0, -1],
}
FINE: dict[str, list[Any]] = {
    "task": NOT_A_SECTION,
    "model.from_scratch": [5],
    "data.train": [None, 5],
    "data.validation_share": [NAN, 1],
    "training.layer_decay": [NAN, 0, 2],
    "training.head_learning_rate": [NAN, INF, 0],
    "training.weights_ema_decay": [NAN, 1],
    "training.freeze_encoder_steps": [-1],
}
SWEEP: dict[str, list[Any]] = {
    "sweep": NOT_A_SECTION,
    "sweep.space": [None, 5, {}, {"learning_rate": {"low": NAN, "high": 1}}, {5: {"low": 1, "high": 2}}],
    "sweep.trials": [NAN, 0],
    "sweep.seed": [-1],
}
# whole files -> a word of the message
FILES = {
    "": "sections", "5": "sections", "null": "sections", "- a": "sections", "{a: {b: }": "YAML", "5: {}": "5",
    "? [1, 2]\n: 3": "YAML", "!!python/name:os.system": "YAML", "\0": "YAML",
}  # fmt: skip


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {name: encoder_folder(folder / name, name, "v2") for name in ("audio", "vision", "text")}


@pytest.fixture
def sections(encoders, tmp_path) -> Callable[[str], dict[str, Any]]:
    """Command -> a recipe whose data is not there, so that what is not refused before shows as another message."""

    def make(command: str) -> dict[str, Any]:
        if command in FINE_TUNING:
            training = {"output_dir": str(tmp_path / "run"), "max_steps": 2, "use_cpu": True, "eval_strategy": "no"}
            data = {"train": {"path": str(tmp_path / "nothing")}}
            model = {"model_name_or_path": str(encoders[FINE_TUNING[command]])}
            return {"model": model, "data": data, "task": {}, "training": training}
        made = copy.deepcopy(recipe("vision-2", tmp_path, tmp_path / "run"))
        made["data"]["sources"] = [{"path": str(tmp_path / "nothing")}]
        if command == "sweep":
            pytest.importorskip("optuna")
            space = {"learning_rate": {"low": 1e-4, "high": 1e-3}}
            made["sweep"] = {"space": space, "trials": 1, "measure": "loss"}
        return made

    return make


def cases() -> list[tuple[str, str, Any]]:
    few = {name: EVERYWHERE[name] for name in ("model", "data", "training", "training.output_dir")}
    of_command = dict.fromkeys(FINE_TUNING, few | FINE)  # they read recipes with one code, but for run_glue
    of_command |= {"run_image_classification": EVERYWHERE | FINE, "run_glue": EVERYWHERE | FINE}
    of_command |= {"run": EVERYWHERE | PRETRAINING, "sweep": EVERYWHERE | SWEEP}
    return [(command, name, value) for command, table in of_command.items() for name in table for value in table[name]]


def refused(command: str, path: Path, capsys) -> str:
    """The one line that the command says."""
    assert importlib.import_module(COMMANDS[command]).main([str(path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and not any(line.startswith("Traceback") for line in lines), lines
    return lines[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_values_are_refused_by_name(command, sections, tmp_path, capsys):
    wrong = []
    for name, value in [(name, value) for of, name, value in cases() if of == command]:
        made = sections(command)
        *path, field = name.split(".")
        section: Any = made
        for key in path:
            section = section[key]
        section[field] = value
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
        try:
            message = refused(command, tmp_path / "recipe.yaml", capsys)
        except Exception as error:
            wrong.append(f"{name} = {value!r}: {type(error).__name__}: {error}")
            continue
        if field not in message or "nothing" in message:
            wrong.append(f"{name} = {value!r}: {message}")
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "sweep", "run_ctc", "run_glue"])
@pytest.mark.parametrize("text", FILES)
def test_a_file_that_is_no_recipe_is_named(command, text, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    message = refused(command, path, capsys)
    assert "recipe.yaml" in message and FILES[text] in message
