"""What is kept of a transcript."""

import pytest

from data2vec.finetune.normalisation import normalise


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("  Don\u2019t  STOP, \u201cnow\u201d! ", "DON'T STOP NOW"),
        ("well-known|words\tand\nlines", "WELL KNOWN WORDS AND LINES"),
        ("stra\u00dfe \ufb01n", "STRASSE FIN"),
        (" ... ", ""),
    ],
)
def test_a_transcript_is_normalised(said: str, kept: str) -> None:
    assert normalise(said) == kept


def test_case_and_characters_are_the_recipes_choice() -> None:
    assert normalise("Ab-C", "lower", removed="") == "ab-c"
    assert normalise("Ab-C", "keep", removed="b") == "A -C"
