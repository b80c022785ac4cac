"""A joint run as a recipe says it: fields, refusals, logs, report, what it leaves and what it starts from."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoTokenizer,
    TrainerControl,
    TrainerState,
    Wav2Vec2FeatureExtractor,
)

from data2vec.model_cards.render import render
from data2vec.modeling import (
    Data2Vec2TextForPreTraining,
    JointConfig,
    JointForPreTraining,
    JointModel,
    UniversalTextConfig,
    UniversalVisionConfig,
)
from data2vec.pretraining import split
from data2vec.pretraining.arguments import override, parse_arguments, resolve
from data2vec.pretraining.command_line import check_command, check_split
from data2vec.pretraining.consolidate import consolidate
from data2vec.pretraining.monitoring.callbacks import CollapseGuard, DivergenceGuard
from data2vec.pretraining.recipe import parse_yaml
from data2vec.pretraining.run import build_model, main, what_next
from data2vec.tests.pretraining.tiny_runs import JOINT, recipe, write_sources
from tests.code_blocks import ROOT, blocks_of, run_block
from tests.modeling.tiny_joint import joint_config


BLOCKS = blocks_of(ROOT / "docs" / "joint.md")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources") / "data"
    write_sources(folder)
    return folder


@pytest.fixture
def fields(sources, tmp_path):
    return recipe(JOINT, sources, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory):
    """Six updates of images and text, measured."""
    folder = tmp_path_factory.mktemp("runs") / "joint"
    said = recipe(JOINT, sources, folder, max_steps=6, probe_steps=6, logging_steps=1, eval_strategy="epoch")
    del said["modalities"]["audio"]
    digits = {"probe": {"path": "builtin:digits"}, "eval_sources": [{"path": "builtin:digits", "split": "test"}]}
    said["modalities"]["vision"]["data"] |= digits
    said["training"] |= {"eval_strategy": "steps", "eval_steps": 6, "guard_patience": 3}
    said["report"] = {"fine_tune_steps": 1, "draws": 2, "labels_per_class": 2, "max_examples": 200}
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(said))
    assert main([str(path)]) == 0
    return folder


def test_what_comes_next_is_said(fields, sources, tmp_path):
    """The other commands take a folder of one modality."""
    assert what_next(resolve(fields)) == [f"A folder of each modality:  data2vec split {tmp_path / 'run'} OUT"]
    assert "data2vec report" in what_next(resolve(recipe("text-2", sources, tmp_path / "text")))[0]


def test_a_recipe_says_each_modality_as_if_it_were_alone(fields, sources, tmp_path):
    run = resolve(fields)
    assert run.model_class is JointForPreTraining and list(run.parts) == ["vision", "text", "audio"]
    for name, part in run.parts.items():
        single = recipe(f"{name}-2", sources, tmp_path / name)
        single["model"].pop("hidden_dropout", None)
        alone = resolve(single)
        assert part.objective == alone.objective and part.data == alone.data and part.model_class is alone.model_class
        assert run.config.of(name).hidden_size == 16
    assert run.parts["text"].weight == 0.5 and run.objective.ema_decay == 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities.audio.model.hidden_size": 8}, r"modalities\.audio\.model\.hidden_size is shared by all modali"),
        ({"modalities.audio.objective.ema_decay": 0.5}, r"modalities\.audio\.objective\.ema_decay is shared by all"),
        ({"modalities.text.objective.veiws": 2}, r"modalities\.text\.objective\.veiws is not a field.*'views'"),
        ({"modalities.text.wieght": 2}, r"modalities\.text\.wieght is not a section; a modality has model"),
        ({"modalities.text.weight": -1}, r"modalities\.text: weight = -1\.0 is invalid: it must be above 0"),
        ({"modalities.text.weight": "much"}, r"modalities\.text: weight = 'much' is invalid: give a number"),
        ({"modalities.text.batch_size": 0}, r"modalities\.text: batch_size = 0 is invalid"),
        ({"modalities.text.model.model_type": "data2vec-text"}, r"modalities\.text.*data2vec-text"),
        ({"modalities.vision.objective.masking.prob": 7}, r"modalities\.vision: masking.*prob"),
        ({"modalities.pretraining": {}}, "modalities names 'pretraining', which is a folder of every run"),
        ({"modalities.text": 5}, r"modalities\.text must hold the sections model, objective, data"),
        ({"modalities": {}}, "modalities is empty"),
        ({"model.num_prenet_layers": 1}, r"model\.num_prenet_layers is not a field"),
        ({"model.model_type": "data2vec2-audio"}, "must be 'data2vec2-joint' in a joint run"),
        ({"objective.views": 1}, r"objective\.views is not a field"),
        ({"data.sources": []}, r"data\.sources is not a field"),
        ({"objective.ema_anneal_steps": 100}, r"ema_anneal_steps = 100 is beyond the run's"),
    ],
)
def test_what_a_recipe_may_not_say(fields, changes, message):
    words = [word for name, value in changes.items() for word in (f"--{name}", yaml.safe_dump(value).strip("\n."))]
    with pytest.raises(ValueError, match=message):
        resolve(override(fields, words))


def test_a_slip_is_answered_before_torch_is_imported(fields, tmp_path):
    path = tmp_path / "joint.yaml"
    path.write_text(yaml.safe_dump(fields))
    check_command([str(path), "--modalities.audio.data.max_seconds", "0.3", "--ema_decay", "0.8"])
    with pytest.raises(ValueError, match=r"modalities\.audio\.data\.max_secnds is not a field.*max_seconds"):
        check_command([str(path), "--modalities.audio.data.max_secnds", "0.3"])


def test_recipes_resolve(tmp_path):
    base = parse_arguments(["joint_base.yaml", "--bf16", "false", "--output_dir", str(tmp_path)])
    assert list(base.parts) == ["audio", "image", "text", "points"] and base.parts["text"].batch_size == 4
    with torch.device("meta"):
        encoder = base.model_class(base.config).base_model
    blocks = sum(p.numel() for p in encoder.trunk.parameters())
    assert blocks / 1e6 == pytest.approx(85.05, rel=1e-3)
    assert encoder.num_parameters() / 1e6 == pytest.approx(85.05 + 8.2 + 0.6 + 39.0 + 0.65, rel=0.02)


def test_what_a_run_leaves(finished):
    logs = json.loads((finished / "trainer_state.json").read_text())["log_history"]
    trained = [log for log in logs if "loss" in log]
    for log in trained:  # one update each: its loss is that of its modality
        (name,) = {key.split("/")[0] for key in log if key.endswith("/loss")}
        assert log[f"{name}/loss"] == pytest.approx(log["loss"]) and f"{name}/target_std" in log
        assert "target_std" not in log
    probes = [log for log in logs if "vision/probe/knn_student" in log]
    assert [log["step"] for log in probes] == [0, 6] and any("eval_vision_loss" in log for log in logs)
    health = json.loads((finished / "health.json").read_text())
    assert health["state"] == "finished" and math.isfinite(health["vision/loss"])
    assert health["skipped"] == {"vision/train": {}, "vision/eval": {}, "text/train": {}}
    report = json.loads((finished / "vision" / "report.json").read_text())
    assert report["model_type"] == "data2vec2-vision" and report["health"]["loss"]["last_step"] <= 6
    assert f'from_pretrained("{finished}", modality="vision")' in (finished / "vision" / "report.md").read_text()
    assert not (finished / "report.json").exists()
    encoder, info = AutoModel.from_pretrained(finished, modality="vision", output_loading_info=True)
    assert encoder.config.model_type == "data2vec2-vision" and not any(info.values())
    assert (finished / "text" / "tokenizer.json").is_file() and (finished / "vision" / "report.png").is_file()


def test_split_leaves_a_folder_of_each_modality(finished, tmp_path, capsys):
    """As runs of one modality leave them: encoder, processor, and what goes on being trained."""
    assert split.main([str(finished), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("Wrote") == 2
    whole = JointForPreTraining.from_pretrained(finished / "pretraining")
    for name, kind in (("vision", "Data2Vec2VisionModel"), ("text", "Data2Vec2TextModel")):
        folder = tmp_path / "out" / name
        encoder, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert type(encoder).__name__ == kind and not any(info.values())
        single, info = AutoModelForPreTraining.from_pretrained(
            folder, subfolder="pretraining", output_loading_info=True
        )
        assert not any(info.values())
        for model, of in ((single.base_model, encoder), (single.teacher, whole.modalities[name].teacher)):
            known = of.state_dict()
            assert all(torch.equal(tensor, known[key]) for key, tensor in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "text").vocab_size == 261
    assert resolve(yaml.safe_load((tmp_path / "out" / "vision" / "recipe.yaml").read_text())).config.image_size == 8
    card = str(render(tmp_path / "out" / "vision", license="mit"))
    assert "Its blocks were trained on text as well" in card and "| pretrained student" in card
    with pytest.raises(ValueError, match="has several modalities: `data2vec split RUN OUT`"):
        render(finished, license="mit")
    for arguments, message in (
        ([finished / "vision", tmp_path / "new"], "is no finished joint run: its config.json names None"),
        ([finished, tmp_path / "out"], "is not empty: name a new folder"),
    ):
        with pytest.raises(ValueError, match=message):
            check_split([*map(str, arguments)])


def test_split_writes_nothing_of_a_run_that_it_cannot_read(finished, tmp_path, capsys):
    damaged = Path(shutil.copytree(finished, tmp_path / "damaged"))
    weights = load_file(damaged / "pretraining" / "model.safetensors")
    weights.pop(next(name for name in weights if name.startswith("teacher.")))
    save_file(weights, damaged / "pretraining" / "model.safetensors", metadata={"format": "pt"})
    assert split.main([str(damaged), str(tmp_path / "out")]) == 2
    assert "holds only a part of the teacher" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_checkpoint_becomes_such_a_folder(finished, tmp_path):
    consolidate(finished / "checkpoint-6", tmp_path / "out")
    for place in (tmp_path / "out", finished):
        assert (place / "text" / "tokenizer.json").is_file()
    made, left = (load_file(place / "model.safetensors") for place in (tmp_path / "out", finished))
    assert made.keys() == left.keys() and all(torch.equal(made[name], left[name]) for name in left)


def test_it_starts_from_one_modality(fields, sources, tmp_path):
    """Its weights and the trunk's are those of the checkpoint; the trunk's fields are, too."""
    single = resolve(recipe("text-2", sources, tmp_path / "text"))
    torch.manual_seed(1)
    trained = Data2Vec2TextForPreTraining(single.config)
    trained.save_encoder(tmp_path / "encoder")
    for field in ("num_attention_heads", "hidden_size", "num_hidden_layers", "intermediate_size"):
        del fields["model"][field]
    fields["modalities"]["text"]["model"] = {"model_name_or_path": str(tmp_path / "encoder")}
    run = resolve(fields)
    assert run.config.hidden_size == 16
    model, facts = build_model(run)
    known = trained.base_model.state_dict()
    for encoder in (model.modalities["text"].base_model, model.modalities["text"].teacher):
        assert all(torch.equal(tensor, known[name]) for name, tensor in encoder.state_dict().items())
    trunk = model.modalities["audio"].base_model.encoder.layers[1].output.weight
    assert torch.equal(trunk, trained.base_model.encoder.layers[1].output.weight)
    assert list(facts) == ["weights of text"]
    with pytest.raises(ValueError, match="model.model_name_or_path.*is no joint model"):
        resolve(override(fields, ["--model.model_name_or_path", str(tmp_path / "encoder")]))


def test_it_starts_from_a_joint_run(finished, fields):
    """With another modality in place of one, which then starts from nothing."""
    del fields["modalities"]["vision"]
    fields["modalities"]["text"]["model"] = {}  # what is not said again stays
    fields["model"] = {"model_name_or_path": str(finished)}
    run = resolve(fields)
    assert list(run.parts) == ["text", "audio"] and run.config.of("text").vocab_size == 261
    model, _ = build_model(run)
    before = AutoModel.from_pretrained(finished)
    assert all(torch.equal(t, before.trunk.state_dict()[name]) for name, t in model.joint.trunk.state_dict().items())
    words = model.joint.encoders["text"].embeddings.word_embeddings.weight
    assert torch.equal(words, before.encoders["text"].embeddings.word_embeddings.weight)


def test_it_goes_on_with_a_front_end_that_was_shared(fields, tmp_path):
    config = resolve(fields).config
    modalities = {"text": config.modalities["text"], "letters": config.modalities["text"]}
    shared = {**config.to_dict(), "modalities": modalities, "shared_front_ends": [["text", "letters"]]}
    before = JointModel(JointConfig.from_dict(shared))
    before.save_pretrained(tmp_path / "before")
    fields["model"] = {"model_name_or_path": str(tmp_path / "before")}
    text = fields["modalities"]["text"]
    run = resolve(fields | {"modalities": {"text": text}})
    assert run.config.shared_front_ends == [["text"]]
    words = build_model(run)[0].joint.encoders["text"].embeddings.word_embeddings.weight
    assert torch.equal(words, before.encoders["letters"].embeddings.word_embeddings.weight)
    with pytest.raises(ValueError, match="modalities.letters shares the front end of text, which must be in the run"):
        resolve(fields | {"modalities": {"letters": text}})


@pytest.mark.parametrize("together", [False, True])
def test_universal_encoders_train_alone_and_together(sources, tmp_path, together):
    """Two updates on the data of the specialised ones."""
    said = recipe(JOINT, sources, tmp_path / "run", max_steps=2, save_strategy="no", logging_steps=1)
    models = {
        "vision": {"model_type": "universal-vision", "image_size": 8, "patch_size": 2, "num_channels": 1},
        "text": {"model_type": "universal-text"},
        "audio": {"model_type": "universal-audio"},
    }
    said["objective"]["ema_anneal_steps"] = 2
    for name, model in models.items():
        said["modalities"][name]["model"] = model | {"row_size": 320}
    if not together:
        own = said["modalities"].pop("audio")
        del said["modalities"]
        said |= {"data": own["data"], "objective": said["objective"] | own["objective"]}
        said["model"] = {**own["model"], **{k: v for k, v in said["model"].items() if k != "model_type"}}
    path = tmp_path / "universal.yaml"
    path.write_text(yaml.safe_dump(said))
    assert main([str(path)]) == 0
    trunk = [name for name in load_file(tmp_path / "run" / "model.safetensors") if "projection.weight" in name]
    assert trunk == (["trunk.projection.weight"] if together else ["embeddings.projection.weight"])


def test_guards_judge_each_modality():
    state, control = TrainerState(max_steps=100), TrainerControl()
    collapse = CollapseGuard(start_step=1, patience=2, modality="audio")
    explosion = DivergenceGuard(patience=2, modality="audio")
    for step in range(1, 9):
        healthy = {"text/target_std": 1.0, "text/prediction_std": 0.5, "text/position_std": 1.0, "text/loss": 1.0}
        bad = {"audio/target_std": 0.01, "audio/prediction_std": 0.5, "audio/position_std": 1.0}
        logs = healthy if step % 2 else bad | {"audio/loss": 1.0 if step == 2 else 1e4}
        state.global_step = step
        state.log_history.append({**logs, "step": step})
        for guard in (collapse, explosion):
            guard.on_log(None, state, control, logs)
    assert "audio/target_std = 0.0100 is below 0.1, for" in collapse.explanation
    assert "The audio/loss has exploded: 1 at step 2, 1e+04 at step" in explosion.explanation


# docs/joint.md


def test_the_recipe_of_the_page(tmp_path):
    code, universal = [code for language, code in BLOCKS if language == "yaml"]
    types = {name: part["model"]["model_type"] for name, part in parse_yaml(universal)["modalities"].items()}
    assert types == {"image": UniversalVisionConfig.model_type, "text": UniversalTextConfig.model_type}
    said = {"data": {}, **parse_yaml(code)}
    said["training"] |= {"output_dir": str(tmp_path), "use_cpu": True}
    said["model"] |= {"num_hidden_layers": 12}
    run = resolve(said)
    assert run.parts["audio"].weight == 2.0 and run.parts["audio"].objective.loss_scale == 0.05


def test_the_code_of_the_page(tmp_path):
    JointForPreTraining(joint_config()).save_encoder(tmp_path / "runs" / "joint")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "runs" / "joint" / "audio")
    for language, code in BLOCKS:
        if language == "python":
            run_block(language, code, tmp_path)
