"""From sources of text to tokenised rows, every row checked before training starts.

source -> rows with their own columns    open_text
rows -> token ids                        tokenised_rows (kept on disk by `datasets`, so a sweep does it once)
rows -> examples                         labels.labelled_examples, with read_text
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ...pretraining.data.hub_names import require_hub_name
from ...pretraining.data.modality import BadExample
from ...pretraining.data.sources import LABEL, open_source
from ...pretraining.modalities.text_rows import TEXT
from ..data_arguments import LabelledSource
from ..examples import Examples
from .glue_tasks import GLUE


logger = logging.getLogger(__name__)

PAIRS = tuple({task.text_columns: None for task in GLUE.values() if len(task.text_columns) == 2})


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


def label_rows(rows: datasets.Dataset, source: LabelledSource) -> datasets.Dataset:
    """The column of the labels alone, as `label`."""
    column = source.label_column
    if column not in rows.column_names:
        raise ValueError(
            f"data source {source.path!r} has no column {column!r}: set label_column to one of "
            f"{', '.join(rows.column_names)}."
        )
    rows = rows.select_columns([column])
    return rows if column == LABEL else rows.rename_column(column, LABEL)


def open_tokenizer(name: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer, checked against the encoder: its vocabulary fits, and both pad alike."""
    try:
        require_hub_name(name)
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
    num_proc: int = 1,
) -> datasets.Dataset:
    """Rows of `text` (strings), `input_ids`, `length`, `cut` and `empty`, the column that holds no text, if any."""
    out = {
        "text": datasets.List(datasets.Value("string")),
        "input_ids": datasets.List(datasets.Value("int32")),
        "length": datasets.Value("int32"),
        "cut": datasets.Value("bool"),
        "empty": datasets.Value("string"),
    }
    return rows.map(
        _tokenise,
        batched=True,
        remove_columns=rows.column_names,
        features=datasets.Features(out),
        fn_kwargs={"tokenizer": tokenizer, "columns": tuple(columns), "max_tokens": max_tokens},
        num_proc=num_proc if num_proc > 1 and len(rows) > num_proc else None,
        desc="Tokenising",
    )


def _tokenise(
    batch: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, columns: tuple[str, ...], max_tokens: int
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
    empty = [next((c for c, part in zip(columns, row, strict=True) if not part.strip()), None) for row in texts]
    return {"text": texts, "input_ids": ids, "length": [len(row) for row in ids], "cut": cut, "empty": empty}


def empty_texts(tokens: datasets.Dataset) -> dict[int, BadExample]:
    """Row of [`tokenised_rows`] -> what is wrong with it."""
    columns = enumerate(tokens["empty"][:])
    message = "its {} is empty: fill it in, or remove the row."
    return {row: BadExample(message.format(column), "empty") for row, column in columns if column is not None}


def read_text(row: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
    """A row of [`tokenised_rows`] -> {"input_ids": (tokens,) long}."""
    return {"input_ids": torch.tensor(row["input_ids"], dtype=torch.long)}


def log_cut(examples: Examples, max_tokens: int) -> None:
    """Say how many texts were cut."""
    rows: Any = examples.rows
    cut = int(np.asarray(rows["cut"][:])[examples.kept].sum())
    if cut:
        share = f"{100 * cut / len(examples):.1f} %"
        found = f"{cut} of {len(examples)} texts ({share}) are longer than max_tokens = {max_tokens} and are cut"
        logger.warning("data.%s: %s", examples.name, found)
