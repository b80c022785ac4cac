"""`data2vec card` on finished run folders of every kind."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from matplotlib.figure import Figure
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from data2vec.model_cards import render as command
from data2vec.model_cards.card.hub_terms import LICENSES
from data2vec.model_cards.card.recorded_numbers import NO_MEASURE, NUMBER
from tests.code_blocks import ROOT
from tests.model_cards.hub_store import metadata_errors
from tests.model_cards.run_folders import LOG, fine_tuned, pretrained


REPORT = ROOT / "docs" / "runs" / "audio_librispeech" / "report.json"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A pretraining run with a report."""
    folder = pretrained(tmp_path_factory.mktemp("runs") / "speech_v2", "audio", "v2")
    shutil.copy(REPORT, folder)
    Image.new("RGB", (8, 8)).save(folder / "report.png")
    return folder


@pytest.fixture(scope="module")
def finished_ctc(tmp_path_factory) -> Path:
    return fine_tuned(tmp_path_factory.mktemp("runs") / "letters", "ctc", "v1")


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "speech_v2"))


@pytest.fixture
def ctc(finished_ctc, tmp_path) -> Path:
    return Path(shutil.copytree(finished_ctc, tmp_path / "letters"))


@pytest.fixture(autouse=True)
def quick_curves(request, monkeypatch) -> None:
    """An empty picture where something was logged: drawing takes seconds, and one test looks at the real one."""
    if "real_curves" not in request.fixturenames:
        monkeypatch.setattr(command, "draw_curves", lambda log, columns: Figure(figsize=(1, 1)) if log else None)


@pytest.fixture
def real_curves() -> None:
    pass


def render(folder: Path, *words: str) -> ModelCard:
    assert command.main([str(folder), *words]) == 0
    return ModelCard.load(folder / "README.md")


SAID = ("--license", "apache-2.0", "--language", "en", "de", "--datasets", "openslr/librispeech_asr")


# Metadata


def test_metadata_of_an_encoder(folder):
    card = render(folder, *SAID)
    data = card.data
    assert (data.license, data.language, data.datasets) == ("apache-2.0", ["en", "de"], ["openslr/librispeech_asr"])
    assert (data.library_name, data.pipeline_tag, data.model_name) == (
        "transformers",
        "feature-extraction",
        "speech_v2",
    )
    assert data.tags == ["data2vec", "data2vec2", "custom_code", "speech", "self-supervised-learning"]
    assert data.base_model is None and metadata_errors(str(card)) == []
    student = json.loads(REPORT.read_text())["rows"]["student"]
    measured = {result.metric_name: result.metric_value for result in data.eval_results}
    assert measured == {
        "accuracy, linear probe": student["linear_probe"]["accuracy"],
        "accuracy, k-NN": student["knn"]["accuracy"],
        "accuracy, few labels (10 per class)": student["few_labels"]["accuracy"],
        "accuracy, fine-tuning (10 labels per class)": student["fine_tuning"]["accuracy"],
    }
    assert {(r.task_type, r.dataset_type, r.dataset_split) for r in data.eval_results} == {
        ("audio-classification", "labelled", "held_out")
    }


def test_a_data_set_has_the_name_that_was_said(folder):
    card = render(folder, *SAID, "--dataset_names", "{labelled: Spoken digits}")
    assert {(r.dataset_type, r.dataset_name) for r in card.data.eval_results} == {("labelled", "Spoken digits")}
    assert "labelled` (Spoken digits) |" in card.text
    card = render(folder, "--dataset_names", "{labelled: openslr/librispeech_asr}")  # on the Hub, as SAID says
    assert {(r.dataset_type, r.dataset_name) for r in card.data.eval_results} == {("openslr/librispeech_asr",) * 2}


def test_metadata_of_a_fine_tuned_model(ctc):
    card = render(ctc, "--license", "mit", "--base_model", "me/encoder", "--model_name", "Letters")
    data = card.data
    assert (data.pipeline_tag, data.base_model, data.tags) == (
        "automatic-speech-recognition", "me/encoder", ["data2vec", "speech"],
    )  # fmt: skip
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {"wer": 0.709, "cer": 0.557} and data.metrics == ["cer", "wer"]
    header = yaml.safe_load(str(card).split("---\n")[1])
    name, results = model_index_to_eval_results(header["model-index"])
    assert name == "Letters" and results == data.eval_results
    assert {(r.dataset_name, r.dataset_split) for r in results} == {("words", "test")}


