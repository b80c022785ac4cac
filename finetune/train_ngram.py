"""Train a small n-gram language model on text and save it as an ARPA file, for `task.language_model`.

    python -m data2vec.finetune.train_ngram --data transcripts.txt --order 3 lm.arpa

Interpolated Kneser-Ney smoothing (Chen and Goodman 1999, section 4.1.6) in plain Python: good for some million words.
For more, KenLM's lmplz is faster and needs less memory. Sentences are normalised as transcripts are.
"""

import sys

from data2vec.finetune.command_line import check_ngram, ngram_parser
from data2vec.pretraining.command_line import answer_early, texts_of


if __name__ == "__main__":
    answer_early(check_ngram)

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from data2vec.finetune.normalisation import normalise
from data2vec.pretraining.console.help import EXIT_REFUSED, end
from data2vec.pretraining.console.progress import progress
from data2vec.pretraining.data.sources import load_sources
from data2vec.pretraining.modalities.text_rows import TEXT, documents_of


START, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # log10 of what is never predicted: <s>
Gram = tuple[str, ...]


class KneserNey:
    """An n-gram model with interpolated Kneser-Ney smoothing, one discount for each order.

    Args:
        sentences: words of each.
        order: words of the longest n-gram, 2 or more: KenLM reads no shorter ones.

    Raises:
        ValueError: no sentence has a word, or `order` is below 2.
    """

    def __init__(self, sentences: Iterable[list[str]], order: int):
        if order < 2:
            raise ValueError(f"order = {order}: must be 2 or more; 3 or 4 for speech recognition.")
        self.order = order
        counts: list[Counter[Gram]] = [Counter() for _ in range(order)]  # of n-grams of 1 .. order words
        for words in sentences:
            if not words:
                continue
            padded = [START, *words, END]
            for stop in range(2, len(padded) + 1):  # <s> is a context, it is never predicted
                for length in range(1, min(order, stop) + 1):
                    counts[length - 1][tuple(padded[stop - length : stop])] += 1
        if not counts[0]:
            raise ValueError("The text has no sentence with a word: give another, one sentence per line.")
        self.counts = [self._continuations(counts, length) for length in range(1, order + 1)]
        self.discounts = [_discount(table) for table in self.counts]
        self.totals: list[Counter[Gram]] = []  # of each context: how often anything followed it
        self.kinds: list[Counter[Gram]] = []  # and how many different words did
        for table in self.counts:
            total: Counter[Gram] = Counter()
            kinds: Counter[Gram] = Counter()
            for gram, count in table.items():
                total[gram[:-1]] += count
                kinds[gram[:-1]] += 1
            self.totals.append(total)
            self.kinds.append(kinds)
        self.words = sorted(word for (word,) in self.counts[0])
        self._cache: dict[Gram, float] = {}

    def probability(self, gram: Gram) -> float:
        """P(last word | the others); `<unk>` and any word that was not seen share what is left for the unseen."""
        if gram in self._cache:
            return self._cache[gram]
        if not gram:
            return 1 / (len(self.words) + 1)  # every word and <unk> alike
        table, context = len(gram) - 1, gram[:-1]
        seen = self.totals[table][context]
        discounted = max(self.counts[table][gram] - self.discounts[table], 0) / seen if seen else 0.0
        value = discounted + self.rest(context) * self.probability(gram[1:])
        if self.counts[table][gram]:
            self._cache[gram] = value
        return value

    def rest(self, context: Gram) -> float:
        """The share that a context leaves to the shorter ones; 1 for a context that was never seen."""
        table = len(context)
        if table >= self.order or not self.totals[table][context]:
            return 1.0
        return self.discounts[table] * self.kinds[table][context] / self.totals[table][context]

    def write(self, file: TextIO) -> None:
        """The model in the ARPA format."""
        grams: list[list[tuple[float, Gram]]] = []
        for length, table in enumerate(self.counts, 1):
            scored = progress(sorted(table), title=f"scoring {length}-grams", unit=" n-grams")
            rows = [(math.log10(self.probability(gram)), gram) for gram in scored]
            if length == 1:
                rest = math.log10(self.rest(()) * self.probability(()))
                rows = [(rest, (UNKNOWN,)), (NEVER, (START,)), *rows]
            grams.append(rows)
        file.write("\\data\\\n")
        file.writelines(f"ngram {length}={len(rows)}\n" for length, rows in enumerate(grams, 1))
        for length, rows in enumerate(grams, 1):
            file.write(f"\n\\{length}-grams:\n")
            for score, gram in rows:
                backoff = f"\t{math.log10(self.rest(gram)):.7f}" if length < self.order else ""
                file.write(f"{score:.7f}\t{' '.join(gram)}{backoff}\n")
        file.write("\n\\end\\\n")

    def _continuations(self, counts: list[Counter[Gram]], length: int) -> Counter[Gram]:
        """Counts of n-grams: of the longest as they are, of shorter ones how many different words precede them."""
        if length == self.order:
            return counts[length - 1]
        preceded: Counter[Gram] = Counter(gram[1:] for gram in counts[length])
        # nothing precedes <s>, so what starts with it keeps its count
        return preceded + Counter({gram: count for gram, count in counts[length - 1].items() if gram[0] == START})


def _discount(table: Counter[Gram]) -> float:
    """n1 / (n1 + 2 n2), of n-grams that occur once and twice; 0.5 where there are none of either."""
    occurring = Counter(table.values())
    once, twice = occurring[1], occurring[2]
    return once / (once + 2 * twice) if once and twice else 0.5


def sentences_of(documents: Iterable[str], letter_case: str, removed: str) -> Iterator[list[str]]:
    """Each line's words, normalised as transcripts are."""
    for document in documents:
        for line in document.splitlines():
            yield normalise(line, letter_case, removed).split()


def main(argv: Sequence[str] | None = None) -> int:
    given = ngram_parser().parse_args(argv)
    try:
        documents = progress(documents_of(load_sources(texts_of(given), TEXT)), title="counting", unit=" documents")
        model = KneserNey(sentences_of(documents, given.letter_case, given.removed_characters), given.order)
        given.out_file.parent.mkdir(parents=True, exist_ok=True)
        with given.out_file.open("w", encoding="utf-8") as file:
            model.write(file)
    except (ValueError, OSError) as error:
        return end(EXIT_REFUSED, error)
    print(f"A {given.order}-gram model of {len(model.words) - 1} words is in {given.out_file}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
