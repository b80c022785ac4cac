"""Spaces as visitors meet them: the written app runs here with a tiny model and is asked through its own client."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoModel

from data2vec.model_cards.space import command
from tests.finetune.encoders import encoder_folder
from tests.model_cards.browser import LAPTOP, PHONE, Browser, chromium
from tests.model_cards.run_folders import fine_tuned


gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the space extra is not installed")

WAIT_FOR = """new Promise(done => {{
    const wait = setInterval(() => {{
        if ({}) {{ clearInterval(wait); done(true); }}
    }}, 200);
}})"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    here = tmp_path_factory.mktemp("models")
    for family in ("v1", "v2"):
        (here / f"encoder-{family}").mkdir()
    return {
        "audio": fine_tuned(here / "recogniser", "ctc", "v1"),
        "sounds": fine_tuned(here / "sounds", "sounds", "v2"),
        "image": fine_tuned(here / "classifier", "images", "v1"),
        "text": encoder_folder(here / "encoder-v1", "text", "v1"),
        "text2": encoder_folder(here / "encoder-v2", "text", "v2"),
    }


class Running:
    """The app of a written Space, in this process on a port that Gradio finds free."""

    def __init__(self, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        assert command.main([str(model), "--out", str(folder)]) == 0
        spec = importlib.util.spec_from_file_location("app", folder / "app.py")
        assert spec is not None and spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        _, self.url, _ = self.module.demo.launch(prevent_thread_lock=True, quiet=True, share=False)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *error: object) -> None:
        self.module.demo.close()

    def ask(self, *inputs: Any) -> Any:
        from gradio_client import Client

        return Client(self.url, verbose=False).predict(*inputs, api_name="/predict")


@gradio
def test_speech_becomes_a_transcript(models, tmp_path, monkeypatch):
    from gradio_client import handle_file

    clip = tmp_path / "clip.wav"  # of two channels and another rate
    soundfile.write(clip, 0.1 * np.random.default_rng(0).normal(size=(22_050, 2)), 22_050)
    with Running(models["audio"], tmp_path / "space", monkeypatch) as app:
        transcript = app.ask(handle_file(clip))
    assert isinstance(transcript, str) and set(transcript) <= set("ab <unk>|")


@gradio
def test_sounds_get_their_classes_of_data2vec2(models, tmp_path, monkeypatch):
    from gradio_client import handle_file

    soundfile.write(tmp_path / "clip.flac", 0.1 * np.random.default_rng(0).normal(size=8_000), 8_000)
    with Running(models["sounds"], tmp_path / "space", monkeypatch) as app:
        answer = app.ask(handle_file(tmp_path / "clip.flac"))
        if chromium() is not None:
            with Browser(str(chromium())) as browser:
                browser.open(app.url, PHONE)
                browser.run(WAIT_FOR.format("document.body.innerText.includes('Speak, or upload a clip')"))
                assert browser.run("document.documentElement.scrollWidth") <= PHONE[0]
    chances = {entry["label"]: entry["confidence"] for entry in answer["confidences"]}
    assert set(chances) == {"bad", "good"} and sum(chances.values()) == pytest.approx(1, abs=1e-4)


@gradio
def test_a_picture_gets_its_classes(models, tmp_path, monkeypatch):
    from gradio_client import handle_file

    Image.new("RGB", (31, 17), (200, 100, 50)).save(tmp_path / "picture.png")
    with Running(models["image"], tmp_path / "space", monkeypatch) as app:
        answer = app.ask(handle_file(tmp_path / "picture.png"))
    chances = {entry["label"]: entry["confidence"] for entry in answer["confidences"]}
    assert set(chances) == {"bad", "good"} and sum(chances.values()) == pytest.approx(1, abs=1e-4)


@gradio
@pytest.mark.parametrize("name", ["text", "text2"])
def test_the_nearest_sentence_is_the_same_one(name, models, tmp_path, monkeypatch):
    with Running(models[name], tmp_path / "space", monkeypatch) as app:
        rows = app.ask("it was good", "they are bad\nit was good\nthe fine and the poor of this")["data"]
        long = app.ask("it was good " * 200, "it was good")["data"]
        if chromium() is not None and name == "text":
            with Browser(str(chromium())) as browser:
                browser.open(app.url, LAPTOP)
                browser.run(WAIT_FOR.format('document.querySelectorAll("textarea").length > 1'))
                assert "Your sentence" in browser.run("document.body.innerText")
    assert rows[0] == ["it was good", "1.000"] and len(rows) == 3
    assert len(long) == 1, "what is longer than the model takes is cut"
    cosines = [float(row[1]) for row in rows]
    assert cosines == sorted(cosines, reverse=True) and cosines[1] < 0.9999