def test_results_of_glue_are_those_of_its_task(ctc):
    recipe = yaml.safe_load((ctc / "recipe.yaml").read_text())
    recipe["data"] = {"task_name": "sst2"}
    (ctc / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = render(ctc, "--license", "mit").data.eval_results[0]
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("nyu-mll/glue", "sst2", "test")


def test_results_of_one_stream_are_of_their_split(ctc):
    found = json.loads((ctc / "results.json").read_text())
    (ctc / "results.json").write_text(json.dumps({"test_video": found["test"]} | found))
    results = render(ctc, "--license", "mit").data.eval_results
    assert {(r.metric_name, r.dataset_split) for r in results if r.metric_type == "wer"} == {
        ("word error rate", "test"),
        ("word error rate, video", "test"),
    }


# What the page says


def test_page_of_an_encoder(folder, real_curves):
    text = render(folder, *SAID, "--limits", "Whispering was left out.", "--authors", "Ada").text
    assert "| updates | 6 |" in text and "| seed | 17 |" in text and "| `learning_rate` | 0.002 |" in text
    assert "| pretraining | `clips` | train | cc-by-4.0 |" in text
    assert "`0123456789abcdef0123456789abcdef01234567`" in text and "A Processor 9000, 7 cores, 23.4 GiB" in text
    assert "| training time | 9 s |" in text and "38.4 to 42.7 samples per second" in text
    assert "| energy | not measured |" in text and "| peak memory | not measured |" in text
    assert "linear probe 45.1 %" in text or "linear probe" in text
    assert "![Curves of the run](curves.png)" in text and "![What the run learned](report.png)" in text
    assert "trust_remote_code=True" in text and "- Whispering was left out." in text and "**Made by:** Ada" in text
    assert "/home/me" not in text and "secret" not in text
    assert Image.open(folder / "curves.png").size[0] > 600 and "A look inside" not in text
    assert text.endswith("```\n") and "\n\n\n" not in text


def test_pictures_of_the_report_are_shown_where_they_were_drawn(folder):
    (folder / "report_pictures").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "report_pictures" / "masks.png")
    text = render(folder, *SAID).text
    assert "### A look inside" in text and "](report_pictures/masks.png)" in text and "layers.png" not in text


def test_page_of_a_fine_tuned_model(ctc):
    text = render(ctc, "--license", "mit").text
    assert "fine-tuned for speech recognition" in text
    assert "| word error rate | test | 0.709 | 1,499 |" in text and "| encoder starts from | mine |" in text
    assert "| training examples | 5,749 |" in text and "| seed | 23 |" in text
    assert 'pipeline("automatic-speech-recognition", model="REPO_ID")' in text and "trust_remote_code" not in text
    assert "The main metric is word error rate on test." in text


def test_code_for_pictures_of_one_channel_runs(tmp_path, capsys):
    """`pipeline` makes three channels of every picture."""
    folder = fine_tuned(tmp_path / "grey", "images", "v1")
    config = AutoConfig.from_pretrained(folder, num_channels=1)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    AutoImageProcessor.from_pretrained(folder, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    text = render(folder, "--license", "mit").text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code.replace("REPO_ID", str(folder)), {})
    assert capsys.readouterr().out.splitlines()[-1] in ("bad", "good") and "pipeline(" not in code


def test_measured_energy_is_told(folder):
    rows = "timestamp,duration,emissions,energy_consumed\n2026-01-01T00:00:00,9.1,0.00123,0.00456\n"
    (folder / "emissions.csv").write_text(rows)
    text = render(folder, *SAID).text
    assert "| energy | 0.00456 kWh (codecarbon) |" in text and "| carbon | 1.23 g CO2" in text


def test_energy_of_a_run_in_parts_is_added_up(folder):
    """codecarbon appends a row a part, and may write one more than once: the last says all of its part."""
    rows = ["a,0.001,0.002", "a,0.003,0.004", "b,0.010,0.020"]
    (folder / "emissions.csv").write_text("\n".join(["run_id,emissions,energy_consumed", *rows]) + "\n")
    text = render(folder, *SAID).text
    assert "| energy | 0.024 kWh (codecarbon) |" in text and "| carbon | 13 g CO2" in text


def test_what_a_run_cost_is_told(folder):
    facts = json.loads((folder / "run.json").read_text())
    facts["compute"] = {"wall_seconds": 4321.6, "peak_memory_gib": 1.37, "peak_gpu_memory_gib": 11.83}
    (folder / "run.json").write_text(json.dumps(facts))
    text = render(folder, *SAID).text
    assert "| training time | 9 s |" in text and "| with probes, evaluation and saving | 72 minutes |" in text
    assert "| peak memory | 1.37 GiB of the main process |" in text
    assert "| peak memory of its GPU | 11.83 GiB, as PyTorch allocated it |" in text


def test_what_was_not_measured_says_so(tmp_path, finished):
    folder = Path(shutil.copytree(finished, tmp_path / "bare"))
    for name in ("report.json", "report.png", "run.json", "trainer_state.json"):
        (folder / name).unlink()
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    del recipe["training"]["seed"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    card = render(folder, "--license", "mit")
    results = card.text.split("## Results")[1]
    assert results.lstrip().startswith("Not measured.") and card.data.eval_results is None
    assert "| training time | not measured |" in card.text and "| commit of data2vec | not recorded |" in card.text
    assert "| seed | not stated |" in card.text and "curves.png" not in card.text


def test_the_last_probe_where_there_is_no_report(folder):
    (folder / "report.json").unlink()
    card = render(folder, *SAID)
    assert "accuracy in %: 38.4. Everything else: not measured." in card.text
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value) == ("accuracy, k-NN during the run", 0.384)


