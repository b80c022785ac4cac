"""Train a byte-level BPE tokenizer, RoBERTa's kind, on your own text and save it where AutoTokenizer opens it.

data2vec tokenizer --data corpus/*.txt --vocab_size 32000 OUT_DIR
"""

from collections.abc import Sequence

from data2vec.pretraining.command_line import texts_of, tokenizer_parser
from data2vec.pretraining.console.help import EXIT_REFUSED, end
from data2vec.pretraining.console.progress import progress
from data2vec.pretraining.data.sources import load_sources
from data2vec.pretraining.modalities.text_rows import TEXT, documents_of
from data2vec.pretraining.modalities.tokenizer import train_tokenizer


def main(argv: Sequence[str] | None = None) -> int:
    given = tokenizer_parser().parse_args(argv)
    try:
        documents = documents_of(load_sources(texts_of(given), TEXT))
        tokenizer = train_tokenizer(progress(documents, title="reading", unit=" documents"), given.vocab_size)
        tokenizer.save_pretrained(given.out_dir)
    except (ValueError, OSError) as error:
        return end(EXIT_REFUSED, error)
    print(f"A byte-level BPE of {len(tokenizer)} tokens is in {given.out_dir}: AutoTokenizer opens it, and")
    print(f"a recipe uses it as data.tokenizer: {given.out_dir} with the encoder's vocab_size: {len(tokenizer)}.")
    return 0
