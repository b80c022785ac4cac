"""The recipes for speech recognition: each loads, builds small models of both families and takes a step."""

import json
import re

import numpy as np
import pytest
import soundfile

from data2vec.finetune.arguments import resolve
from data2vec.finetune.ctc.task import SpeechRecognition
from data2vec.finetune.help_text import RECIPES
from data2vec.finetune.runner import fine_tune
from data2vec.pretraining.recipe import read_recipe
from tests.finetune.encoders import FAMILIES, encoder_folder


SECTIONS = ("model", "data", "task", "training")
LIBRISPEECH = ("10min", "1h", "10h", "100h", "960h")
NAMES = [*(f"librispeech_{hours}" for hours in LIBRISPEECH), "librispeech_small", "spoken_digits_ctc"]
# word error rates on test-other with the 4-gram model, in percent: arXiv 2202.03555, table 2, and 2212.07525
PUBLISHED = dict(
    zip(
        LIBRISPEECH,
        [(12.3, 11.5, 8.4), (9.1, 8.7, 6.3), (8.1, 7.6, 5.1), (6.8, 6.4, 4.3), (5.5, 5.2, 3.5)],
        strict=True,
    )
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for i, text in enumerate(("ONE TWO", "THREE", "IT'S A")):
        soundfile.write(folder / f"{i}.wav", np.random.default_rng(i).normal(size=16_000 + 500 * i) * 0.1, 16_000)
        lines.append(json.dumps({"audio": str(folder / f"{i}.wav"), "text": text}))
    path = folder / "clips.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_a_step(name: str, family: str, manifest: str, tmp_path) -> None:
    recipe = read_recipe(RECIPES / f"{name}.yaml", RECIPES, SECTIONS)
    # as wide as the recipe's masks over channels, and small otherwise
    encoder = encoder_folder(tmp_path / "encoder", "audio", family, hidden_size=64)
    recipe["model"]["model_name_or_path"] = str(encoder)
    for split in ("train", "validation", "test"):
        recipe["data"][split] = {"path": manifest}
    recipe["training"] |= {
        "output_dir": str(tmp_path / "run"), "max_steps": 1, "eval_steps": 1, "save_steps": 1, "use_cpu": True,
        "bf16": False, "report_to": "none", "dataloader_num_workers": 0, "gradient_accumulation_steps": 1,
    }  # fmt: skip
    run = resolve(recipe, SpeechRecognition)
    for field, value in recipe["model"].items():
        assert field == "model_name_or_path" or getattr(run.config, field) == value
    results = fine_tune(run, SpeechRecognition)
    assert results["test"]["examples"] == 3 and np.isfinite(results["test"]["loss"])


@pytest.mark.parametrize("hours", LIBRISPEECH)
def test_a_full_recipe_opens_with_its_source_and_the_published_numbers(hours: str) -> None:
    head = (RECIPES / f"librispeech_{hours}.yaml").read_text().split("\nmodel:")[0]
    for word in ("Source", "Hardware", "Duration", "Expected", "published"):
        assert word in head
    row = re.search(rf"\| {hours} \| (.*) \|", head)
    assert row is not None
    assert tuple(map(float, row[1].split("|"))) == PUBLISHED[hours]
