"""Embedded data: real input without a download, in three disjoint splits, the same every time."""

import importlib.util
import io
import json
import subprocess
import sys

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.datasets import load_digits

from data2vec.pretraining.data import builtin as data_builtin
from data2vec.pretraining.data.builtin import load_builtin


SPLITS = ("train", "validation", "test")
without_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="needs the optional wheel espeakng-loader"
)


def test_digits_are_scikit_learns():
    parts = [load_builtin("digits", split=split) for split in SPLITS]
    assert [len(part) for part in parts] == [1000, 200, 597]
    images = np.concatenate([[np.asarray(image) for image in part["image"]] for part in parts])
    np.testing.assert_array_equal(np.round(images * (16 / 255)), load_digits().images)
    assert [label for part in parts for label in part["label"]] == load_digits().target.tolist()
    assert isinstance(parts[0][0]["image"], Image.Image) and images.dtype == np.uint8
    assert len(load_builtin("digits", split="train+validation")) == 1200


def test_python_docs_are_english_prose_in_disjoint_splits():
    parts = {split: load_builtin("python-docs", split=split) for split in SPLITS}
    assert all(len(part) > 10 for part in parts.values())
    texts = [text for part in parts.values() for text in part["text"]]
    assert 1_000_000 < sum(map(len, texts)) < 5_000_000
    assert len({origin for part in parts.values() for origin in part["origin"]}) == len(texts)
    everything = "\n".join(texts)
    assert ">>>" not in everything and "::=" not in everything
    assert everything.count(" the ") > 10_000
    letters = sum(character.isalpha() or character.isspace() for character in everything)
    assert letters / len(everything) > 0.9


def test_print_holds_the_prose_and_the_phrases_as_images():
    """A cell of 11 x 6 pixels is the image of its character, but for its edges; splits and labels are the texts'."""
    phrases, printed = (load_builtin(name, "spelling", "validation") for name in ("python-docs", "print"))
    assert printed["label"][:] == phrases["label"][:] and printed.features["label"] == phrases.features["label"]
    cells = {}
    for text, image in zip(phrases["text"][:50], printed[:50]["image"], strict=True):
        pixels = np.asarray(image)
        assert pixels.shape == (11, 144) and pixels.dtype == np.uint8
        for character, cell in zip(text.ljust(24), np.split(pixels, 24, axis=1), strict=True):
            inner = cell[:, 1:5]  # letters may reach into the next cell by a pixel
            np.testing.assert_array_equal(inner, cells.setdefault(character, inner))
    assert len({cell.tobytes() for cell in cells.values()}) == len(cells) > 20, "every letter looks different"
    assert (cells[" "] == 255).all()
    prose = load_builtin("python-docs", split="test")["text"]
    lines = load_builtin("print", split="test")
    assert len(lines) == sum(len(" ".join(text.split())) // 24 for text in prose) and lines.column_names == ["image"]


def test_what_takes_long_is_made_once_and_nothing_half_made_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path))
    made = []

    def make(folder):
        made.append(folder)
        datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["a"]})).save_to_disk(folder)

    for _ in range(2):
        assert data_builtin._cached("words", make)["train"]["text"][:] == ["a"]
    assert len(made) == 1 and [path.name for path in tmp_path.iterdir()] == ["words"]

    def fail(folder):
        (folder / "half").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        data_builtin._cached("others", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["words"]


@without_espeak
def test_espeak_says_the_digits_in_disjoint_voices():
    parts = {split: load_builtin("espeak-digits", split=split) for split in SPLITS}
    assert [len(part) for part in parts.values()] == [1200, 300, 600]
    voices = [set(part["voice"]) for part in parts.values()]
    assert [len(names) for names in voices] == [8, 2, 4] and len(set.union(*voices)) == 14
    for part in parts.values():
        assert np.bincount(part["label"]).tolist() == [len(part) // 10] * 10
        assert all(
            part.features["label"].int2str(row["label"]) == row["word"] for row in part.select(range(0, 300, 7))
        )
    for row in parts["test"].select(range(0, 600, 37)):
        wave, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
        assert rate == 16000 and 0.2 < len(wave) / rate < 1.5 and 0.4 < np.abs(wave).max() <= 0.51
    words = load_builtin("espeak-digits", "words")
    assert len(words) == 8 * (10 * 15 + 69 * 2) and "label" not in words.column_names


@without_espeak
def test_a_fresh_process_synthesises_the_same_sound():
    program = (
        "import sys, json, hashlib; sys.path.insert(0, sys.argv[1]); import synthesize_digits as s; "
        "s.TAKES_OF_DIGITS = 1; y = s.Synthesizer(); "
        "print(json.dumps([hashlib.sha256(c['audio']['bytes']).hexdigest() for c in s.clips(y, 'test')]))"
    )
    folder = str(importlib.util.find_spec("data2vec.pretraining.data").submodule_search_locations[0])
    runs = [subprocess.run([sys.executable, "-c", program, folder], capture_output=True, check=True) for _ in range(2)]
    first, second = (json.loads(run.stdout) for run in runs)
    assert first == second and len(set(first)) == 40


def test_a_missing_synthesiser_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(data_builtin.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'data2vec\[speech-demo\]'"):
        load_builtin("espeak-digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digit",), "no builtin:digit: use one of builtin:digits"),
        (("digits", None, "dev"), "no split 'dev': use one of train, validation, test"),
        (("digits", "big"), "drop name = 'big'"),
        (("espeak-digits", "big"), "no name 'big'"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_builtin(*arguments)
