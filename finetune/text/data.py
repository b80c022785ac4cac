"""From sources of text to tokenised, numbered rows, every row checked before training starts.

source -> rows with their own columns    open_source
rows -> token ids, label, what is wrong  tokenised_rows (kept on disk by `datasets`, so a sweep does it once)
rows -> examples                         text_examples
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ...pretraining.data.collators import pad
from ...pretraining.data.modality import BadExample
from ...pretraining.data.sources import open_source
from ...pretraining.data.text_rows import TEXT
from ..data_arguments import LabelledSource
from ..examples import Examples
from .glue_tasks import GLUE


logger = logging.getLogger(__name__)

PAIRS = tuple({task.text_columns: None for task in GLUE.values() if len(task.text_columns) == 2})
EMPTY, NO_LABEL, UNKNOWN_LABEL = "empty", "no label", "unknown label"


@dataclass(frozen=True)
class TextLabels:
    """What the label column means.

    Attributes:
        names: the classes by number; none: a number is predicted.
    """

    names: tuple[str, ...]

    def number(self, value: Any, names_of_column: Sequence[str] | None) -> float | int:
        """A row's label: the class's number, or the number itself.

        Args:
            value: a class's name, or its number, in a `ClassLabel` column that of `names_of_column`.

        Raises:
            BadExample: there is none, or it is not one of the classes; the message names the fix.
        """
        if value is None or value == "" or value == -1 or (isinstance(value, float) and math.isnan(value)):
            raise BadExample("it has no label: add one, or remove the row.", NO_LABEL)
        if not self.names:
            try:
                return float(value)
            except (TypeError, ValueError) as error:
                raise BadExample(f"its label {value!r} is not a number: correct it.", UNKNOWN_LABEL) from error
        name = names_of_column[value] if names_of_column is not None and isinstance(value, int) else str(value)
        if name in self.names:
            return self.names.index(name)
        if names_of_column is None and isinstance(value, int) and 0 <= value < len(self.names):
            return value
        known = ", ".join(self.names)
        raise BadExample(f"its label {name!r} is not one of {known}: correct it, or set data.labels.", UNKNOWN_LABEL)


def open_text(source: LabelledSource) -> datasets.Dataset:
    """The rows of a source, with all their columns."""
    rows = open_source(source, replace(TEXT, extensions=()), labelled=True)  # a licence.txt in a folder is no data
    assert isinstance(rows, datasets.Dataset)
    return rows


def find_text_columns(rows: datasets.Dataset, source: LabelledSource, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """One column or two: those asked for, else a pair of GLUE's, else a column that is clearly the text."""
    there = rows.column_names
    if wanted is not None:
        missing = [column for column in wanted if column not in there]
        if missing:
            raise ValueError(
                f"data source {source.path!r} has no column {missing[0]!r}: set data.text_columns to one or two of "
                f"{', '.join(there)}."
            )
        return tuple(wanted)
    if source.column is not None:
        return find_text_columns(rows, source, [source.column])
    pair = next((pair for pair in PAIRS if set(pair) <= set(there)), None)
    single = next((name for name in TEXT.known_columns if name in there), None)
    if pair is None and single is None:
        raise ValueError(
            f"data source {source.path!r} has no column that is clearly the text: set data.text_columns to one or two "
            f"of {', '.join(there)}."
        )
    return pair or (str(single),)


def find_labels(rows: datasets.Dataset, source: LabelledSource, wanted: Sequence[str] | None) -> TextLabels:
    """The classes of the training rows: those asked for, else the column's own, else what occurs, sorted.

    A column of floats holds numbers to be predicted.
    """
    feature = require_label_column(rows, source)
    if wanted is not None:
        return TextLabels(tuple(wanted))
    if isinstance(feature, datasets.ClassLabel):
        return TextLabels(tuple(feature.names))
    if isinstance(feature, datasets.Value) and feature.dtype.startswith("float"):
        return TextLabels(())
    found = {value for value in rows.unique(source.label_column) if value is not None and value != "" and value != -1}
    if len(found) < 2:
        raise ValueError(
            f"data source {source.path!r} has {len(found)} classes in column {source.label_column!r}: two or more are "
            "needed, check data.train.label_column."
        )
    return TextLabels(tuple(map(str, sorted(found))))


def require_label_column(rows: datasets.Dataset, source: LabelledSource) -> Any:
    """Its feature."""
    if source.label_column not in rows.column_names:
        raise ValueError(
            f"data source {source.path!r} has no column {source.label_column!r}: set label_column to one of "
            f"{', '.join(rows.column_names)}."
        )
    return rows.features[source.label_column]


