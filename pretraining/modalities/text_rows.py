"""Rows of token ids, packed or one document each, from tokenised documents on disk or from a stream."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.bad_examples import BadExample
from ..data.sources import LABEL, AnyDataset, MediaKind
from ..data.text_files import PROBLEM, WHERE, problem_of


TEXT = MediaKind(
    column="text",
    feature=None,
    extensions=(".txt",),
    known_columns=("text", "content", "document", "sentence"),
    is_text=True,
)
Row = Mapping[str, Any]
DOCUMENTS_AT_ONCE = 64  # tokenised together in a stream


@dataclass(frozen=True)
class RowLayout:
    """At most `size` tokens per row, special tokens included; `begin` and `end` are ids that separate documents."""

    size: int
    begin: int
    end: int

    def single(self, piece: np.ndarray) -> np.ndarray:
        """begin, piece, end: (tokens,) int64."""
        return np.concatenate([[self.begin], piece, [self.end]]).astype(np.int64)


class TokenisedDocuments:
    """Random access to the ids of documents that `tokenize` made, without special tokens."""

    def __init__(self, tokens: datasets.Dataset):
        self.labels = tokens[LABEL][:] if LABEL in tokens.column_names else None
        self._arrow = tokens.select_columns(["input_ids"]).with_format("arrow")
        self.lengths = np.asarray(tokens["length"][:], dtype=np.int64)  # (documents,)
        self.bad = dict(_bad_documents(tokens)) if PROBLEM in tokens.column_names else {}
        self.empty = int((self.lengths == 0).sum()) - len(self.bad)  # ordinary in a text: not named

    def ids(self, first: int, last: int) -> np.ndarray:
        """The ids of documents first .. last - 1 behind each other, (tokens,) int32."""
        column = self._arrow[first:last]["input_ids"].combine_chunks()
        return column.flatten().to_numpy()


class PackedRows:
    """The documents, each with an end token, behind each other; cut every `size - 1` tokens, with a begin token."""

    def __init__(self, tokens: datasets.Dataset, layout: RowLayout):
        self.documents, self.layout = TokenisedDocuments(tokens), layout
        taken = np.where(self.documents.lengths > 0, self.documents.lengths + 1, 0)
        self._ends = np.cumsum(taken)  # (documents,) in the stream of tokens
        total = int(self._ends[-1]) if len(taken) else 0
        rows = -(-(total - 1) // (layout.size - 1)) if total else 0  # a lone end token is not worth a row
        self.lengths = np.full(rows, layout.size, dtype=np.int64)
        if rows:
            self.lengths[-1] = min(1 + total - (rows - 1) * (layout.size - 1), layout.size)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Row:
        start = int(index) * (self.layout.size - 1)
        stop = start + int(self.lengths[index]) - 1
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right")  # documents of the end tokens
        ends = self._ends[first : last + 1]
        lengths = self.documents.lengths[first : last + 1]
        # End tokens go behind their documents; empty documents have none.
        places = np.cumsum(lengths)[lengths > 0]
        stream = np.insert(self.documents.ids(int(first), int(last) + 1), places, self.layout.end)
        begins_at = int(ends[0]) - int(lengths[0]) - 1
        piece = stream[start - begins_at : stop - begins_at]
        return {"input_ids": np.concatenate([[self.layout.begin], piece]).astype(np.int64)}


class DocumentRows:
    """A document per row between begin and end token; long ones are cut into several, or after the first.

    With `first_only` every document, an empty one too, is one row, with its label where it has one.
    """

    def __init__(self, tokens: datasets.Dataset, layout: RowLayout, first_only: bool):
        self.documents, self.layout = TokenisedDocuments(tokens), layout
        room = layout.size - 2
        pieces = np.ones_like(self.documents.lengths) if first_only else -(-self.documents.lengths // room)
        self._document = np.repeat(np.arange(len(pieces)), pieces)  # (rows,)
        self._start = (np.arange(len(self._document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * room
        self.lengths = 2 + np.minimum(self.documents.lengths[self._document] - self._start, room)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Row:
        document, start = int(self._document[index]), int(self._start[index])
        piece = self.documents.ids(document, document + 1)[start : start + self.layout.size - 2]
        row: dict[str, Any] = {"input_ids": self.layout.single(piece)}
        if self.documents.labels is not None:
            row[LABEL] = self.documents.labels[document]
        return row


def tokenize(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, num_proc: int) -> datasets.Dataset:
    """Columns `input_ids` (int32, no special tokens) and `length` for `text`; `datasets` caches the result on disk.

    A text that cannot be used has no ids, and its problem in `_problem` and `_where`.
    """
    columns = {"input_ids": datasets.List(datasets.Value("int32")), "length": datasets.Value("int64")}
    columns |= {name: datasets.Value("string") for name in (PROBLEM, WHERE)}
    given = [name for name in (PROBLEM, WHERE) if name in dataset.features]
    kept = {LABEL: dataset.features[LABEL]} if LABEL in dataset.features else {}
    return dataset.map(
        _tokenize_batch,
        batched=True,
        input_columns=["text", *given],
        remove_columns=["text", *given],
        fn_kwargs={"tokenizer": tokenizer},
        features=datasets.Features(columns | kept),
        num_proc=num_proc if num_proc > 1 and len(dataset) > num_proc else None,
        desc="Tokenising",
    )


def rows_of_stream(
    stream: Iterable[Row], tokenizer: PreTrainedTokenizerBase, layout: RowLayout, pack: bool
) -> Iterator[Row]:
    """The rows of `PackedRows` or `DocumentRows`, as the documents come.

    A document that is left out is a row {"bad": (problem, where)} or {"empty": 1}.
    """
    step = layout.size - 1
    rest = np.empty(0, dtype=np.int64)
    for document in _documents_of_stream(stream, tokenizer):
        if isinstance(document, Mapping):
            yield document
            continue
        if pack:
            rest = np.concatenate([rest, document, [layout.end]])
            while len(rest) >= step:
                yield {"input_ids": np.concatenate([[layout.begin], rest[:step]])}
                rest = rest[step:]
        else:
            for start in range(0, len(document), layout.size - 2):
                yield {"input_ids": layout.single(document[start : start + layout.size - 2])}
    if len(rest) > 1:
        yield {"input_ids": np.concatenate([[layout.begin], rest])}


def documents_of(sources: Sequence[AnyDataset]) -> Iterator[str]:
    """The usable texts of all sources."""
    for source in sources:
        for row in source:
            if row["text"] and problem_of(row["text"]) is None:
                yield row["text"]


def _documents_of_stream(stream: Iterable[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray | Row]:
    rows = iter(stream)
    while chunk := list(islice(rows, DOCUMENTS_AT_ONCE)):
        given = [[row.get(name) for row in chunk] for name in (PROBLEM, WHERE)]
        made = _tokenize_batch([row["text"] for row in chunk], *given, tokenizer=tokenizer)
        for ids, problem, where in zip(made["input_ids"], made[PROBLEM], made[WHERE], strict=True):
            if problem is not None:
                yield {"bad": (problem, where)}
            elif ids:
                yield np.asarray(ids, dtype=np.int64)
            else:
                yield {"empty": 1}


def _tokenize_batch(
    texts: list[str | None],
    problems: list[str | None] | None = None,
    where: list[str | None] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, list[Any]]:
    problems, where = list(problems or [None] * len(texts)), list(where or [None] * len(texts))
    clean = ["" if text is None else text for text in texts]
    for i, text in enumerate(clean):
        found = problem_of(text) if text else None
        if found is not None:
            clean[i], (problems[i], where[i]) = "", found
    ids = tokenizer(
        clean,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return {"input_ids": ids, "length": [len(document) for document in ids], PROBLEM: problems, WHERE: where}


def _bad_documents(tokens: datasets.Dataset) -> Iterator[tuple[int, BadExample]]:
    problems = tokens.with_format("arrow")[:][PROBLEM]
    for i in np.flatnonzero(problems.is_valid().to_numpy()).tolist():
        row = tokens[i]
        yield i, BadExample(f"document {i}: {row[WHERE]}.", row[PROBLEM])
