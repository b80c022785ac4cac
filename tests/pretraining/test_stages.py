"""Stages: each is an ordinary joint run, what is kept of one is the data of the next, and a kill changes nothing."""

import json
import os
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from data2vec.modeling import JointModel
from data2vec.pretraining import run, stages
from data2vec.pretraining.arguments import resolve
from data2vec.pretraining.buffer import PROVENANCE
from data2vec.pretraining.stage_arguments import StagesArguments
from data2vec.pretraining.stages import BUFFERS, SUMMARY, stages_of
from data2vec.tests.modeling.tiny_medcoss import volume_config
from data2vec.tests.pretraining.tiny_runs import staged_recipe as recipe
from data2vec.tests.pretraining.tiny_runs import write_sources
from tests.code_blocks import ROOT, blocks_of, run_block


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "sources"
    write_sources(folder)
    return folder


def command(made: dict[str, Any], path: Path) -> int:
    path.write_text(yaml.safe_dump(made))
    return run.main([str(path)])


class Killed(BaseException):
    """As a signal that nobody catches."""


class KillAt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.output_dir.endswith("2_vision") and state.global_step == 3:
            raise Killed


def test_kills_within_and_between_stages_change_nothing(sources, tmp_path, monkeypatch):
    """Once before the buffer is written, once in its midst, once in the second stage; the same command goes on."""
    whole = recipe(sources, tmp_path / "whole", mixup=True)
    assert command(whole, tmp_path / "whole.yaml") == 0

    again = recipe(sources, tmp_path / "again", mixup=True)
    pretrain = run.pretrain
    with monkeypatch.context() as patch:
        patch.setattr(stages, "write_buffer", lambda *args, **how: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            command(again, tmp_path / "again.yaml")
    with monkeypatch.context() as patch:
        patch.setattr("data2vec.pretraining.buffer.os.replace", lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            command(again, tmp_path / "again.yaml")
    assert not (tmp_path / "again" / BUFFERS / "text").exists()
    with monkeypatch.context() as patch:
        patch.setattr(run, "pretrain", lambda *args: pretrain(*args, callbacks=[KillAt()]))
        with pytest.raises(Killed):
            command(again, tmp_path / "again.yaml")
    before = (tmp_path / "again" / "1_text" / "model.safetensors").stat().st_mtime_ns
    assert command(again, tmp_path / "again.yaml") == 0
    assert (tmp_path / "again" / "1_text" / "model.safetensors").stat().st_mtime_ns == before  # not trained again

    for stage in ("1_text", "2_vision"):
        for file in ("model.safetensors", "pretraining/model.safetensors"):
            tensors = [load_file(tmp_path / name / stage / file) for name in ("whole", "again")]
            assert tensors[0].keys() == tensors[1].keys()
            assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    kept = [datasets.load_from_disk(str(tmp_path / name / BUFFERS / "text"))["text"][:] for name in ("whole", "again")]
    assert kept[0] == kept[1]
    written = [json.loads((tmp_path / name / SUMMARY).read_text()) for name in ("whole", "again")]
    assert written[0] == written[1] and written[0]["knn_after"]["vision"].keys() == {"vision"}
    log = json.loads((tmp_path / "again" / "2_vision" / "trainer_state.json").read_text())["log_history"]
    assert any("text/loss" in row for row in log) and any("vision/loss" in row for row in log)

    provenance = json.loads((tmp_path / "whole" / BUFFERS / "text" / PROVENANCE).read_text())
    assert provenance["kept"] == len(kept[0]) == len(provenance["rows"]) and provenance["encoder"].endswith("1_text")
    assert provenance["clusters"] == int(0.05 * provenance["examples"])
    assert 0.15 < provenance["kept"] / provenance["examples"] <= 0.3
    assert not any(text in (tmp_path / "whole" / BUFFERS / "text" / PROVENANCE).read_text() for text in kept[0])


def test_what_each_stage_trains(sources, tmp_path):
    made = recipe(sources, tmp_path, mixup=True, training={"vision": {"max_steps": 9}})
    first, second = stages_of(made, StagesArguments.from_dict(made["stages"]))
    assert list(first.recipe["modalities"]) == ["text"] and first.before is None
    asked = resolve(first.recipe)
    assert asked.training.max_steps == 4 and asked.parts["text"].objective.target == "layers"
    text = second.recipe["modalities"]["text"]
    assert text["data"]["sources"] == [{"path": str(tmp_path / BUFFERS / "text"), "root": "/"}]
    assert text["data"]["mixup"]
    assert text["data"]["tokenizer"] == str(tmp_path / "1_text" / "text")
    assert text["objective"]["target"] == "same_view" and text["objective"]["ema_scope"] == "frozen"
    assert second.recipe["model"]["model_name_or_path"] == str(tmp_path / "1_text")
    assert second.recipe["training"]["max_steps"] == 9 and "stages" not in second.recipe
    replayed = recipe(sources, tmp_path, rehearsal="pretext")
    second = stages_of(replayed, StagesArguments.from_dict(replayed["stages"]))[1]
    assert "target" not in second.recipe["modalities"]["text"]["objective"]
    made["model"]["shared_front_ends"] = [["vision"], ["text"]]
    first, second = stages_of(made, StagesArguments.from_dict(made["stages"]))
    assert resolve(first.recipe).config.shared_front_ends == [["text"]]
    assert second.recipe["model"]["shared_front_ends"] == [["vision"], ["text"]]


def test_without_rehearsal_encoders_are_carried_along(sources, tmp_path, monkeypatch):
    """What a stage does not train stays in its folder, on the trunk that it left; also after a kill on the way."""
    made = recipe(sources, tmp_path / "run", rehearsal="none")

    def killed(aside: Path, folder: Path) -> None:
        os.replace(aside / "model.safetensors", folder / "model.safetensors")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stages, "move_files", killed)
        command(made, tmp_path / "recipe.yaml")
    assert set(JointModel.from_pretrained(tmp_path / "run" / "2_vision").encoders) == {"vision"}
    assert command(made, tmp_path / "recipe.yaml") == 0
    first, last = (JointModel.from_pretrained(tmp_path / "run" / name) for name in ("1_text", "2_vision"))
    assert set(last.encoders) == {"text", "vision"} and not (tmp_path / "run" / BUFFERS).exists()
    embeddings = [model.encoders["text"].embeddings.state_dict() for model in (first, last)]
    assert all(torch.equal(tensor, embeddings[1][name]) for name, tensor in embeddings[0].items())
    alone = JointModel.from_pretrained(tmp_path / "run" / "2_vision", modality="text")
    assert torch.equal(alone.encoder.layers[0].output.weight, last.encoders["vision"].encoder.layers[0].output.weight)
    assert not torch.equal(alone.encoder.layers[0].output.weight, first.trunk["layers"][0].output.weight)
    assert (tmp_path / "run" / "2_vision" / "text" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"order": ["text"]}, r"stages.order = \['text'\] is invalid: use each of text, vision once"),
        ({"rehearsal": "some"}, "stages.rehearsal = 'some' is invalid"),
        ({"buffer": 0.01, "clusters": 0.02}, "stages.buffer = 0.01 is invalid"),
        ({"rehearsal": "none"}, "stages.rehearsal = 'none' is invalid: use another with model.shared_front_ends"),
        ({"rehearsal": "none", "mixup": True}, "stages.mixup = True is invalid"),
        ({"training": {"speech": {}}}, "stages.training = "),
    ],
)
def test_wrong_stages_are_refused_before_anything_is_trained(sources, tmp_path, section, words, capsys):
    made = recipe(sources, tmp_path / "run")
    made["model"]["shared_front_ends"] = [["text"]]
    made["stages"] |= section
    assert command(made, tmp_path / "recipe.yaml") == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_reports_then_volumes(tmp_path):
    """MedCoSS from files to stages: masked words, masked voxels of two kinds by one front end, distillation of both,
    a damaged file."""
    (tmp_path / "ct").mkdir()
    for number in range(12):
        np.save(tmp_path / "ct" / f"{number}.npy", np.random.default_rng(number).normal(size=(5, 10, 11)))
    (tmp_path / "ct" / "broken.npy").write_bytes(b"\x93NUMPY and no more")
    lines = [f"no acute finding in series {number} of the chest" for number in range(60)]
    (tmp_path / "reports.txt").write_text("\n".join(lines))
    trunk = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    trunk |= {"layer_norm_first": True, "layer_scale_init_value": 0.1, "hidden_dropout": 0.0, "drop_path_rate": 0.1}
    volumes = volume_config().to_dict()
    reports = {"model_type": "medcoss-text", "vocab_size": 261, "pad_token_id": 1, "mask_token_id": 260}
    scans = {
        "model": {name: volumes[name] for name in ("model_type", "image_size", "patch_size", "num_positions")},
        "objective": {"top_k_layers": 2, "decoder": volumes["objective"]["decoder"]},
        "data": {"sources": [{"path": str(tmp_path / "ct")}], "max_bad_share": 0.2},
    }
    made: dict[str, Any] = {
        "model": trunk | {"shared_front_ends": [["ct", "mr"]]},
        "objective": {"ema_anneal_steps": 2},
        "modalities": {
            "text": {
                "model": reports | {"max_position_embeddings": 26},
                "objective": {"top_k_layers": 2},
                "data": {"sources": [{"path": str(tmp_path / "reports.txt")}], "tokenizer": "builtin:byte-bpe"}
                | {"block_size": 24, "pack": False, "whole_words": True},
            },
            "ct": scans,
            "mr": scans,
        },
        "stages": {"order": ["ct", "text", "mr"], "buffer": 0.5, "clusters": 0.1, "mixup": True},
        "training": recipe(tmp_path, tmp_path / "run")["training"] | {"max_steps": 3, "save_steps": 3},
    }
    assert command(made, tmp_path / "recipe.yaml") == 0
    assert json.loads((tmp_path / "run" / "1_ct" / "health.json").read_text())["skipped"]["ct/train"]
    log = json.loads((tmp_path / "run" / "2_text" / "trainer_state.json").read_text())["log_history"]
    assert any("text/loss" in row for row in log)
    kept = json.loads((tmp_path / "run" / BUFFERS / "ct" / PROVENANCE).read_text())
    assert kept["examples"] == 12 and kept["kept"] == len(kept["rows"]) <= 6
    whole = JointModel.from_pretrained(tmp_path / "run" / "3_mr")
    encoder = whole.encoders["ct"]
    assert encoder.embeddings is whole.encoders["mr"].embeddings
    assert encoder(torch.randn(1, 1, 4, 9, 10)).last_hidden_state.shape == (1, 13, 24)


@pytest.mark.slow  # three stages, and what of the letters is kept
def test_the_demo_ends_with_a_model_of_all(tmp_path):
    """Shortened, on less of its own data."""
    words = ["--training.output_dir", str(tmp_path / "run"), "--training.use_cpu", "true", "--report_to", "none"]
    steps = {"max_steps": 2, "probe_steps": 2, "warmup_steps": 0}
    words += ["--stages.training", json.dumps(dict.fromkeys(("text", "image", "points"), steps))]
    words += ["--objective.ema_anneal_steps", "2", "--modalities.text.data.sources"]
    words += ["[{path: builtin:python-docs, split: validation}]", "--modalities.text.data.probe", "null"]
    assert run.main(["demo_stages.yaml", *words]) == 0
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert list(summary["knn_after"]) == ["text", "image", "points"]
    assert list(summary["forgotten"]) == ["image", "points"]  # the letters' probe is half a minute
    for modality in ("text", "image", "points"):
        JointModel.from_pretrained(tmp_path / "run" / "3_points", modality=modality)


def test_the_code_of_the_page_runs(tmp_path):
    (code,) = [block for block in blocks_of(ROOT / "docs" / "stages.md") if block[0] == "python"]
    run_block(*code, tmp_path)
