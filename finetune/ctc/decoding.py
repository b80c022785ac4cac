"""From frame-wise scores to words, greedily or by a beam search with an n-gram language model, and to word errors.

The search is pyctcdecode's, over a KenLM model. A prefix scores

    log P(frames of the prefix) + alpha * ln P(its words | the words before) + beta * its number of words

and words that the language model does not know are charged 10 nats more. `alpha` and `beta` are tuned on the
validation set. Both packages are optional: `make lm` installs them.
"""

import itertools
import multiprocessing
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from tqdm.auto import tqdm
from transformers import Wav2Vec2CTCTokenizer

from .transcripts import DELIMITER


HOW_TO_INSTALL = (
    "it needs pyctcdecode and kenlm: `make lm`, or pip install 'data2vec[lm]' and then pip install --no-deps "
    "pyctcdecode==0.5.0 (which says numpy<2 of itself, and works with numpy 2)"
)


class GreedyDecoder:
    """The best token of each frame, repeats and blanks dropped.

    Called with the scores (frames, vocabulary) of each utterance, without padding, it returns their texts.
    """

    def __init__(self, tokenizer: Wav2Vec2CTCTokenizer):
        self.tokenizer = tokenizer

    def __call__(self, scores: Sequence[np.ndarray]) -> list[str]:
        return self.decode_ids([frames.argmax(-1) for frames in scores])

    def decode_ids(self, ids: Sequence[np.ndarray]) -> list[str]:
        """The same from the best token of each frame."""
        texts = (self.tokenizer.decode(row.tolist(), clean_up_tokenization_spaces=False) for row in ids)
        return [" ".join(text.split()) for text in texts]


class LanguageModelDecoder:
    """Beam search with an n-gram model, see the module.

    Args:
        tokenizer: says which output is which letter.
        path: an ARPA file (`.arpa`), or a model that KenLM's build_binary wrote; the latter needs `words`.
        words: the words that the model knows; read from an ARPA file.
        beam_width: prefixes kept at each frame.
        num_proc: processes that decode.

    Raises:
        ValueError: the packages or the file are not there, or a binary model comes without words.
    """

    def __init__(
        self,
        tokenizer: Wav2Vec2CTCTokenizer,
        path: str | Path,
        words: Sequence[str] | None = None,
        *,
        alpha: float = 0.5,
        beta: float = 1.5,
        beam_width: int = 100,
        num_proc: int = 1,
    ):
        try:
            import kenlm  # noqa: F401
            from pyctcdecode.decoder import build_ctcdecoder
        except ImportError as error:
            raise ValueError(f"task.language_model = {str(path)!r} is invalid ({error}): {HOW_TO_INSTALL}.") from error
        path = Path(path).expanduser()
        if not path.is_file():
            raise ValueError(f"task.language_model = {str(path)!r} is invalid: there is no such file.")
        if words is None and path.suffix != ".arpa":
            raise ValueError(
                f"task.language_model = {str(path)!r} is invalid: a binary model does not tell its words, name a "
                "file of them, one per line, in task.language_model_words, or give the .arpa file."
            )
        self.alphabet = _alphabet(tokenizer)
        try:
            self.search: Any = build_ctcdecoder(self.alphabet, str(path), unigrams=words)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"task.language_model = {str(path)!r} cannot be read as an n-gram model ({error})."
            ) from error
        self.beam_width, self.num_proc = beam_width, num_proc
        self.set_weights(alpha, beta)

    def set_weights(self, alpha: float, beta: float) -> None:
        """The language model's weight and what a word adds."""
        self.alpha, self.beta = float(alpha), float(beta)
        self.search.reset_params(alpha=self.alpha, beta=self.beta)

    def __call__(self, scores: Sequence[np.ndarray]) -> list[str]:
        rows = [np.asarray(frames, dtype=np.float32) for frames in scores]
        if self.num_proc == 1 or len(rows) == 1:
            return [self.search.decode(row, beam_width=self.beam_width) for row in rows]
        # The model is the searcher's class attribute, which only a process forked after the weights were set shares.
        with multiprocessing.get_context("fork").Pool(min(self.num_proc, len(rows))) as pool:
            return list(self.search.decode_batch(pool, rows, beam_width=self.beam_width))


@dataclass(frozen=True)
class Tuning:
    """What was tried on the validation set, and the best: the lowest error rate, of equal ones the smaller weights."""

    alpha: float
    beta: float
    wer: float
    tried: list[dict[str, float]]  # alpha, beta, wer each
    utterances: int


def tune(
    decoder: LanguageModelDecoder,
    scores: Sequence[np.ndarray],
    references: Sequence[str],
    alphas: Sequence[float],
    betas: Sequence[float],
) -> Tuning:
    """Decode with every pair of weights and leave the decoder with the best."""
    tried = []
    pairs = list(itertools.product(sorted(alphas), sorted(betas, key=lambda beta: (abs(beta), beta))))
    for alpha, beta in tqdm(pairs, desc="Tuning the language model's weight", disable=len(pairs) < 2):
        decoder.set_weights(alpha, beta)
        errors = utterance_errors(references, decoder(scores))
        edits = sum(len(error.edits) for error in errors)
        words = sum(len(reference.split()) for reference in references)
        tried.append({"alpha": alpha, "beta": beta, "wer": edits / words})
    best = min(tried, key=lambda row: row["wer"])
    decoder.set_weights(best["alpha"], best["beta"])
    return Tuning(best["alpha"], best["beta"], best["wer"], tried, len(references))


def _alphabet(tokenizer: Wav2Vec2CTCTokenizer) -> list[str]:
    """The outputs in order, as pyctcdecode writes them: "" is the blank, " " parts words, U+2047 is unknown."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = {tokenizer.pad_token: "", DELIMITER: " ", tokenizer.unk_token: "\u2047"}
    return [special.get(token, token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]


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
