"""What is asked about phrases of film reviews that no encoder has read: length, a word that is in it, the order of
words and of letters (as Conneau et al. 2018 do with sentences), and of single letters casing and place in the word.

Encoders read lower-case letters and spaces, 22 at most, so casing is not in the input: was the word written with a
capital? Its control gives every word a random label (Hewitt and Liang 2019): how well do probes learn words by heart?
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any
from zlib import crc32

import datasets
import numpy as np
import torch
from experiment import Experiment
from knows_probe import Inputs, Question, Splits, one_hot
from prepare_text import letters_only


PRETRAINED_ON, TRAIN, TEST = 3000, 900, 500  # reviews, of which the first are read by encoders
LONGEST, SHORTEST = 22, 8  # letters of a phrase
WORDS, OF_LETTERS = 20, 5  # words whose presence is asked about, and the letters that they have at least
PER_WORD = (100, 50)  # phrases of each, to train on and to test on
ORDERED = (2000, 1000)  # phrases of which half are in order
FIRST = 1  # time step of the first letter, after the token that begins a text
ALPHABET = " abcdefghijklmnopqrstuvwxyz"

Word = tuple[str, bool]  # its letters, and whether it was written with a capital
Phrase = Sequence[Word]


def splits(of: Experiment, tokenizer: Any) -> Splits:
    reviews = datasets.load_dataset(str(of.data / "imdb_unlabelled_text"), split="train").shuffle(seed=0)
    parts = [
        [words_of(text) for text in reviews[start : start + count]["text"]]
        for start, count in ((PRETRAINED_ON, TRAIN), (PRETRAINED_ON + TRAIN, TEST))
    ]
    counts = Counter(word for review in parts[0] for word, _ in review if len(word) >= OF_LETTERS)
    targets = [word for word, _ in counts.most_common(WORDS)]
    train, test = (inputs_of(part, targets, tokenizer, number) for number, part in enumerate(parts))
    return list(zip(train, test, strict=True))


def words_of(text: str) -> list[Word]:
    """What is left of a text's words when it is reduced to letters."""
    found = []
    for word in text.split():
        if letters := letters_only(word):
            first = next(letter for letter in word if letter.lower() == letters[0])
            found.append((letters, first.isupper()))
    return found


def spelled(phrase: Phrase) -> str:
    return " ".join(letters for letters, _ in phrase)


def inputs_of(reviews: Sequence[list[Word]], targets: Sequence[str], tokenizer: Any, number: int) -> list[Inputs]:
    """What is asked about the training (0) or the test (1) reviews."""

    def asked(phrases: Sequence[Phrase], questions: dict[str, Question]) -> Inputs:
        ids = tokenizer([spelled(phrase) for phrase in phrases])["input_ids"]
        assert all(len(row) == len(spelled(phrase)) + 2 for row, phrase in zip(ids, phrases, strict=True))
        return Inputs([{"input_ids": torch.tensor(row)} for row in ids], questions)

    rng = np.random.default_rng(number)
    phrases, words = phrases_with(reviews, targets, PER_WORD[number], rng)
    lengths = np.array([[len(spelled(phrase))] for phrase in phrases], np.float32)
    content = {"word content": Question(words, counts_of(phrases)), "length": Question(lengths, counts_of(phrases))}
    found = [asked(phrases, content | of_letters(phrases, rng))]
    for name, swap in (("word order", swap_words), ("letter order", swap_letters)):
        some = any_phrases(reviews, ORDERED[number], rng)
        wrong = np.arange(len(some)) % 2
        some = [swap(phrase, rng) if swapped else phrase for phrase, swapped in zip(some, wrong, strict=True)]
        found.append(asked(some, {name: Question(wrong, counts_of(some))}))
    return found


# ---- phrases ----


def phrases_with(
    reviews: Sequence[list[Word]], targets: Sequence[str], each: int, rng: np.random.Generator
) -> tuple[list[Phrase], np.ndarray]:
    """Phrases of random lengths with one of the words, and its number: at most so many of each word."""
    phrases: list[Phrase] = []
    found: list[int] = []
    for number, target in enumerate(targets):
        places = [(i, j) for i, review in enumerate(reviews) for j, (word, _) in enumerate(review) if word == target]
        for i, j in rng.permutation(places).tolist():
            phrase = around(reviews[i], j, int(rng.integers(SHORTEST, LONGEST + 1)), rng)
            if sum(word in targets for word, _ in phrase) == 1 and found.count(number) < each:
                phrases.append(phrase)
                found.append(number)
    return phrases, np.array(found)


