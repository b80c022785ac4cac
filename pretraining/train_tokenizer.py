"""Train a byte-level BPE tokenizer, RoBERTa's kind, on your own text and save it where AutoTokenizer opens it.

python -m data2vec.pretraining.train_tokenizer --data corpus/*.txt --vocab_size 32000 OUT_DIR
"""

import sys

from data2vec.pretraining.console.help import EXIT_REFUSED, command_parser, end
from data2vec.pretraining.console.progress import progress
from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.sources import load_sources
from data2vec.pretraining.data.text_rows import TEXT, documents_of
from data2vec.pretraining.data.tokenizer import train_tokenizer


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
        return end(EXIT_REFUSED, error)
    print(f"A byte-level BPE of {len(tokenizer)} tokens is in {given.out_dir}: AutoTokenizer opens it, and")
    print(f"a recipe uses it as data.tokenizer: {given.out_dir} with the encoder's vocab_size: {len(tokenizer)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
