"""The tokenizer that is made of transcripts."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from data2vec.finetune.ctc.data import decode_labels, encode
from data2vec.finetune.ctc.transcripts import frames_needed, letters_of, make_tokenizer


def test_vocabulary_is_what_the_transcripts_hold(tmp_path) -> None:
    tokenizer = make_tokenizer(letters_of(["HEAR IT'S", "THE"]))
    tokenizer.save_pretrained(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert vocabulary == {
        "<pad>": 0, "<unk>": 1, "|": 2, "'": 3, "A": 4, "E": 5, "H": 6, "I": 7, "R": 8, "S": 9, "T": 10,
    }  # fmt: skip
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert len(again) == len(tokenizer) == 11  # nothing that an untrained head could write: no <s>, no </s>
    assert again.decode([6, 6, 0, 5, 2, 2, 0, 7, 10, 3, 9]) == "HE IT'S"


def test_labels_are_what_the_tokenizer_makes_and_go_back() -> None:
    tokenizer = make_tokenizer("ABCDE'")
    for text in ("AB BA", "EAC'S", "A"):
        labels = encode(text, tokenizer.get_vocab())
        assert labels.tolist() == tokenizer(text).input_ids
    padded = torch.nn.utils.rnn.pad_sequence(
        [encode("AB BA", tokenizer.get_vocab()), encode("CXC", tokenizer.get_vocab())], True, -100
    )
    assert decode_labels(padded.numpy(), tokenizer) == ["AB BA", "C\ufffdC"]


@pytest.mark.parametrize(("letters", "message"), [(["A", "|"], "removed_characters"), ([], "no letter")])
def test_letters_that_cannot_be_a_vocabulary_are_refused(letters: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tokenizer(letters)


@pytest.mark.parametrize("letters", [[3], [3, 4], [3, 3], [3, 3, 3, 4, 4], [3, 4, 3, 4, 3]])
def test_frames_needed_are_the_fewest_that_have_an_alignment(letters: list[int]) -> None:
    """Against the loss itself, which is infinite where no alignment exists."""
    targets = torch.tensor([letters])

    def loss(frames: int) -> float:
        scores = torch.zeros(frames, 1, 5).log_softmax(-1)
        lengths = torch.tensor([frames]), torch.tensor([len(letters)])
        return float(torch.nn.functional.ctc_loss(scores, targets, *lengths, reduction="sum"))

    fewest = next(frames for frames in range(1, 20) if loss(frames) < float("inf"))
    assert frames_needed(letters) == fewest