def any_phrases(reviews: Sequence[list[Word]], count: int, rng: np.random.Generator) -> list[Phrase]:
    """Phrases in which words and letters can be swapped."""
    phrases: list[Phrase] = []
    while len(phrases) < count:
        review = reviews[rng.integers(len(reviews))]
        phrase = around(review, int(rng.integers(len(review))), LONGEST, rng)
        if len(phrase) >= 3 and _unequal([word for word, _ in phrase]) and _swappable(phrase):
            phrases.append(phrase)
    return phrases


def around(review: Sequence[Word], place: int, most: int, rng: np.random.Generator) -> Phrase:
    """The word there and neighbours at random on both sides, in `most` letters where the word itself has no more."""
    start, stop = place, place + 1
    while True:
        wider = [(start - 1, stop)] * (start > 0) + [(start, stop + 1)] * (stop < len(review))
        wider = [(a, b) for a, b in wider if len(spelled(review[a:b])) <= most]
        if not wider:
            return review[start:stop]
        start, stop = wider[rng.integers(len(wider))]


def swap_words(phrase: Phrase, rng: np.random.Generator) -> Phrase:
    """Two neighbours that differ."""
    i = int(rng.choice(_unequal([word for word, _ in phrase])))
    return [*phrase[:i], phrase[i + 1], phrase[i], *phrase[i + 2 :]]


def swap_letters(phrase: Phrase, rng: np.random.Generator) -> Phrase:
    """Two neighbours that differ, of one word."""
    number, i = rng.permutation(_swappable(phrase))[0].tolist()
    word, capital = phrase[number]
    return [*phrase[:number], (word[:i] + word[i + 1] + word[i] + word[i + 2 :], capital), *phrase[number + 1 :]]


def _swappable(phrase: Phrase) -> list[tuple[int, int]]:
    return [(number, i) for number, (word, _) in enumerate(phrase) for i in _unequal(word)]


def _unequal(row: Sequence[str]) -> list[int]:
    """Where the next one differs."""
    return [i for i, (one, other) in enumerate(pairwise(row)) if one != other]


# ---- single letters ----


def of_letters(phrases: Sequence[Phrase], rng: np.random.Generator) -> dict[str, Question]:
    """Casing of words at their first letters, as many with a capital as without; of a letter its place in the word."""
    starts, letters = [], []  # (phrase, place, word, capital), (phrase, place, letters of the word before it)
    for number, phrase in enumerate(phrases):
        place = 0
        for word, capital in phrase:
            starts.append((number, place, word, capital))
            letters += [(number, place + i, i) for i in range(len(word))]
            place += len(word) + 1
    capitals = np.array([capital for *_, capital in starts])
    chosen = np.concatenate([np.flatnonzero(capitals), rng.choice(np.flatnonzero(~capitals), capitals.sum(), False)])
    at = np.array([starts[i][:2] for i in chosen])
    random_labels = np.array([crc32(starts[i][2].encode()) % 2 for i in chosen])
    some = np.array(letters)[rng.choice(len(letters), len(phrases), replace=False)]
    of_starts, of_some = letters_at(phrases, at), letters_at(phrases, some[:, :2])
    steps = np.array([0, FIRST])
    return {
        "casing": Question(capitals[chosen].astype(int), of_starts, at + steps),
        "casing, control": Question(random_labels, of_starts, at + steps),
        "place in the word": Question(some[:, 2:].astype(np.float32), of_some, some[:, :2] + steps),
    }


# ---- features without a network ----


def counts_of(phrases: Iterable[Phrase]) -> dict[str, np.ndarray]:
    """Share of each letter, and of each pair of letters that follow each other."""
    ids = [_ids(phrase) for phrase in phrases]
    pairs = [len(ALPHABET) * row[:-1] + row[1:] for row in ids]
    kinds = (("letters", ids, len(ALPHABET)), ("pairs of letters", pairs, len(ALPHABET) ** 2))
    return {
        name: np.stack([np.bincount(row, minlength=count) / len(row) for row in rows]) for name, rows, count in kinds
    }


def letters_at(phrases: Sequence[Phrase], at: np.ndarray) -> dict[str, np.ndarray]:
    """The letter at a place, and with its neighbours; outside the phrase are spaces."""
    padded = [np.pad(_ids(phrase), 1) for phrase in phrases]
    near = np.stack([padded[number][place : place + 3] for number, place in at])  # (n, 3)
    letters = one_hot(near, len(ALPHABET))
    return {"letter": letters[:, 1], "three letters": letters.reshape(len(at), -1)}


def _ids(phrase: Phrase) -> np.ndarray:
    return np.array([ALPHABET.index(letter) for letter in spelled(phrase)])
