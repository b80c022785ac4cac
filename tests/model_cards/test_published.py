"""A pushed folder, downloaded again and opened where this package is not: by repository and from the snapshot."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel

from data2vec.model_cards import render as renderer
from data2vec.model_cards.push import Push, push
from tests.model_cards.run_folders import HEADS, example, fine_tuned, pretrained


ENCODERS = [(modality, family) for modality in ("audio", "vision", "text") for family in ("v1", "v2")]
ENCODERS.append(("points", "v2"))
FINE_TUNED = [("ctc", "v1"), *((head, "v2") for head in HEADS)]
QUICK = [("audio", "v1"), ("vision", "v2"), ("points", "v2"), ("ctc", "v1"), ("texts", "v2")]

ELSEWHERE = """
import json, sys, warnings

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "data2vec":
            raise ImportError("this process has no data2vec")

sys.meta_path.insert(0, Refuse())
import torch
import transformers
from huggingface_hub import ModelCard, snapshot_download
from safetensors.torch import load_file, save_file

jobs = json.load(open(sys.argv[1]))
answers = {}
for job in jobs:
    repo_id, trust = job["repo_id"], job["trust"]
    answer = answers[repo_id] = {}
    if job["inputs"]:
        inputs = load_file(job["inputs"])
        folder = snapshot_download(repo_id)
        for source in (repo_id, folder):
            model, info = transformers.AutoModel.from_pretrained(
                source, trust_remote_code=trust, output_loading_info=True)
            answer.setdefault("keys", []).append([len(info[k]) for k in ("missing_keys", "unexpected_keys")])
            with torch.no_grad():
                features = model.eval()(**inputs).last_hidden_state
            save_file({"features": features}, job["inputs"] + (".hub" if source == repo_id else ".folder"))
        if trust:
            opened = [getattr(transformers, name).from_pretrained(repo_id, trust_remote_code=True)
                      for name in transformers.AutoConfig.from_pretrained(repo_id, trust_remote_code=True).auto_map
                      if name != "AutoConfig"]
            answer["classes"] = sorted(type(model).__name__ for model in opened)
            whole = transformers.AutoModelForPreTraining.from_pretrained(
                repo_id, subfolder="pretraining", trust_remote_code=True, output_loading_info=True)
            answer["whole"] = [type(whole[0]).__name__, len(whole[1]["missing_keys"])]
    blocks = ModelCard.load(repo_id).text.split("```python\\n")[1:]
    for block in blocks:  # the code of the page, as it stands there
        names = {}
        exec(block.split("```")[0], names)
        answer.setdefault("page", []).append(
            list(names["features"].shape) if "features" in names else type(names["model"]).__name__)
json.dump(answers, open(sys.argv[2], "w"))
"""


def each(names: str, models: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """For each of these models, those of `QUICK` in one process and the others, which are slow, in another."""
    cases = [
        pytest.param(*model, model in QUICK, marks=[] if model in QUICK else pytest.mark.slow, id="-".join(model))
        for model in models
    ]
    return pytest.mark.parametrize(f"{names}, opened", cases, indirect=["opened"])


@pytest.fixture(scope="module")
def opened(request, module_hub, tmp_path_factory) -> dict[str, dict]:
    """What a process without this package finds in every repository of the quick models, or of the others."""
    here = tmp_path_factory.mktemp("published")
    jobs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renderer, "draw_curves", lambda log, columns: None)  # drawn elsewhere
        encoders, fine = ([pair for pair in of if (pair in QUICK) == request.param] for of in (ENCODERS, FINE_TUNED))
        for modality, family in encoders:
            folder = pretrained(here / f"{modality}-{family}", modality, family)
            save_file(example(modality), here / f"{folder.name}.safetensors")
            jobs.append((folder, here / f"{folder.name}.safetensors", family, True))
        for head, family in fine:
            jobs.append((fine_tuned(here / f"{head}-{family}", head, family), None, family, False))
        for folder, _, _, whole in jobs:
            renderer.render(folder, license="mit")
            push(Push(folder, f"me/{folder.name}", pretraining=whole))
    asked = [
        {"repo_id": f"me/{folder.name}", "inputs": inputs and str(inputs), "trust": family == "v2"}
        for folder, inputs, family, _ in jobs
    ]
    (here / "jobs.json").write_text(json.dumps(asked))
    environment = os.environ | module_hub.environment(here / "cache") | {"PYTHONPATH": ""}
    command = [sys.executable, "-P", "-c", ELSEWHERE, str(here / "jobs.json"), str(here / "answers.json")]
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    answers = json.loads((here / "answers.json").read_text())
    return {name.removeprefix("me/"): answer | {"folder": here} for name, answer in answers.items()}


@each("modality, family", ENCODERS)
def test_an_encoder_gives_the_same_features(modality, family, opened):
    from safetensors.torch import load_file

    answer, name = opened[f"{modality}-{family}"], f"{modality}-{family}"
    inputs = load_file(answer["folder"] / f"{name}.safetensors")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(answer["folder"] / name).eval()(**inputs).last_hidden_state
    for source in ("hub", "folder"):
        found = load_file(answer["folder"] / f"{name}.safetensors.{source}")["features"]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    pooler = 2 if (modality, family) == ("text", "v1") else 0  # of the stock class, which no pretraining trains
    assert answer["keys"] == [[pooler, 0], [pooler, 0]]
    shape, *heads = answer["page"]
    assert shape[0] == 1 and shape[2] == expected.shape[2]
    if modality != "points":  # whose heads no Auto class knows
        assert len(heads) == 1 and "For" in heads[0]  # opened with a head by the page's second block


@each("modality, family", [(modality, "v2") for modality in ("audio", "vision", "text", "points")])
def test_every_auto_class_opens_the_repository(modality, family, opened):
    answer = opened[f"{modality}-{family}"]
    config = json.loads((answer["folder"] / f"{modality}-v2" / "config.json").read_text())
    expected = sorted(place.split(".")[1] for name, place in config["auto_map"].items() if name != "AutoConfig")
    assert answer["classes"] == expected and len(expected) >= 3
    assert answer["whole"] == [next(name for name in expected if name.endswith("ForPreTraining")), 0]


@each("head, family", FINE_TUNED)
def test_the_pipeline_of_the_page_answers(head, family, opened):
    assert opened[f"{head}-{family}"]["page"] and re.search("Pipeline$", opened[f"{head}-{family}"]["page"][0])