def test_the_folder_is_a_space_of_the_hub(models, tmp_path, monkeypatch, hub, capsys):
    monkeypatch.chdir(tmp_path)
    words = [str(models["audio"]), "--push", "me/try-it", "--model_id", "me/recogniser"]
    assert command.main([*words, "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert "Would upload" in listed and "space.json" in listed and "private" in listed
    assert command.main(words) == 0
    files = {path.name: path.read_text() for path in (tmp_path / "space_recogniser").iterdir()}
    assert hub.repo("me/try-it", "spaces").private
    assert {name: text.decode() for name, text in hub.files("me/try-it", kind="spaces").items()} == files
    head = yaml.safe_load(files["README.md"].split("---")[1])
    assert head["sdk"] == "gradio" and head["models"] == ["me/recogniser"] and head["app_file"] == "app.py"
    assert json.loads(files["space.json"])["model"] == "me/recogniser"
    assert str(tmp_path) not in "".join(files.values()), "it names folders of this machine"
    assert "gradio" not in files["requirements.txt"], "the Hub installs sdk_version"
    assert command.main(words) == 0, "pushed again, it is the same Space"
    api = HfApi()
    api.create_repo("me/game", repo_type="space", space_sdk="gradio", private=True)
    api.upload_file(path_or_fileobj=b"", path_in_repo="game.py", repo_id="me/game", repo_type="space")
    assert command.main([*words[:2], "me/game", *words[3:]]) == 2
    assert "me/game holds other files (game.py ...)" in capsys.readouterr().err
    assert set(hub.files("me/game", kind="spaces")) == {"game.py"}


def _change(folder: Path, name: str, change: Any) -> None:
    (folder / name).write_text(json.dumps(change(json.loads((folder / name).read_text()))))


FOREIGN = {
    "masking.py": lambda folder: (folder / "masking.py").write_text("import os\n"),
    "trap.py": lambda folder: _change(folder, "config.json", lambda c: c | {"auto_map": {"AutoModel": "trap.M"}}),
    "me/other--modeling.M in config.json": lambda folder: _change(
        folder, "config.json", lambda c: c | {"auto_map": c["auto_map"] | {"AutoModel": "me/other--modeling.M"}}
    ),
    "me/other--code.T in tokenizer_config.json": lambda folder: _change(
        folder, "tokenizer_config.json", lambda c: c | {"auto_map": {"AutoTokenizer": ["me/other--code.T", None]}}
    ),
    "own.py": lambda folder: _change(
        folder, "config.json", lambda c: c | {"custom_pipelines": {"feature-extraction": {"impl": "own.P"}}}
    ),
}


@pytest.mark.parametrize("said", FOREIGN)
def test_somebody_else_s_code_is_run_only_where_that_was_said(said, models, tmp_path, capsys):
    folder, out = tmp_path / "model", tmp_path / "space"
    shutil.copytree(models["text2"], folder)
    FOREIGN[said](folder)
    assert command.main([str(folder), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"data2vec's ({said})" in error and "--trust-code" in error and not out.exists()
    assert command.main([str(folder), "--out", str(out), "--trust-code"]) == 0


def test_the_app_of_a_model_on_the_hub_opens_the_code_that_was_compared(models, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    api = HfApi()
    api.create_repo("me/encoder", private=True)
    api.upload_folder(repo_id="me/encoder", folder_path=models["text2"])
    words = [str(models["text2"]), "--push", "me/try-it", "--model_id", "me/encoder"]
    assert command.main(words) == 0
    commit = api.model_info("me/encoder").sha
    written = json.loads(hub.files("me/try-it", kind="spaces")["space.json"])
    assert written["revision"] == commit and written["trust_remote_code"] is True
    api.upload_file(path_or_fileobj=b"import os", path_in_repo="ema.py", repo_id="me/encoder")
    assert command.main(words) == 2


def test_what_cannot_be_is_refused_with_the_fix(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main([str(models["audio"]), "--push", "me/try-it"]) == 2
    assert "--push needs --model_id OWNER/NAME" in capsys.readouterr().err
    (tmp_path / "encoder").mkdir()
    AutoModel.from_pretrained(encoder_folder(tmp_path / "encoder", "audio", "v1"))
    assert command.main(["encoder"]) == 2
    assert "Fine-tune it first" in capsys.readouterr().err and not (tmp_path / "space_encoder").exists()
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main([str(models["text"]), "--launch"]) == 2
    assert "pip install 'data2vec[space]'" in capsys.readouterr().err
