"""`data2vec push` against a Hub on this machine, through the real client."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from data2vec.model_cards import push as command
from data2vec.model_cards.render import render
from data2vec.modeling import MODELS, Data2Vec2AudioConfig
from tests.model_cards.run_folders import pretrained


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Finished runs of speech with their cards, of both families."""
    here = tmp_path_factory.mktemp("runs")
    made = {family: pretrained(here / family, "audio", family) for family in ("v1", "v2")}
    for folder in made.values():
        render(folder, license="apache-2.0")
    return made


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """One of data2vec 2.0 to change."""
    return Path(shutil.copytree(folders["v2"], tmp_path / "run"))


PNG = b"\x89PNG\r\n\x1a\n"


def push(*words: object) -> int:
    return command.main([str(word) for word in words])


def errors(capsys) -> str:
    return capsys.readouterr().err


# What goes up


def test_one_commit_with_the_whole_model(folders, hub, capsys):
    assert push(folders["v2"], "me/speech", "--tag", "v1.0") == 0
    repo, files = hub.repo("me/speech"), hub.files("me/speech")
    assert repo.private
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "Upload model"]
    assert repo.tags == {"v1.0": repo.branches["main"]}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "curves.png"} <= set(files)
    assert {"modeling_data2vec2.py", "heads.py", "encoder.py", "recipe.yaml", "run.json"} <= set(files)
    assert files["model.safetensors"] == (folders["v2"] / "model.safetensors").read_bytes()
    stays = ("pretraining/", "checkpoint", "logs", ".env", "training_args", "notes", "card.yaml", "trainer_state")
    assert not [path for path in files if path.startswith(stays)]
    assert hub.token not in "".join(capsys.readouterr())


def test_every_auto_class_that_is_registered_is_in_auto_map(folder, hub):
    config = json.loads((folder / "config.json").read_text())
    expected = {
        auto.__name__: f"{model.__module__.rpartition('.')[2]}.{model.__name__}"
        for auto, models in MODELS.items()
        for model in models
        if model.config_class is Data2Vec2AudioConfig
    }
    assert len(expected) == 5
    # as `save_pretrained` alone would leave it for a class that knows no others
    config["auto_map"] = {"AutoConfig": "configuration_data2vec2.Data2Vec2AudioConfig"}
    (folder / "config.json").write_text(json.dumps(config))
    assert push(folder, "me/speech", "--pretraining") == 0
    for name in ("config.json", "pretraining/config.json"):
        found = json.loads(hub.files("me/speech")[name])["auto_map"]
        assert found == {"AutoConfig": "configuration_data2vec2.Data2Vec2AudioConfig", **expected}


def test_the_whole_model_where_asked_for(folder, hub):
    (folder / "pretraining" / "training_args.bin").write_bytes(b"pickle")
    assert push(folder, "me/speech", "--pretraining", "--include", "notes.*") == 0
    files = hub.files("me/speech")
    assert {"pretraining/model.safetensors", "pretraining/config.json", "pretraining/targets.py", "notes.txt"} <= set(
        files
    )
    assert not [path for path in files if path.endswith(".bin")]


def test_dry_run_lists_exactly_what_is_uploaded_and_uses_no_network(folders, hub, capsys):
    assert push(folders["v1"], "me/speech", "--dry-run") == 0
    assert hub.requests == []
    said = capsys.readouterr().out
    first, second = said.split("stays here:")
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in first.splitlines()[1:-1]}
    assert push(folders["v1"], "me/speech") == 0
    assert listed == {path: len(content) for path, content in hub.files("me/speech").items()}
    assert "(main, private)" in first and "checkpoint-6/optimizer.pt: a checkpoint" in second
    assert "notes.txt: no part of a model: --include uploads it" in second


def test_folders_of_this_machine_are_not_told(folders, hub):
    assert push(folders["v1"], "me/speech") == 0
    for path, content in hub.files("me/speech").items():
        assert b"/home/me" not in content, path
    assert b"--sources '[{path: clips}]'" in hub.files("me/speech")["run.json"]


def test_pictures_that_the_card_shows(folder, hub):
    (folder / "report_pictures").mkdir()
    for name in ("masks.png", "curve_loss.png"):
        (folder / "report_pictures" / name).write_bytes(PNG + b"picture")
    render(folder)
    assert push(folder, "me/speech") == 0
    files = hub.files("me/speech")
    assert "report_pictures/masks.png" in files and "report_pictures/curve_loss.png" not in files


def test_the_card_names_the_repository(folders, hub):
    assert push(folders["v1"], "me/speech") == 0
    card = hub.files("me/speech")["README.md"].decode()
    assert 'AutoModel.from_pretrained("me/speech")' in card and "REPO_ID" not in card


