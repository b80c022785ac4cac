"""Word and character errors of recognised speech: of each utterance, and which words were taken for which."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer


@dataclass(frozen=True)
class UtteranceErrors:
    """Edits of one utterance; rates are shares of the reference's words or characters and can be above 1."""

    wer: float
    cer: float
    edits: list[str]  # "HEAR>HERE" for a substitution, "-THE" for a word that is missing, "+A" for one too many


def utterance_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[UtteranceErrors]:
    """Errors of each utterance; both are normalised texts, of equal number, no reference empty."""
    if not references:
        return []
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = [
        jiwer.cer(reference, hypothesis) for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    errors = []
    for reference, hypothesis, chunks, cer in zip(
        words.references, words.hypotheses, words.alignments, characters, strict=True
    ):
        edits = [edit for chunk in chunks for edit in _edits(chunk, reference, hypothesis)]
        errors.append(UtteranceErrors(len(edits) / len(reference), float(cer), edits))
    return errors


def most_frequent(errors: Sequence[UtteranceErrors], count: int = 20) -> list[tuple[str, int]]:
    """The most frequent edits and how often each occurs; of equal ones, in alphabetical order."""
    edits = Counter(edit for error in errors for edit in error.edits)
    return sorted(edits.items(), key=lambda item: (-item[1], item[0]))[:count]


def _edits(chunk: Any, reference: Sequence[str], hypothesis: Sequence[str]) -> list[str]:
    said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    heard = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    if chunk.type == "equal":
        return []
    if chunk.type == "delete":
        return [f"-{word}" for word in said]
    if chunk.type == "insert":
        return [f"+{word}" for word in heard]
    return [f"{a}>{b}" for a, b in zip(said, heard, strict=True)]
