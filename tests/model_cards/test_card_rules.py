"""What may stand in a card: numbers of the run folder, no folder of anybody's machine, and the method's own paper."""

import dataclasses
from typing import ClassVar

import datasets
import pytest
from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, ViTConfig

from data2vec.model_cards.card import tables
from data2vec.model_cards.card.card_yaml import CardFields
from data2vec.model_cards.card.facts import method_of, remote_classes
from data2vec.model_cards.card.recorded_numbers import unrecorded
from data2vec.model_cards.strip_paths import without_places
from data2vec.modeling import Data2Vec2VisionConfig
from data2vec.pretraining.data.builtin import BUILTIN, Builtin, load_builtin
from data2vec.pretraining.modalities.methods import DATA2VEC, DATA2VEC2, METHODS


RECORDED = (
    {"accuracy": 0.38366, "steps": 1600, "rate": 4.878e-4, "on": True, "note": "torch 2.13.0+cpu, 10 per class"},
    [{"seconds": 9117.0}, {"loss": -2.163}],
)


@pytest.mark.parametrize(
    "text",
    [
        "38.4 % and 0.3837, 1,600 or 1600 updates, 4.88e-04, 0.00049",
        "9117 s, a loss of 2.16",
        "with 10 labels per class on torch 2.13.0",
        "data2vec 2.0 and data2vec 1, `anything 99.9` in code, https://hub/99, [link](page99.html)",
        "```python\nx = 99\n```",
        "no number; v3x, a4 and w2v2 are words",
    ],
)
def test_numbers_of_the_folder(text):
    assert unrecorded(text, *RECORDED) == []


@pytest.mark.parametrize(
    "text, missing",
    [
        ("38.5 %", ["38.5"]),
        ("0.384 and 0.385", ["0.385"]),
        ("1,601 updates of 1,600", ["1601"]),
        ("data2vec 3 with 99.3 % (+13.3)", ["3", "99.3", "13.3"]),
        ("torch 2.13.1", ["2.13.1"]),
        ("5.88e-04", ["5.88e-04"]),
        ("1 of True, 2 hours, 152 minutes", ["1", "2", "152"]),
    ],
)
def test_other_numbers(text, missing):
    assert unrecorded(text, *RECORDED) == missing


@pytest.mark.parametrize(
    "text, left",
    [
        ("run.py --sources '[{path: ../shared/clips}]' --output_dir runs/mine", None),
        ("path: /home/me/my clips/of today/wav\nnext: ~/x/y.txt", "path: wav\nnext: y.txt"),
        ('"model": "/a/b/c", see https://host.org/a/b/c and and/or 3/4 or /word', None),
        ("/w/d2v/run.py demo.yaml --output_dir runs/x", "run.py demo.yaml --output_dir runs/x"),
        ("/w/d2v/run.py recipes/x.yaml --d '/home/me/my clips/a'", "run.py recipes/x.yaml --d 'a'"),
    ],
)
def test_places(text, left):
    expected = left or text.replace("../shared/clips", "clips").replace('"/a/b/c"', '"c"')
    assert without_places(text) == expected


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"path": "builtin:python-docs"}, "PSF licence (documentation of Python)"),
        ({"path": "builtin:mine"}, "my own words"),
        ({"path": "builtin:mine", "license": "mit"}, "mit"),
        ({"path": "mine"}, "cc0-1.0"),
    ],
)
def test_the_licence_of_a_source(source, said, monkeypatch):
    """A data set that another package builds in states its own."""
    made = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a", "b"]})})
    monkeypatch.setitem(BUILTIN, "mine", Builtin(lambda name: made, "my own words"))
    assert tables._source("pretraining", source, CardFields(license="mit"), "cc0-1.0")[-1] == said
    assert load_builtin("mine")["text"][:] == ["a", "b"]


CODE = {"AutoConfig": "streams.StreamsConfig", "AutoModel": "streams.StreamsModel"}


@strict
class StreamsConfig(Data2Vec2VisionConfig):
    """Of another package, whose name says nothing."""

    model_type = "streams"
    remote_classes: ClassVar[dict[str, str]] = CODE


def test_a_model_type_of_another_package(monkeypatch):
    """It needs no entry, whatever it is called: what it extends says its family, its class which code goes with it."""
    added = {"streams": StreamsConfig, "data2vec2-of-a-vit": ViTConfig}
    monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", CONFIG_MAPPING._extra_content | added)
    assert (method_of("streams"), remote_classes("streams")) == (DATA2VEC2, CODE)
    assert (method_of("data2vec2-of-a-vit"), remote_classes("data2vec2-of-a-vit")) == (DATA2VEC, {})
    paper = dataclasses.replace(DATA2VEC2, name="Streams", key="me2027", arxiv=None, venue="A Conference", year=2027)
    monkeypatch.setitem(METHODS, "streams", paper)
    assert method_of("streams").reference == "A Conference 2027" and "{me2027," in method_of("streams").bibtex


def test_a_sentence_begins_with_the_article_of_the_method():
    names = {model_type: METHODS[model_type].with_article for model_type in ("data2vec2-audio", "eat", "emotion2vec")}
    assert list(names.values()) == ["A data2vec 2.0", "An EAT", "An emotion2vec"]