def test_an_interrupted_push_continues(folder, hub, capsys):
    hub.refuse_after_uploads = 1
    assert push(folder, "me/speech", "--pretraining") == 2
    assert "same command" in errors(capsys)
    assert hub.files("me/speech") == {}  # no half of a model
    stored = set(hub.store.objects)
    assert len(stored) == 1
    hub.refuse_after_uploads = None
    hub.requests.clear()
    assert push(folder, "me/speech", "--pretraining") == 0
    sent = {path.removeprefix("/lfs/") for method, path in hub.requests if method == "PUT"}
    assert len(sent) == 1 and not sent & stored
    assert {"model.safetensors", "pretraining/model.safetensors"} <= set(hub.files("me/speech"))


def test_a_branch_and_a_second_version(folder, hub):
    assert push(folder, "me/speech", "--tag", "v1") == 0
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMore.\n")
    assert push(folder, "me/speech", "--revision", "next", "--tag", "v2", "--message", "Say more") == 0
    assert hub.files("me/speech", "next")["README.md"].endswith(b"More.\n")
    assert not hub.files("me/speech")["README.md"].endswith(b"More.\n")
    assert hub.repo("me/speech").at("v2").title == "Say more"


def test_public_only_where_said(folders, hub, capsys):
    assert push(folders["v1"], "me/open", "--public") == 0
    assert not hub.repo("me/open").private
    assert push(folders["v1"], "me/open") == 2
    assert "me/open exists and is public: add --public" in errors(capsys)


# What is refused


def test_a_repository_with_something_else(folders, hub, capsys):
    assert push(folders["v1"], "me/speech") == 0
    before = hub.files("me/speech")
    assert push(folders["v2"], "me/speech") == 2
    said = errors(capsys)
    assert "holds another model, data2vec-audio" in said and "--overwrite" in said
    assert hub.files("me/speech") == before
    HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="pytorch_model.bin", repo_id="me/speech")
    assert push(folders["v2"], "me/speech", "--overwrite") == 0
    files = hub.files("me/speech")
    assert json.loads(files["config.json"])["model_type"] == "data2vec2-audio" and "pytorch_model.bin" not in files


def test_a_repository_of_files_that_are_no_model(folders, hub, capsys):
    api = HfApi()
    api.create_repo("me/things", private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="thing.txt", repo_id="me/things")
    assert push(folders["v1"], "me/things") == 2
    assert "other files (thing.txt" in errors(capsys)


@pytest.mark.parametrize(
    "token, repo_id, said",
    [
        ("hf_wrongwrongwrongwrongwrong", "me/speech", "does not accept the token"),
        ("reader", "me/speech", "may not write to me/speech"),
        ("other", "me/speech", "may not write to me/speech"),
    ],
)
def test_a_token_that_may_not(token, repo_id, said, folders, hub, monkeypatch, capsys):
    token = {"reader": hub.reader_token, "other": hub.other_token}.get(token, token)
    monkeypatch.setenv("HF_TOKEN", token)
    assert push(folders["v1"], repo_id) == 2
    found = errors(capsys)
    assert said in found and f"{hub.url}/settings/tokens" in found
    assert token not in found and not hub.store.repos


