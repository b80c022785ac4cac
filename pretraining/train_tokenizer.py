"""Train a byte-level BPE tokenizer, RoBERTa's kind, on your own text and save it where AutoTokenizer opens it.

python -m data2vec.pretraining.train_tokenizer --data corpus/*.txt --vocab_size 32000 OUT_DIR
"""

import json
import sys
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, RobertaTokenizer

from data2vec.pretraining.command_help import command_parser
from data2vec.pretraining.data_arguments import Source
from data2vec.pretraining.data_sources import load_sources
from data2vec.pretraining.data_text_rows import TEXT, documents_of
from data2vec.pretraining.progress import progress
from data2vec.pretraining.run_folder import EXIT_REFUSED


FIRST_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as RoBERTa's; <mask> comes last
ALPHABET = 256  # every byte is a token, so nothing is unknown


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of exactly `vocab_size` tokens. Raises ValueError where the text is too little for that many."""
    smallest = len(FIRST_TOKENS) + ALPHABET + 1
    if vocab_size < smallest:
        raise ValueError(f"vocab_size = {vocab_size} is not possible: bytes and special tokens take {smallest}.")
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
            f"vocab_size = {vocab_size} is not possible: the text gives only {learner.get_vocab_size() + 1} tokens "
            "that occur at least twice, use that or less, or more text."
        )
    vocabulary = learner.get_vocab() | {"<mask>": vocab_size - 1}
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    # RoBERTa's mask swallows the space before it, so that "a <mask>" hides a whole word.
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    return RobertaTokenizer(vocab=vocabulary, merges=merges, mask_token=mask)  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> int:
    parser = command_parser(
        "data2vec-train-tokenizer",
        "Train a byte-level BPE tokenizer, RoBERTa's kind, on your own text and save it where AutoTokenizer opens it. "
        "The same as python -m data2vec.pretraining.train_tokenizer.",
        "data2vec-train-tokenizer --data corpus.txt more.jsonl --vocab_size 32000 my_tokenizer",
        page="docs/pretraining.md, text",
        usage="OUT_DIR --data DATA [DATA ...] --vocab_size N [options]",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="txt, jsonl, csv or parquet files, folders, datasets, builtin:python-docs",
    )
    parser.add_argument("--vocab_size", type=int, required=True, help="tokens, the five special ones included")
    parser.add_argument("--split", help="split of a dataset (default: train)")
    parser.add_argument("--column", help="column of the text (default: found by its name)")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to save the tokenizer in")
    given = parser.parse_args(arguments)
    try:
        sources = [Source(path=path, split=given.split, column=given.column) for path in given.data]
        documents = documents_of(load_sources(sources, TEXT))
        tokenizer = train_tokenizer(progress(documents, title="reading", unit=" documents"), given.vocab_size)
        tokenizer.save_pretrained(given.out_dir)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    print(f"A byte-level BPE of {len(tokenizer)} tokens is in {given.out_dir}: AutoTokenizer opens it, and")
    print(f"a recipe uses it as data.tokenizer: {given.out_dir} with the encoder's vocab_size: {len(tokenizer)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
