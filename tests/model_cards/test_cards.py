"""The cards of this project's own models: valid, of the runs that docs/runs describes, without a machine's folders."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from data2vec.pretraining.modalities.methods import DATA2VEC, DATA2VEC2, METHODS
from tests.code_blocks import ROOT
from tests.model_cards.hub_store import metadata_errors


FOLDER = ROOT / "model_cards" / "cards"
CARDS = sorted(FOLDER.glob("*.md"))
# card -> the folder of docs/runs that describes its run
DESCRIBED = {
    "audio_librispeech_v2": "audio_librispeech_v2",
    "text_imdb": "text_imdb",
    "text_imdb_v2": "text_imdb_v2",
    "vision_fashion_mnist": "vision_fashion_mnist",
    "vision_fashion_mnist_v2": "vision_fashion_mnist_v2",
}
# card -> the model type of a method of its own
MODEL_TYPES = {"eat_esc10": "eat", "emotion2vec_emodb": "emotion2vec", "points_shapes": "point2vec"}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_card(path):
    card = ModelCard.load(path)
    assert metadata_errors(path.read_text()) == []
    data = card.data
    assert data.license and data.pipeline_tag and data.eval_results and data.model_name == path.stem
    assert data.library_name == "transformers" and {"data2vec"} <= set(data.tags)
    for section in ("Intended use and limits", "How to use it", "Training data", "Results", "Compute", "Citation"):
        assert f"\n## {section}\n" in card.text
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", card.text):
        assert (FOLDER / picture).resolve().is_file(), picture
    assert not re.search(r"(?<![\w.])(/home|/root|/mnt|/opt|/tmp|/data|~)/", card.text.replace("](../../", "]("))
    assert ".." not in card.text.replace("../../docs/runs/", "")
    method = DATA2VEC2 if path.stem.endswith("_v2") else DATA2VEC
    if path.stem in MODEL_TYPES:
        method = METHODS[MODEL_TYPES[path.stem]]
    assert f"## Citation\n\n```bibtex\n{method.bibtex}\n```" in card.text and f"{method.name} encoder" in card.text
    assert method.reference in card.text or "fine-tuned for" in card.text


def test_every_modality_and_both_families():
    names = {path.stem for path in CARDS}
    tuned = {"fine_tuned_fashion_mnist_v2", "fine_tuned_spoken_letters"}
    assert {*DESCRIBED, *MODEL_TYPES, "audio_librispeech", *tuned} == names


@pytest.mark.parametrize("name, described", DESCRIBED.items())
def test_results_are_those_of_the_described_run(name, described):
    rows = json.loads((ROOT / "docs" / "runs" / described / "report.json").read_text())["rows"]["student"]
    found = sorted(result.metric_value for result in ModelCard.load(FOLDER / f"{name}.md").data.eval_results)
    assert found == sorted(row["accuracy"] for key, row in rows.items() if key != "name")
