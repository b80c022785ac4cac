"""Transcripts of speech: the letters that they are made of, and the tokenizer for these.

A transcript is normalised before anything else, the reference of a word error rate included. The vocabulary is then
what the training transcripts hold: the blank `<pad>`, `<unk>`, the word delimiter `|` and every character, sorted. The
tokenizer is a `Wav2Vec2CTCTokenizer`, as `transformers` wants it.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import Wav2Vec2CTCTokenizer


BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"


def letters_of(transcripts: Iterable[str]) -> set[str]:
    """The characters of normalised transcripts, spaces left out."""
    letters: set[str] = set()
    for transcript in transcripts:
        letters.update(transcript)
    return letters - {" "}


def make_tokenizer(letters: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """A tokenizer of single characters; `<pad>`, the blank, is 0.

    Raises:
        ValueError: one is the word delimiter `|`, or there is none.
    """
    kept = sorted(set(letters))
    if not kept:
        raise ValueError("The training transcripts hold no letter: correct data.train.label_column or its rows.")
    if DELIMITER in kept:
        raise ValueError(
            f"A transcript holds {DELIMITER!r}, which parts words here: add it to task.removed_characters."
        )
    vocabulary = {token: number for number, token in enumerate([BLANK, UNKNOWN, DELIMITER, *kept])}
    with tempfile.TemporaryDirectory() as folder:  # a tokenizer of this kind is read from a file
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(path),
            unk_token=UNKNOWN,
            pad_token=BLANK,
            word_delimiter_token=DELIMITER,
            bos_token=None,  # CTC has no use for ends of a sentence, and an untrained head must not write them
            eos_token=None,
        )


def frames_needed(letters: Sequence[Any]) -> int:
    """The fewest frames that CTC can align these letters to: one each, and a blank between two that are alike."""
    return len(letters) + sum(a == b for a, b in pairwise(letters))
