"""The n-gram trainer: its ARPA file, read by a naive reader of the format, is a probability distribution."""

import importlib.util
import random
from pathlib import Path

import pytest

from data2vec.finetune.train_ngram import KneserNey, main


Grams = dict[tuple[str, ...], tuple[float, float]]


def read_arpa(path: Path) -> tuple[Grams, int]:
    """n-gram -> log10 of its probability and of its back-off; and the order."""
    grams: Grams = {}
    order = 0
    for line in path.read_text().splitlines():
        if line.endswith("-grams:"):
            order = int(line[1:].split("-")[0])
        elif order and "\t" in line:
            score, words, *backoff = line.split("\t")
            grams[tuple(words.split())] = (float(score), float(backoff[0]) if backoff else 0.0)
            assert len(words.split()) == order
    return grams, order


def probability(grams: Grams, context: tuple[str, ...], word: str) -> float:
    """As the format defines it: the longest n-gram that is listed, times the back-offs passed on the way."""
    if (*context, word) in grams:
        return 10 ** grams[(*context, word)][0]
    assert context, f"{word} is not in the vocabulary"
    return 10 ** grams.get(context, (0.0, 0.0))[1] * probability(grams, context[1:], word)


@pytest.fixture(scope="module", params=[2, 3])
def trained(request, tmp_path_factory) -> tuple[Path, int]:
    draw = random.Random(1)
    text = tmp_path_factory.mktemp("text") / "lines.txt"
    lines = (" ".join(draw.choice(["one", "two!", "Three"]) for _ in range(draw.randint(1, 5))) for _ in range(53))
    text.write_text("\n".join(lines) + "\n\n")
    path = text.parent / "lm" / "lm.arpa"
    main(["--data", str(text), "--order", str(request.param), str(path)])
    return path, request.param


def test_every_context_is_a_distribution(trained: tuple[Path, int]) -> None:
    path, order = trained
    grams, found = read_arpa(path)
    assert found == order
    words = ["ONE", "TWO", "THREE", "</s>", "<unk>"]
    assert {gram[0] for gram in grams if len(gram) == 1} == {*words, "<s>"}  # normalised as transcripts are
    for context in [(), ("<s>",), ("ONE",), ("<s>", "TWO"), ("THREE", "ONE"), ("<unk>", "TWO")]:
        kept = context[len(context) - min(len(context), order - 1) :]
        assert sum(probability(grams, kept, word) for word in words) == pytest.approx(1.0, abs=1e-5)


def test_kenlm_reads_what_was_written(trained: tuple[Path, int]) -> None:
    if importlib.util.find_spec("kenlm") is None:
        pytest.skip("kenlm is not installed: `make lm`")
    import kenlm

    path, order = trained
    grams, _ = read_arpa(path)
    sentence = ["<s>", "TWO", "ONE", "ONE", "THREE", "</s>"]
    scores = [score for score, *_ in kenlm.Model(str(path)).full_scores(" ".join(sentence[1:-1]))]
    for i, score in enumerate(scores, 1):
        context = tuple(sentence[max(0, i - order + 1) : i])
        assert 10**score == pytest.approx(probability(grams, context, sentence[i]), rel=1e-4)


def test_a_bigram_by_hand() -> None:
    """ "A B", "A B", "A C", "B A": the formula with counts taken by hand."""
    model = KneserNey([["A", "B"], ["A", "B"], ["A", "C"], ["B", "A"]], 2)
    # bigrams: <s>A 3, AB 2, B</s> 2, AC 1, C</s> 1, <s>B 1, BA 1, A</s> 1: five once, two twice
    discount = 5 / (5 + 2 * 2)
    # different words before: A 2 (<s>, B), B 2 (A, <s>), C 1, </s> 3; one once, two twice
    lower = 1 / (1 + 2 * 2)
    c_alone = (1 - lower) / 8 + (4 * lower / 8) / 5
    assert model.probability(("C",)) == pytest.approx(c_alone)
    assert model.probability(("A", "C")) == pytest.approx((1 - discount) / 4 + 3 * discount / 4 * c_alone)
    assert model.rest(("A",)) == pytest.approx(3 * discount / 4)


@pytest.mark.parametrize(("sentences", "order", "message"), [([], 2, "no sentence"), ([["A"]], 1, "order = 1")])
def test_what_cannot_be_trained_is_refused(sentences: list[list[str]], order: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KneserNey(sentences, order)
