"""What every task refuses before it reads any data: an encoder of something else, and sets without rows."""

import datasets
import pytest
import yaml
from transformers import ASTConfig

from data2vec.finetune import run_audio_classification, run_ctc, run_glue, run_image_classification
from tests.finetune.encoders import encoder_folder


SCRIPTS = {
    "run_glue": (run_glue, "text"),
    "run_ctc": (run_ctc, "audio"),
    "run_audio_classification": (run_audio_classification, "audio"),
    "run_image_classification": (run_image_classification, "vision"),
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {modality: encoder_folder(folder / modality, modality, "v2") for modality in ("audio", "text", "vision")}


def refused(script, encoder, data, tmp_path, capsys):
    """What a script says as it refuses a recipe."""
    recipe = {
        "model": {"model_name_or_path": str(encoder)},
        "data": data,
        "training": {"output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", "max_steps": 1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert SCRIPTS[script][0].main([str(tmp_path / "recipe.yaml")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("modality", ["audio", "text", "vision"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_encoder_of_something_else(script, modality, encoders, tmp_path, capsys):
    if modality == SCRIPTS[script][1]:
        assert "cannot be opened" in refused(script, encoders[modality], {"train": {"path": "/x"}}, tmp_path, capsys)
        return
    said = refused(script, encoders[modality], {"train": {"path": "/x"}}, tmp_path, capsys)
    assert f"({'data2vec2-' + modality}), and {script}.py needs one of" in said


@pytest.mark.parametrize("script", ["run_ctc", "run_audio_classification"])
def test_an_encoder_of_spectrograms(script, tmp_path, capsys):
    ASTConfig(hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path / "ast")
    assert "audio-spectrogram-transformer' is of no known modality" in refused(
        script, tmp_path / "ast", {"train": {"path": "/x"}}, tmp_path, capsys
    )


@pytest.mark.parametrize("empty", ["train", "test"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_no_rows(script, empty, encoders, tmp_path, capsys):
    column = {"run_glue": "text", "run_image_classification": "image"}.get(script, "audio")
    for split in ("train", "test"):
        rows = 0 if split == empty else 2
        table = {column: ["no file"] * rows, "text" if script == "run_ctc" else "label": ["a", "b"][:rows]}
        kinds = datasets.Features({name: datasets.Value("string") for name in table})
        datasets.Dataset.from_dict(table, features=kinds).to_parquet(str(tmp_path / f"{split}.parquet"))
    data = {split: {"path": str(tmp_path / f"{split}.parquet")} for split in ("train", "test")}
    said = refused(script, encoders[SCRIPTS[script][1]], data, tmp_path, capsys)
    assert f"{empty}.parquet" in said
