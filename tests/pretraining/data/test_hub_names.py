"""What looks like a path, or is nowhere while the Hub does not answer, is refused at once as a path."""

import pytest
from huggingface_hub import constants

from data2vec.finetune.text.data import open_tokenizer
from data2vec.model_cards.export.model import open_model
from data2vec.model_cards.space.command import write_space
from data2vec.pretraining.arguments import field_names
from data2vec.pretraining.data import hub_names
from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.hub_names import require_hub_name
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.modalities.image import IMAGE
from data2vec.pretraining.modalities.text import TextDataArguments, _open_tokenizer
from data2vec.pretraining.model_section import open_config


PATHS = [
    "./here",
    "../runs/a",
    "~/nowhere",
    "/no/where",
    "runs/a/pretraining",
    "runs/a/",
    "weights.safetensors",
    "a/b.csv",
]
COMMANDS = {
    "sources": lambda name, folder: load_source(Source(path=name), IMAGE),
    "pretraining": lambda name, folder: field_names("model", {"model": {"model_name_or_path": name}}),
    "tokenizer": lambda name, folder: _open_tokenizer(TextDataArguments(sources=[{"path": "x"}], tokenizer=name)),
    "fine-tuning": lambda name, folder: open_config(name),
    "fine-tuning's tokenizer": lambda name, folder: open_tokenizer(name, None),
    "export": lambda name, folder: open_model(name),
    "space": lambda name, folder: write_space(name, folder / "space"),
}


@pytest.fixture
def asked(monkeypatch):
    """How often the Hub was asked; a request that gets past the check fails the test."""
    asked: list[str] = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            raise OSError("no network")

    monkeypatch.setattr(hub_names, "get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_names._hub_answers.cache_clear()
    yield asked
    hub_names._hub_answers.cache_clear()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_mistyped_folder_at_once(command, tmp_path, asked):
    for name in PATHS:
        with pytest.raises(ValueError, match="There is no file or folder.*correct the path") as error:
            COMMANDS[command](name, tmp_path)
        assert repr(name) in str(error.value)
    assert not asked
    for name in ("my_photoz", "runs/mye"):
        with pytest.raises(ValueError, match=f"There is no file or folder '{name}', and the Hub.*does not answer"):
            COMMANDS[command](name, tmp_path)
    assert len(asked) == 1  # and that only once


def test_what_is_there_or_in_the_cache_is_not_asked_for(tmp_path, asked, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my_photos", "runs/a/b", "x.csv"):
        (tmp_path / name).mkdir(parents=True)
        require_hub_name(name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--some--model").mkdir()
    require_hub_name("some/model")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    (tmp_path / "some___words").mkdir()
    require_hub_name("some/words", "dataset")
    assert not asked
    with pytest.raises(ValueError, match="does not answer"):
        require_hub_name("some/words")
    monkeypatch.setattr(
        hub_names, "get_session", lambda: type("Answers", (), {"head": lambda self, url, timeout: None})()
    )
    hub_names._hub_answers.cache_clear()
    require_hub_name("openai/whisper-tiny.en")
    require_hub_name("some/words-1.5")
