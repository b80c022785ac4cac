"""`push_to_hub` of a run: `Trainer` pushes at every save, after the checkpoint is complete, what others can open."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load
from transformers import TrainerCallback

from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.checkpoints import hub_push
from data2vec.pretraining.run import open_data
from data2vec.pretraining.trainer import Data2VecTrainer
from tests.pretraining.tiny_runs import recipe


class WaitForPush(TrainerCallback):
    """A push goes on in the background, and the next save leaves one out where it has not ended."""

    def __init__(self, trainer: Data2VecTrainer):
        self.trainer = trainer

    def on_save(self, *_, **__) -> None:
        self.trainer.push_in_progress.wait_until_done()


@pytest.fixture(scope="module")
def pushed(module_hub, tmp_path_factory):
    """A run of data2vec 2.0 of 8 updates that pushed at its two saves and at its end."""
    here = tmp_path_factory.mktemp("pushing")
    how = {"save_steps": 4, "push_to_hub": True, "hub_model_id": "me/images", "hub_private_repo": True}
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe("vision-2", here, here / "run", **how)))
    run = parse_arguments([str(here / "recipe.yaml")])
    trainer = Data2VecTrainer(run.model_class(run.config), run.training, open_data(run))
    trainer.add_callback(WaitForPush(trainer))
    trainer.train()
    trainer.save_model()
    return module_hub, here / "run"


def test_a_commit_at_every_save(pushed):
    hub, _ = pushed
    repo = hub.repo("me/images")
    titles = [commit.title for commit in repo.commits.values()]
    assert titles[0] == "initial commit" and titles[-1] == "Model save" and repo.private
    assert {"Training in progress, step 4", "Training in progress, step 8"} <= set(titles)


def test_what_is_there_meanwhile_opens(pushed):
    """Whole model and the code of data2vec 2.0, at the first of these commits."""
    hub, _ = pushed
    commits = hub.repo("me/images").commits.values()
    files = next(commit.files for commit in commits if commit.title.endswith("step 4"))
    config = json.loads(files["config.json"].content)
    assert config["architectures"] == ["Data2Vec2VisionForPreTraining"]
    modules = {f"{place.split('.')[0]}.py" for place in config["auto_map"].values()}
    assert modules | {"encoder.py", "ema.py", "targets.py"} <= set(files)
    assert any(name.startswith("teacher.") for name in load(files["model.safetensors"].content))
    assert not [path for path in files if path.startswith(("checkpoint-", "_"))]


def test_what_is_there_in_the_end_is_the_folder(pushed):
    hub, folder = pushed
    files = hub.files("me/images")
    assert files["model.safetensors"] == (Path(folder) / "model.safetensors").read_bytes()
    assert json.loads(files["config.json"])["architectures"] == ["Data2Vec2VisionModel"]
    assert not [name for name in load(files["model.safetensors"]) if name.startswith("teacher.")]
    assert "pretraining/model.safetensors" in files


def test_nothing_but_the_model_is_uploaded(pushed):
    """What `push` would leave here, `Trainer`'s own does not take either."""
    hub, folder = pushed
    lying = {"training_args.bin", "health.json", "run.json", "recipe.yaml"}
    for commit in list(hub.repo("me/images").commits.values())[1:]:
        for path in commit.files:
            assert path in ("README.md", ".gitattributes") or path.endswith((".py", ".safetensors", ".json")), path
            assert Path(path).name not in lying | {"trainer_state.json", "optimizer.pt"}, path
            assert path.split("/")[0] not in ("logs", "runs") and "checkpoint" not in path
    assert (folder / "pretraining" / "training_args.bin").is_file()


@pytest.mark.parametrize(
    ("strategy", "whole"),
    [("every_save", None), ("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-4")],
)
def test_a_checkpoint_that_is_asked_for_is_whole(tmp_path, monkeypatch, strategy, whole):
    """`hub_strategy: checkpoint`: to continue from, with the optimizer's state."""
    asked = []
    monkeypatch.setattr(hub_push.HfApi, "upload_folder", lambda self, **how: asked.append(how))
    checkpoint = tmp_path / "checkpoint-4"
    for name in ("model.safetensors", "config.json", "optimizer.pt", "sub/model.safetensors", "encoder.py"):
        (checkpoint / name).parent.mkdir(exist_ok=True, parents=True)
        (checkpoint / name).write_bytes(b"x")
    (checkpoint / "language_model").mkdir()
    (checkpoint / "language_model" / "5-gram.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5")
    for name in (".env", "training_args.bin", "notes.md"):
        (checkpoint / "language_model" / name).write_bytes(b"x")
    (checkpoint / "vocab.json").symlink_to("/etc/passwd")
    args = SimpleNamespace(hub_strategy=strategy, hub_always_push=False, hub_revision="main", hub_token=None)
    state = SimpleNamespace(global_step=4)
    trainer = SimpleNamespace(args=args, state=state, hub_model_id="me/x", push_in_progress=None)
    hub_push.push_checkpoint(trainer, checkpoint)
    assert asked[0]["allow_patterns"] == [
        "config.json", "model.safetensors", "language_model/5-gram.bin", "encoder.py"
    ]  # fmt: skip
    assert all(how["folder_path"] == checkpoint and how["revision"] == "main" for how in asked)
    assert [how["path_in_repo"] for how in asked[1:]] == ([whole] if whole else [])
    assert not any("allow_patterns" in how for how in asked[1:])


def test_an_upload_is_left_out_while_the_last_one_goes_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hub_push.HfApi, "upload_folder", lambda self, **how: asked.append(how))
    args = SimpleNamespace(hub_strategy="every_save", hub_always_push=False, hub_revision=None, hub_token=None)
    going_on = SimpleNamespace(is_done=lambda: False, jobs=["one"])
    trainer = SimpleNamespace(
        args=args, state=SimpleNamespace(global_step=4), hub_model_id="me/x", push_in_progress=going_on
    )
    hub_push.push_checkpoint(trainer, tmp_path)
    assert not asked
    args.hub_always_push = True
    hub_push.push_checkpoint(trainer, tmp_path)
    assert len(asked) == 1 and trainer.push_in_progress.jobs[-1] == "one"


def test_no_token_is_uploaded(pushed):
    hub, _ = pushed
    for commit in hub.repo("me/images").commits.values():
        for path, blob in commit.files.items():
            assert hub.token.encode() not in blob.content, path
