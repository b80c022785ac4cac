"""Scores -> words: greedily, and with a language model, whose choice must be what its ARPA file says."""

import importlib.util
import itertools
import math
import random
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest

from data2vec.finetune.ctc.decoding import GreedyDecoder, LanguageModelDecoder, most_frequent, tune, utterance_errors
from data2vec.finetune.ctc.transcripts import make_tokenizer


installed = all(importlib.util.find_spec(name) for name in ("pyctcdecode", "kenlm"))
needs_search = pytest.mark.skipif(not installed, reason="pyctcdecode and kenlm are not installed: `make lm`")

# log10 probabilities: after BE, SEE is likelier than SEA; at the start of a sentence it is the other way round
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-2.0\t<unk>
-99\t<s>\t0.0
-1.0\t</s>
-1.0\tBE\t0.0
-1.0\tSEE\t0.0
-1.0\tSEA\t0.0

\\2-grams:
-2.5\t<s> SEE
-0.5\t<s> SEA
-0.5\tBE SEE
-2.5\tBE SEA

\\end\\
"""


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("ABES")


@pytest.fixture(scope="module")
def arpa(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    path.write_text(ARPA)
    return path


def scores_of(tokenizer, text: str, doubt: dict[int, tuple[str, float]] | None = None) -> np.ndarray:
    """Log-probabilities (frames, vocabulary) in which `text` is certain; `doubt`: place -> (letter, its chance)."""
    vocabulary = tokenizer.get_vocab()
    rows = []
    for place, letter in enumerate(text):
        for token in (letter if letter != " " else "|", "<pad>"):  # a blank after each letter
            chances = np.full(len(vocabulary), 1e-6)
            chances[vocabulary[token]] = 1.0
            if doubt and place in doubt and token != "<pad>":
                other, chance = doubt[place]
                chances[vocabulary[token]], chances[vocabulary[other]] = 1 - chance, chance
            rows.append(np.log(chances / chances.sum()))
    return np.array(rows, dtype=np.float32)


def test_greedy_is_best_tokens_without_repeats_and_blanks(tokenizer) -> None:
    rng = np.random.default_rng(0)
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    scores = [rng.normal(size=(frames, len(names))) for frames in (23, 31)]
    texts = GreedyDecoder(tokenizer)(scores)
    for frames, text in zip(scores, texts, strict=True):
        tokens = [names[number] for number, _ in itertools.groupby(frames.argmax(1).tolist())]
        naive = "".join(token for token in tokens if token != "<pad>").replace("|", " ")
        assert text == " ".join(naive.split())
        assert text


def test_silence_is_no_words(tokenizer) -> None:
    blanks = np.eye(len(tokenizer))[[tokenizer.pad_token_id] * 5]
    assert GreedyDecoder(tokenizer)([blanks]) == [""]


@needs_search
@pytest.mark.parametrize(
    ("heard", "letter", "greedy", "searched"),
    [
        ("SEA", "E", "SEA", "SEA"),  # both agree
        ("SEE", "A", "SEE", "SEA"),  # at the start SEA is 2 powers of ten likelier
        ("BE SEA", "E", "BE SEA", "BE SEE"),  # after BE, SEE is
        ("BE SEE", "A", "BE SEE", "BE SEE"),
    ],
)
def test_a_language_model_decides_as_its_arpa_file_says(
    tokenizer, arpa: Path, heard: str, letter: str, greedy: str, searched: str
) -> None:
    scores = scores_of(tokenizer, heard, {len(heard) - 1: (letter, 0.4)})
    assert GreedyDecoder(tokenizer)([scores]) == [greedy]
    assert LanguageModelDecoder(tokenizer, arpa, alpha=1.0, beta=0.0)([scores]) == [searched]
    assert LanguageModelDecoder(tokenizer, arpa, alpha=0.0, beta=0.0)([scores]) == [greedy]


@needs_search
def test_the_weight_at_which_a_decision_turns(tokenizer, arpa: Path) -> None:
    """SEE is heard with chance 0.9; the model is for SEA by 10^2: they tie at alpha = ln 9 / ln 100."""
    scores = [scores_of(tokenizer, "SEE", {2: ("A", 0.1)})]
    tie = math.log(9) / math.log(100)
    decoder = LanguageModelDecoder(tokenizer, arpa, alpha=tie - 0.02, beta=0.0)
    assert decoder(scores) == ["SEE"]
    decoder.set_weights(tie + 0.02, 0.0)
    assert decoder(scores) == ["SEA"]


@needs_search
def test_tuning_finds_the_weights_that_make_fewest_errors(tokenizer, arpa: Path) -> None:
    heard = [("SEE", "A", "SEA"), ("BE SEA", "E", "BE SEE"), ("SEA", "E", "SEA")]
    scores = [scores_of(tokenizer, text, {len(text) - 1: (letter, 0.1)}) for text, letter, _ in heard]
    decoder = LanguageModelDecoder(tokenizer, arpa)
    tuning = tune(decoder, scores, [truth for _, _, truth in heard], alphas=[0.1, 1.0, 0.0, 2.0], betas=[1.0, 0.0])
    assert (tuning.alpha, tuning.wer) == (1.0, 0.0)  # the smallest weight that is enough
    assert tuning.beta == 0.0
    assert (decoder.alpha, decoder.beta) == (1.0, 0.0)
    wer = {(row["alpha"], row["beta"]): row["wer"] for row in tuning.tried}
    assert len(wer) == 8 and wer[0.0, 0.0] == wer[0.1, 0.0] == pytest.approx(2 / 4)


@needs_search
def test_processes_decode_alike(tokenizer, arpa: Path) -> None:
    scores = [scores_of(tokenizer, "SEE", {2: ("A", 0.4)}), scores_of(tokenizer, "BE SEA", {5: ("E", 0.4)})]
    assert LanguageModelDecoder(tokenizer, arpa, alpha=1.0, beta=0.0, num_proc=2)(scores) == ["SEA", "BE SEE"]


@needs_search
def test_a_model_that_cannot_be_used_is_refused(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        LanguageModelDecoder(tokenizer, tmp_path / "none.arpa")
    binary = tmp_path / "lm.bin"
    binary.write_bytes(b"x")
    with pytest.raises(ValueError, match="language_model_words"):
        LanguageModelDecoder(tokenizer, binary)
    broken = tmp_path / "broken.arpa"
    broken.write_text("not a model")
    with pytest.raises(ValueError, match="cannot be read"):
        LanguageModelDecoder(tokenizer, broken)


def test_without_the_packages_the_message_says_how_to_install_them(tokenizer, arpa: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ValueError, match="make lm"):
        LanguageModelDecoder(tokenizer, arpa)


# Errors, against a naive edit distance


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
    assert jiwer.wer(references, hypotheses) == pytest.approx(words)
    assert jiwer.cer(references, hypotheses) == pytest.approx(letters)


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
