"""The text demo: its labelled phrases are fair, and its recipe fits the data, the tokenizer and the model."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.data.builtin import load_builtin
from data2vec.pretraining.modalities.build import build_data


SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of its own, with the prose that other tests need too."""
    load_builtin("python-docs")
    folder = tmp_path_factory.mktemp("cache")
    for prose in Path(os.environ["DATA2VEC_CACHE"]).glob("python-docs-[0-9]*"):
        shutil.copytree(prose, folder / prose.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA2VEC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def phrases(cache):
    return {split: load_builtin("python-docs", "spelling", split) for split in SPLITS}


def test_phrases_are_labelled_half_and_half_and_of_one_split_only(phrases):
    assert [len(phrases[split]) for split in SPLITS] == [2000, 1000, 2000]
    for part in phrases.values():
        assert part.features["label"].names == ["spelled", "scrambled"]
        assert 2 * sum(part["label"]) == len(part)
        assert all(re.fullmatch("[a-z]+( [a-z]+)*", text) and len(text) <= 22 for text in part["text"])
    # with the letters of each word sorted, scrambled phrases are like the spelled ones
    plain = {split: [as_sorted_letters(text) for text in phrases[split]["text"]] for split in SPLITS}
    assert all(len(set(texts)) > 0.99 * len(texts) for texts in plain.values())
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert len(set(plain[one]) & set(plain[other])) <= 2  # anagrams at most


def as_sorted_letters(text):
    return " ".join("".join(sorted(word)) for word in text.split())


def test_spelled_phrases_are_prose_of_their_own_split_and_scrambled_ones_are_not(phrases):
    for split, part in phrases.items():
        text = "\n".join(load_builtin("python-docs", split=split)["text"]).lower()
        known = {re.sub("[^a-z]", "", word) for word in text.split()}
        for label, share in ((0, 1.0), (1, 0.05)):
            words = [word for row in part if row["label"] == label for word in row["text"].split() if len(word) > 3]
            assert np.mean([word in known for word in words]) == pytest.approx(share, abs=0.05 * label)


def test_only_the_order_of_letters_tells_the_classes_apart(phrases):
    def accuracy(analyzer, sizes):
        model = make_pipeline(CountVectorizer(analyzer=analyzer, ngram_range=sizes), LogisticRegression(max_iter=1000))
        model.fit(phrases["train"]["text"], phrases["train"]["label"])
        return model.score(phrases["test"]["text"], phrases["test"]["label"])

    assert 0.45 < accuracy("char", (1, 1)) < 0.55
    assert 0.45 < accuracy(lambda text: map(len, text.split()), (1, 1)) < 0.55
    assert accuracy("char", (3, 3)) > 0.8


def test_another_process_makes_the_same_phrases(phrases, cache):
    (folder,) = cache.glob("python-docs-spelling-*")
    shutil.rmtree(folder)
    code = "from data2vec.pretraining.data.builtin import load_builtin as load\n"
    code += "print(*load('python-docs', 'spelling', 'test')['text'], sep='\\n')"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    made = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert made.stdout.splitlines() == list(phrases["test"]["text"])


def test_an_unknown_name_is_refused_and_named():
    with pytest.raises(ValueError, match="'speling': use spelling"):
        load_builtin("python-docs", "speling")


@pytest.fixture(scope="module")
def demo(cache):
    run = parse_arguments(["demo_text.yaml"])
    rows = run.training.per_device_train_batch_size
    return run, build_data(run.data, config=run.config, objective=run.objective, seed=3, batch_size=rows)


def test_the_demo_reads_bytes_and_sees_whole_phrases(demo, phrases):
    run, data = demo
    assert len(data.processor) == run.config.vocab_size == 256 + 5  # single bytes and special tokens: no merges
    assert len(data.probe_test) == 2000 and data.label_names == ("spelled", "scrambled")
    for i in (0, 1, 1999):
        ids = data.probe_test[i]["input_ids"]
        assert data.processor.decode(ids, skip_special_tokens=True) == phrases["test"][i]["text"]
        assert len(ids) <= run.data.block_size
    lengths = Counter(len(data.train_dataset[(0, i)]["input_ids"]) for i in range(100))
    assert lengths == {run.data.block_size: 100}


def test_the_demo_hides_single_letters_of_every_row(demo):
    _, data = demo
    batch = data.collator([data.train_dataset[(0, i)] for i in range(512)])
    masked = batch["masked"]  # (batch, tokens)
    assert masked.any(1).all() and not masked[:, 0].any()
    assert 0.1 < masked.float().mean() < 0.35