def test_an_unfinished_run_is_called_so(folder):
    (folder / "health.json").write_text(json.dumps({"state": "collapsed", "message": "target_std is below 0.1"}))
    text = render(folder, *SAID).text
    assert "**These weights are not those of a finished run.**" in text and "says: collapsed" in text
    (folder / "health.json").unlink()
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 4, "max_steps": 6, "log_history": LOG}))
    assert "The run made 4 of its 6 updates." in render(folder).text


# Numbers come from the folder


def test_another_number_in_the_folder_is_another_number_on_the_page(folder):
    before = render(folder, *SAID)
    report = json.loads((folder / "report.json").read_text())
    report["rows"]["student"]["knn"]["accuracy"] = 0.8771
    (folder / "report.json").write_text(json.dumps(report))
    after = render(folder)
    assert "87.7" in after.text and "87.7" not in before.text
    assert 0.8771 in [result.metric_value for result in after.data.eval_results]


def test_the_template_has_no_number_of_its_own():
    assert NUMBER.findall(NO_MEASURE.sub(" ", command.TEMPLATE.read_text())) == []


def test_every_number_of_the_page_is_in_a_file(folder):
    """Independently of the package: as text, or as a rounding of a value times 1, 100, or in other units."""
    text = render(folder, *SAID).text
    body = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|arXiv \S+|data2vec (1|2\.0)", " ", text, flags=re.DOTALL)
    names = ("config.json", "recipe.yaml", "run.json", "report.json", "trainer_state.json", "preprocessor_config.json")
    files = " ".join((folder / name).read_text() for name in names)
    values = [abs(float(word)) for word in re.findall(r"\d+\.?\d*(?:e-?\d+)?", files)]
    values.append(_parameters(folder))
    for word in re.findall(r"(?<![\w.,])\d[\d,]*\.?\d*", body):
        number = float(word.replace(",", "").rstrip("."))
        step = 10.0 ** -len(word.rstrip(".").partition(".")[2])
        near = any(
            abs(scale * value - number) <= 0.51 * step for value in values for scale in (1, 100, 1 / 60, 1 / 3600)
        )
        assert near, word


def _parameters(folder: Path) -> int:
    from transformers import AutoModel

    return sum(parameter.numel() for parameter in AutoModel.from_pretrained(folder).state_dict().values())


def test_tags_are_shown_and_not_followed(folder):
    card = command.render(folder, license="mit", summary="<script>alert()</script> of `<b>`", authors="<img src=x>")
    text = (folder / "README.md").read_text()
    assert text == f"{card}\n" and "<script" not in text and "<img" not in text
    assert "&lt;script>alert()&lt;/script> of `<b>`" in text


# What is refused


REFUSED = [
    ((), "license is missing"),
    (("--license", "my-own"), "license = 'my-own' is invalid: use one of https://huggingface.co"),
    (("--license", "other"), "give license_name and license_link"),
    (("--license", "mit", "--language", "English"), "'English' is no ISO 639 code"),
    (("--license", "mit", "--datasets", "my data"), "name it as on the Hub"),
    (("--license", "mit", "--dataset_names", "Spoken digits"), "card.yaml.dataset_names = 'Spoken digits'"),
    (("--license", "mit", "--limits", "It is wrong in 3.7 % of cases."), "names 3.7, which no file"),
    (("--license", "mit", "--summary", "Reaches 99 %!"), "names 99, which no file"),
]


@pytest.mark.parametrize("words, said", REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_words_that_are_not_possible(words, said, folder, capsys):
    assert command.main([str(folder), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "README.md").exists() and not (folder / "card.yaml").exists()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "the run is not finished"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "'bert' is of no known modality",
        ),
        (lambda folder: shutil.rmtree(folder), "is not a folder"),
        (lambda folder: (folder / "card.yaml").write_text("licence: mit"), "card.yaml.licence"),
    ],
)
def test_a_folder_that_has_no_card(change, said, folder, capsys):
    change(folder)
    assert command.main([str(folder), "--license", "mit"]) == 2
    assert said in capsys.readouterr().err


def test_what_was_said_is_kept(folder):
    first = render(folder, *SAID, "--summary", "A small one.")
    assert str(render(folder)) == str(first)
    assert yaml.safe_load((folder / "card.yaml").read_text())["summary"] == "A small one."
    assert render(folder, "--license", "mit").data.language == ["en", "de"]


def test_the_licences_of_the_repository_s_own_cards():
    assert {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "other"} <= LICENSES