def test_no_token(folders, hub, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert push(folders["v1"], "me/speech") == 2
    assert "hf auth login" in errors(capsys)


def test_no_network(folders, hub, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    assert push(folders["v1"], "me/speech") == 2
    said = errors(capsys)
    assert "http://127.0.0.1:9 cannot be reached" in said and "same command again" in said


def test_offline_is_said(folders, hub, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(folders["v1"], "me/speech") == 2
    assert "HF_HUB_OFFLINE is set" in errors(capsys)


def test_a_tag_does_not_move(folder, hub, capsys):
    assert push(folder, "me/speech", "--tag", "v1") == 0
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMore.\n")
    assert push(folder, "me/speech", "--tag", "v1") == 2
    assert "tags do not move" in errors(capsys)
    assert not hub.files("me/speech")["README.md"].endswith(b"More.\n")


def test_a_card_with_metadata_that_the_hub_refuses(folder, hub, capsys):
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("license: apache-2.0", "license: mine"))
    assert push(folder, "me/speech") == 2
    assert "Invalid metadata in README.md" in errors(capsys) and hub.files("me/speech") == {}


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, text):
    return lambda folder: (folder / name).write_text(text)


def _show(picture, file=None):
    """Name a file as a picture of the card."""

    def change(folder):
        if file is not None:
            (folder / picture).parent.mkdir(exist_ok=True)
            (folder / picture).write_bytes(file)
        (folder / "README.md").write_text((folder / "README.md").read_text() + f"\n![of it]({picture})\n")

    return change


def _link(name, to=None):
    """Put a folder outside of the run's in the place of one in it."""

    def change(folder):
        outside = folder.parent / "outside"
        if (folder / name).exists():
            (folder / name).rename(outside)
        else:
            outside.mkdir()
            (outside / "attrs.json").write_text("{}")
            (outside / "curves.png").write_bytes(PNG)
        (folder / name).symlink_to(outside)

    return change


def _both(*changes):
    return lambda folder: [change(folder) for change in changes]


SECRETS = {
    "AWS": "AKIA" + "IOSFODNN7EXAMPLE",
    "AWS, for a time": "ASIA" + "IOSFODNN7EXAMPLE",
    "AWS, the secret": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",
    "private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----",
    "GitLab": "glpat-" + "x" * 20,
    "bearer": "Authorization: Bearer " + "abcdef0123456789abcdef",
    "Slack": "xoxb-" + "123456789012-abcdefghijkl",
    "Google": "AIza" + "x" * 35,
    "web token": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "npm": "npm_" + "a" * 36,
    "of the environment": "WANDB_API_KEY=" + "0123456789abcdef" * 2,
    "in a URL": "https://me:p@ss/word@host/x".replace("/word", "word"),
    "as the user of a URL": "https://" + "a1" * 12 + "@host/x",
    "behind a URL": "https://host/x?token=" + "abcdef123456",
}

REFUSED = [
    (_show("checkpoint-8/optimizer.png", PNG), (), "stays here (a checkpoint with the optimizer's state)"),
    (_show("training_args.bin", b"pickle"), (), "stays here (a pickle"),
    (_show("logs/.env", b"secret"), (), "stays here (logs)"),
    (_show(".env.png", PNG), (), "stays here (a hidden file)"),
    (_show("../../etc/passwd"), (), "outside of the folder"),
    (_show("/etc/passwd"), (), "outside of the folder"),
    (_show("notes.png", b"secret words"), (), "is no .png"),
    (_show("drawing.svg", b"<svg><script/></svg>"), (), "is no .png"),
    (_both(_link("pictures"), _show("pictures/curves.png")), (), "in a folder that is one"),
    (_link("language_model"), (), "in a folder that is one"),
    (_link("pretraining"), ("--pretraining",), "in a folder that is one"),
    (_both(_link("more"), _show("more/curves.png")), (), "in a folder that is one"),
    (_write("ema.py", "import os\n"), (), "code that is not this version of data2vec's (ema.py)"),
    (
        _write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["them/theirs--code.Tokenizer", null]}}'),
        (),
        "them/theirs--code.Tokenizer in tokenizer_config.json",
    ),
    *((_write("recipe.yaml", f"note: {secret}\n"), (), "recipe.yaml holds what looks") for secret in SECRETS.values()),
    (_remove("README.md"), (), "data2vec card"),
    (_remove("curves.png"), (), "shows curves.png, which is not there"),
    (_remove("config.json"), (), "let the run end first"),
    (_remove("ema.py"), (), "ema.py is missing, and without it nobody can open this model"),
    (_write("recipe.yaml", "hub: hf_abcdefghijklmnop1234\n"), (), "recipe.yaml holds what looks like a token"),
    (lambda folder: shutil.rmtree(folder / "pretraining"), ("--pretraining",), "without --pretraining"),
    (lambda folder: None, ("--include", ".env"), "--include .env is invalid: it is a hidden file"),
    (lambda folder: None, ("--include", "*.bin"), "it is a pickle"),
    (lambda folder: (folder / "vocab.txt").symlink_to("/etc/passwd"), (), "vocab.txt is a link"),
]


@pytest.mark.parametrize("change, words, said", REFUSED, ids=range(len(REFUSED)))
def test_a_folder_that_is_not_ready(change, words, said, folder, hub, capsys):
    change(folder)
    assert push(folder, "me/speech", *words) == 2
    found = errors(capsys)
    assert said in found and "abcdefghijklmnop" not in found
    assert not hub.store.repos


def test_code_of_another_version_goes_where_it_was_read(folder, hub):
    (folder / "ema.py").write_text((folder / "ema.py").read_text() + "# of another version\n")
    assert push(folder, "me/speech", "--trust-code") == 0
    assert b"another version" in hub.files("me/speech")["ema.py"]


def test_a_name_without_an_owner(folders, hub, capsys):
    assert push(folders["v1"], "speech") == 2
    assert "give me/speech" in errors(capsys)
    assert push(folders["v1"], "me/sp eech") == 2
    assert "no name of a repository" in errors(capsys)
