"""The facts that run.json tells a model card: commit and machine."""

import json
import os
import subprocess

from data2vec.pretraining.checkpoints import environment as provenance
from data2vec.pretraining.checkpoints.run_folder import write_run_files


def git(folder, *words):
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(
        ["git", "-C", str(folder), *author, *words], check=True, capture_output=True, text=True
    ).stdout


def test_commit_of_a_checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "runs").mkdir()  # untracked, as run folders are
    assert provenance.source_commit(tmp_path) == commit and len(commit) == 40
    (tmp_path / "file").write_text("two")
    assert provenance.source_commit(tmp_path) == f"{commit}+changes"


def test_commit_of_a_package_that_pip_installed(tmp_path, monkeypatch):
    class Installed:
        def __init__(self, facts):
            self.facts = facts

        def read_text(self, name):
            assert name == "direct_url.json"
            return self.facts

    for facts, expected in (
        (json.dumps({"url": "https://host/x", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}), "c0ffee"),
        (json.dumps({"url": "file:///x", "dir_info": {}}), None),
        (None, None),  # from an index
    ):
        monkeypatch.setattr(provenance, "distribution", lambda name, facts=facts: Installed(facts))
        assert provenance.source_commit(tmp_path) == expected


def test_every_run_records_them(tmp_path):
    write_run_files(tmp_path, {"training": {"output_dir": "x"}})
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["commit"] == provenance.source_commit()
    machine = facts["hardware"]
    assert (
        machine["cores"] == os.cpu_count()
        and machine["memory_gib"] > 0
        and machine["cpu"]
        and isinstance(machine["gpus"], list)
    )
