"""Word and character errors against a naive edit distance."""

import random

import pytest

from data2vec.finetune.ctc.errors import most_frequent, utterance_errors
from data2vec.finetune.metrics import CharacterErrorRate, WordErrorRate


def edit_distance(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return len(a) + len(b)
    table = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(table[i - 1][j] + 1, row[j - 1] + 1, table[i - 1][j - 1] + (x != y)))
        table.append(row)
    return table[-1][-1]


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    draw = random.Random(0)

    def text(fewest: int) -> str:
        return " ".join(draw.choice(["A", "AN", "BE", "SEE"]) for _ in range(draw.randint(fewest, 7)))

    return [text(1) for _ in range(41)], [text(0) for _ in range(41)]


def test_rates_are_edits_over_the_references_length(texts: tuple[list[str], list[str]]) -> None:
    references, hypotheses = texts
    pairs = list(zip(references, hypotheses, strict=True))
    words = sum(edit_distance(a.split(), b.split()) for a, b in pairs) / sum(len(a.split()) for a in references)
    letters = sum(edit_distance(list(a), list(b)) for a, b in pairs) / sum(map(len, references))
    assert WordErrorRate().compute(predictions=hypotheses, references=references) == {"wer": pytest.approx(words)}
    assert CharacterErrorRate().compute(predictions=hypotheses, references=references) == {
        "cer": pytest.approx(letters)
    }


def test_each_utterance_says_its_edits(texts: tuple[list[str], list[str]]) -> None:
    references, hypotheses = texts
    errors = utterance_errors(references, hypotheses)
    assert len(errors) == len(references)
    for reference, hypothesis, error in zip(references, hypotheses, errors, strict=True):
        assert len(error.edits) == edit_distance(reference.split(), hypothesis.split())
        assert error.wer == pytest.approx(len(error.edits) / len(reference.split()))
        assert error.cer == pytest.approx(edit_distance(list(reference), list(hypothesis)) / len(reference))


def test_edits_name_the_words() -> None:
    errors = utterance_errors(["WE HEAR IT", "IN THE END", "WE HEAR"], ["WE HERE IT", "IN END", "OH WE HERE"])
    assert [error.edits for error in errors] == [["HEAR>HERE"], ["-THE"], ["+OH", "HEAR>HERE"]]
    assert most_frequent(errors, 2) == [("HEAR>HERE", 2), ("+OH", 1)]
    assert utterance_errors([], []) == []