def open_tokenizer(name: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer, checked against the encoder: its vocabulary fits, and both pad alike."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # whatever it raises, it says that there is no tokenizer
        raise ValueError(
            f"data.tokenizer: {name!r} has no tokenizer that AutoTokenizer opens. Set data.tokenizer to the one that "
            f"the encoder was pretrained with. {error}"
        ) from error
    size = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    if len(tokenizer) <= len(tokenizer.all_special_tokens) or size > config.vocab_size:
        raise ValueError(
            f"data.tokenizer: the tokenizer of {name!r} has {size} tokens, the encoder's vocab_size is "
            f"{config.vocab_size}. Set data.tokenizer to the one that the encoder was pretrained with."
        )
    if tokenizer.pad_token_id != config.pad_token_id:
        raise ValueError(
            f"data.tokenizer: the tokenizer of {name!r} pads with {tokenizer.pad_token_id}, the encoder with "
            f"pad_token_id = {config.pad_token_id}. Set data.tokenizer to the one that it was pretrained with."
        )
    return tokenizer


def tokenised_rows(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    columns: Sequence[str],
    max_tokens: int,
    labels: TextLabels | None,
    label_column: str = "label",
    num_proc: int = 1,
) -> datasets.Dataset:
    """Rows of `text` (strings), `input_ids`, `length`, `cut`, `label` and what is wrong: `problem`, `message`.

    `labels` is None where nothing is known: such rows have no label, and their texts may be empty.
    """
    feature = None if labels is None else rows.features[label_column]
    out = {
        "text": datasets.List(datasets.Value("string")),
        "input_ids": datasets.List(datasets.Value("int32")),
        "length": datasets.Value("int32"),
        "cut": datasets.Value("bool"),
        "problem": datasets.Value("string"),
        "message": datasets.Value("string"),
    }
    if labels is not None:
        out["label"] = datasets.Value("int64" if labels.names else "float64")
    return rows.map(
        _tokenise,
        batched=True,
        remove_columns=rows.column_names,
        features=datasets.Features(out),
        fn_kwargs={
            "tokenizer": tokenizer,
            "columns": tuple(columns),
            "max_tokens": max_tokens,
            "labels": labels,
            "label_column": label_column,
            "names_of_column": feature.names if isinstance(feature, datasets.ClassLabel) else None,
        },
        num_proc=num_proc if num_proc > 1 and len(rows) > num_proc else None,
        desc="Tokenising",
    )


def _tokenise(
    batch: Mapping[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    columns: tuple[str, ...],
    max_tokens: int,
    labels: TextLabels | None,
    label_column: str,
    names_of_column: Sequence[str] | None,
) -> dict[str, list[Any]]:
    parts = [["" if text is None else str(text) for text in batch[column]] for column in columns]
    texts = [list(row) for row in zip(*parts, strict=True)]
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    ids = tokenizer(*parts, **options)["input_ids"]
    cut = [len(row) > max_tokens for row in ids]
    long = [i for i, is_cut in enumerate(cut) if is_cut]
    if long:  # cut again, now with the tokenizer's knowledge of which of a pair is longer and what ends a text
        some = ([part[i] for i in long] for part in parts)
        short = tokenizer(*some, truncation=True, max_length=max_tokens, **options)["input_ids"]
        for i, row in zip(long, short, strict=True):
            ids[i] = row
    out: dict[str, list[Any]] = {"text": texts, "input_ids": ids, "length": [len(row) for row in ids], "cut": cut}
    if labels is None:
        return out | {"problem": [None] * len(ids), "message": [None] * len(ids)}
    checked = [
        _check(text, columns, value, labels, names_of_column)
        for text, value in zip(texts, batch[label_column], strict=True)
    ]
    for i, name in enumerate(("label", "problem", "message")):
        out[name] = [row[i] for row in checked]
    return out


def _check(
    text: Sequence[str], columns: Sequence[str], value: Any, labels: TextLabels, names_of_column: Sequence[str] | None
) -> tuple[float | int | None, str | None, str | None]:
    """A row's label, and what is wrong with the row."""
    for column, part in zip(columns, text, strict=True):
        if not part.strip():
            return None, EMPTY, f"its {column} is empty: fill it in, or remove the row."
    try:
        return labels.number(value, names_of_column), None, None
    except BadExample as error:
        return None, error.problem, str(error)


def text_examples(
    rows: datasets.Dataset, *, name: str, seed: int, max_tokens: int, skip_bad: bool = False
) -> Examples:
    """Examples of [`tokenised_rows`]: {"input_ids": (tokens,) long, "labels"}.

    Cut texts are counted in the log. Raises `BadExample` for the first unusable row, or leaves such rows out.
    """
    bad = [row for row, problem in enumerate(rows["problem"][:]) if problem is not None]
    examples = Examples(rows, _read, name=name, seed=seed, skip_bad=skip_bad and bool(bad), lengths=rows["length"][:])
    if bad and not skip_bad:
        examples[bad[0]]  # raises, and names the row
    cut = int(np.asarray(rows["cut"][:])[examples.kept].sum())
    if cut:
        share = f"{100 * cut / len(examples):.1f} %"
        found = f"{cut} of {len(examples)} texts ({share}) are longer than max_tokens = {max_tokens} and are cut"
        logger.warning("data.%s: %s", name, found)
    return examples


def _read(row: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
    if row["problem"] is not None:
        raise BadExample(row["message"], row["problem"])
    example = {"input_ids": torch.tensor(row["input_ids"], dtype=torch.long)}
    return {**example, "labels": row["label"]} if "label" in row else example


class TextCollator:
    """Examples -> input_ids, attention_mask where a row is padded, and labels: long, or float32 to be predicted."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch, _ = pad([example["input_ids"] for example in examples], "input_ids", self.pad_token_id)
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])  # float64 becomes float32
        return batch
