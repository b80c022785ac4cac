"""A byte-level BPE tokenizer, RoBERTa's kind, trained on documents."""

import json
import sys
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, RobertaTokenizer


FIRST_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as RoBERTa's; <mask> comes last
ALPHABET = 256  # every byte is a token, so nothing is unknown


def max_tokens(config: PreTrainedConfig) -> int:
    """The most tokens, special ones included, that an encoder has positions for; the first is pad_token_id + 1."""
    return int(config.max_position_embeddings - config.pad_token_id - 1)


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of exactly `vocab_size` tokens. Raises ValueError where the text is too little for that many."""
    smallest = len(FIRST_TOKENS) + ALPHABET + 1
    if vocab_size < smallest:
        raise ValueError(f"vocab_size = {vocab_size} is invalid: bytes and special tokens take {smallest}.")
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            special_tokens=FIRST_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            min_frequency=2,
            show_progress=sys.stderr.isatty(),
        ),
    )
    if learner.get_vocab_size() < vocab_size - 1:
        raise ValueError(
            f"vocab_size = {vocab_size} is invalid: the text gives only {learner.get_vocab_size() + 1} tokens "
            "that occur at least twice, use that or less, or more text."
        )
    vocabulary = learner.get_vocab() | {"<mask>": vocab_size - 1}
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    # RoBERTa's mask swallows the space before it, so that "a <mask>" hides a whole word.
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    return RobertaTokenizer(vocab=vocabulary, merges=merges, mask_token=mask)  # type: ignore[arg-type]
