"""Every code block of docs/downstream.md, executed in the order of the page, as a reader would."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from transformers import pipeline

from tests.code_blocks import ROOT, blocks_of, run_block
from tests.finetune.encoders import encoder_folder
from tests.model_cards.run_folders import fine_tuned


BLOCKS = blocks_of(ROOT / "docs" / "downstream.md")
FEATURES = next(code for _, code in BLOCKS if '"trust_remote_code": False' in code)
NEEDS_ONNX = ("onnx", "onnxscript", "onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a reader brings: small encoders and fine-tuned models."""
    here = tmp_path_factory.mktemp("reader")
    encoders(here, "v1")
    models = {"my_recogniser": "ctc", "my_sounds": "sounds", "my_classifier": "images", "my_reviews": "texts"}
    for name, head in models.items():
        fine_tuned(here / "runs" / name, head, "v1")
    return here


def encoders(folder: Path, family: str) -> None:
    for modality in ("audio", "text", "vision"):
        (folder / f"my_{modality}_encoder").mkdir()
        encoder_folder(folder / f"my_{modality}_encoder", modality, family)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_block(index, folder):
    language, code = BLOCKS[index]
    if "onnx" in code and any(importlib.util.find_spec(name) is None for name in NEEDS_ONNX):
        pytest.skip("the export extra is not installed")
    run_block(language, code, folder)
    if "--int8" in code:
        report = json.loads((folder / "my_export" / "export.json").read_text())
        assert set(report["files"]) == {"model.pt2", "model.onnx", "model.int8.onnx"}
    if "space" in code:
        assert json.loads((folder / "my_space" / "space.json").read_text())["task"] == "feature-extraction"


def test_features_of_data2vec2_need_its_code_only(tmp_path):
    """In a process that never imports this package."""
    encoders(tmp_path, "v2")
    run_block("python", FEATURES.replace('"trust_remote_code": False', '"trust_remote_code": True'), tmp_path)


def test_there_is_no_pipeline_for_features_of_sound(folder, tmp_path):
    """If this fails, `transformers` has one now: say so on the page."""
    copy = shutil.copytree(folder / "my_audio_encoder", tmp_path / "encoder")
    with pytest.raises((OSError, ValueError, KeyError, AttributeError, TypeError)):
        pipeline("feature-extraction", str(copy))([0.0] * 16_000)
