"""The page of a fine-tuned model: what it gets right and wrong, and nothing that only pretraining has."""

import html
import json
import re
import shutil

import pytest

from data2vec.model_cards.report.command import main, write_page
from tests.model_cards.browser import LAPTOP, PHONE, Browser, chromium
from tests.model_cards.run_folders import fine_tuned


def write_predictions(folder, split, rows):
    (folder / "predictions").mkdir(exist_ok=True)
    (folder / "predictions" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def words(page) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))).split())


def classes(folder):
    pairs = 6 * ["cat cat"] + ["cat dog", "cat dog", "cat <b>"] + 4 * ["dog dog"] + ["<b> cat"]
    rows = [
        {"id": i, "input": f"secret{i}.png", "label": label, "prediction": said, "scores": {said: 0.9}, "error": 0.1}
        for i, (label, said) in enumerate(pair.split() for pair in pairs)
    ]
    write_predictions(folder, "test", rows)
    return folder


@pytest.fixture
def folder(tmp_path):
    return classes(fine_tuned(tmp_path / "pets", "images", "v1"))


def test_classes_and_what_they_are_taken_for(folder):
    assert main([str(folder)]) == 0
    text = words(folder / "report.html")
    assert "10 of 14 examples of test were classified correctly" in text
    assert "71.4 %, against 64.3 % by always answering cat." in text
    assert "cat 9 66.7 dog (2)" in text and "dog 4 100.0 –" in text and "<b> 1 0.0 cat (1)" in text
    assert "Fine-tuned" in text and "accuracy on test" in text
    assert (folder / "report_pictures" / "confusion.png").is_file()


def test_what_only_pretraining_has_is_not_lamented(folder):
    text = words(write_page([folder]))
    for title in (
        "What the student does not see",
        "Map of the features",
        "Attention",
        "Not shown",
        "drop to near 0 is a collapse",
    ):
        assert title not in text
    assert "secret3.png" not in text, "the examples stay in predictions/"


def test_transcripts(tmp_path):
    folder = fine_tuned(tmp_path / "letters", "ctc", "v1")
    rates = [0.0, 0.0, 0.0, 0.5, 1.5]
    rows = [{"id": i, "label": "a b", "prediction": "a", "error": wer, "wer": wer} for i, wer in enumerate(rates)]
    write_predictions(folder, "test", rows)
    assert "3 of 5 utterances of test were transcribed without an error." in words(write_page([folder]))
    assert (folder / "report_pictures" / "errors.png").is_file()


def test_several_labels_and_numbers(tmp_path):
    folder = fine_tuned(tmp_path / "sounds", "sounds", "v1")
    pairs = [(["dog", "rain"], ["dog"]), (["dog"], ["dog"]), (["rain"], ["dog", "rain"])]
    write_predictions(folder, "test", [{"label": label, "prediction": said, "error": 0} for label, said in pairs])
    text = words(write_page([folder]))
    assert "1 of 3 examples of test got exactly their labels" in text
    assert "rain 2 50.0 100.0" in text and "dog 2 100.0 66.7" in text
    write_predictions(folder, "test", [{"label": x, "prediction": x + 0.5, "error": 0} for x in (1.0, 2.0, 4.0)])
    assert "The mean distance from the label is 0.5, over 3 of test." in words(write_page([folder]))


def test_without_predictions_it_says_so(tmp_path):
    folder = fine_tuned(tmp_path / "bare", "images", "v1")
    shutil.rmtree(folder / "predictions", ignore_errors=True)
    text = words(write_page([folder]))
    assert "There is no predictions/test.jsonl" in text


@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")
def test_the_page_in_a_browser(folder):
    page = write_page([folder, classes(fine_tuned(folder.parent / "other", "images", "v2"))])
    with Browser(chromium()) as browser:
        for size in (LAPTOP, PHONE):
            browser.open(page.as_uri(), size)
            assert browser.errors == []
            assert browser.run("document.documentElement.scrollWidth") <= size[0]
            assert browser.run("document.querySelectorAll('#predictions svg').length") == 2
