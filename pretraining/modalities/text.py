"""Text: documents -> rows of token ids.

As RoBERTa does: documents follow each other, each ended by the end-of-sequence token, and the stream of tokens is cut
into rows of `block_size`, each begun by the begin-of-sequence token. Nothing is padded and nothing dropped. Rows are
views into the tokenised documents, which `datasets` keeps on disk and reuses.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ...modeling.configuration_objective import ObjectiveConfig
from ...modeling.masking import TokenMasking
from ..data.arguments import DataArguments
from ..data.bad_examples import BadExample
from ..data.collators import Batch, Collator, Example, TokenLayout, generator, pad
from ..data.hub_names import require_hub_name
from ..data.modality import Modality, Row, Rows, Survey
from ..data.sources import load_sources
from .text_rows import TEXT, DocumentRows, PackedRows, RowLayout, documents_of, rows_of_stream, tokenize
from .tokenizer import max_tokens, train_tokenizer


logger = logging.getLogger(__name__)

Split = Literal["line", "paragraph", "document"]


@dataclass(kw_only=True)
class TextDataArguments(DataArguments):
    """The `data` fields of a text recipe."""

    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub name that AutoTokenizer opens (`data2vec tokenizer` makes one), or "
            "builtin:byte-bpe, which first trains one of vocab_size tokens on the sources"
        },
    )
    block_size: int = field(default=512, metadata={"help": "tokens per row, special tokens included"})
    pack: bool = field(
        default=True,
        metadata={"help": "fill every row with consecutive documents; false: one document per row, long ones cut"},
    )
    sample_by: Split = field(
        default="line", metadata={"help": "unit of a document in a txt file: a line, a paragraph or the whole file"}
    )
    whole_words: bool = field(default=False, metadata={"help": "mask whole words: all tokens of a word, or none"})
    batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "limit of tokens in a device's batch, padding included; replaces per_device_train_batch_size"
        },
    )
    bucket_width: float = field(
        default=0.05, metadata={"help": "without pack: rows of a batch differ in length by about this share"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.block_size >= 3, "block_size", "use 3 or more: the first and last token are special")
        self.require(self.bucket_width > 0, "bucket_width", "use a positive share, e.g. 0.05")
        fits = self.batch_tokens is None or self.batch_tokens >= self.block_size
        self.require(fits, "batch_tokens", f"one row of block_size = {self.block_size} does not fit: raise it")

    @property
    def batch_cost(self) -> int | None:
        return self.batch_tokens


class TextCollator(Collator):
    """Pads to the longest row. Special tokens are never hidden.

    `input_ids` are the clean ids; the model puts its mask token where `masked` is True. A masking with `random_prob`
    also replaces some tokens, drawn uniformly from the ordinary ones, in `student_input_ids`.
    """

    def __init__(
        self,
        objective: ObjectiveConfig | None,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        whole_words: bool = False,
    ):
        super().__init__(objective, seed)
        self.continues = continuing_ids(tokenizer) if whole_words else None
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.special_ids = torch.tensor(sorted(tokenizer.all_special_ids))
        ordinary = torch.ones(len(tokenizer), dtype=torch.bool)
        ordinary[self.special_ids] = False
        self.ordinary_ids = ordinary.nonzero().flatten()  # (ids,)
        masking = None if objective is None else objective.masking
        self.replaces = masking if isinstance(masking, TokenMasking) and masking.random_prob > 0 else None
        if self.replaces is not None and objective is not None and objective.views is not None:
            raise ValueError(
                f"objective.masking.random_prob = {self.replaces.random_prob} does not work with objective.views = "
                f"{objective.views}: hidden tokens are dropped there, use random_prob 0."
            )

    def inputs(self, examples: Sequence[Example]) -> tuple[Batch, TokenLayout]:
        """input_ids (batch, tokens) long, and attention_mask (batch, tokens) long where a row is padded."""
        batch, lengths = pad([example["input_ids"] for example in examples], "input_ids", self.pad_token_id)
        ids = batch["input_ids"]
        return batch, TokenLayout((ids.shape[1],), lengths, ~torch.isin(ids, self.special_ids))

    def masks(
        self, objective: ObjectiveConfig, batch: Batch, layout: TokenLayout, examples: Sequence[Example]
    ) -> Batch:
        seeds, ids, masking = self.mask_seeds(objective, examples), batch["input_ids"], objective.masking
        draw = partial(self.draw, seeds=seeds, batch=batch, layout=layout)
        scored = None
        if objective.kind.scores_replaced and isinstance(masking, TokenMasking):
            scored = draw(masking.sample_chosen).squeeze(1)
        found = self.counted(objective, layout, draw(objective.draw_masks), scored)
        if self.replaces is not None:
            replaced = draw(self.replaces.sample_replaced).squeeze(1)
            random_ids = self._random_ids(ids, examples)
            found["student_input_ids"] = torch.where(replaced, random_ids, ids)  # (batch, tokens)
        return found

    def draw(self, sample: Callable[..., Tensor], seeds: Tensor, batch: Batch, layout: TokenLayout) -> Tensor:
        """Bool (batch, tokens) or (batch, views, tokens), drawn of tokens or of whole words."""
        ids = batch["input_ids"]
        if self.continues is None or layout.maskable is None:
            return sample(layout.grid, seeds, layout.lengths, layout.maskable)
        allowed = layout.maskable
        if layout.lengths is not None:
            allowed = allowed & (torch.arange(ids.shape[1]) < layout.lengths.unsqueeze(-1))
        before = torch.nn.functional.pad(allowed, (1, -1))  # whether the token in front may be masked, too
        words = (allowed & ~(self.continues[ids] & before)).cumsum(1)  # (batch, tokens), from 1
        count = words[:, -1]  # (batch,)
        drawn = sample((max(int(count.max()), 1),), seeds, count)  # of words
        word = (words - 1).clamp(min=0)
        if drawn.dim() == 3:
            word, allowed = word.unsqueeze(1).expand(-1, drawn.shape[1], -1), allowed.unsqueeze(1)
        return drawn.gather(-1, word) & allowed

    def _random_ids(self, ids: Tensor, examples: Sequence[Example]) -> Tensor:
        drawn = torch.empty_like(ids)  # (batch, tokens)
        for row, example in enumerate(examples):
            rng = generator(self.seed, example["epoch"], example["index"], "replace")
            drawn[row] = self.ordinary_ids[torch.from_numpy(rng.integers(len(self.ordinary_ids), size=ids.shape[1]))]
        return drawn


def continuing_ids(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Bool (ids,), True where a token goes on with a word: "##ing" in BERT's, none of "Ġa", "▁a" in others'."""
    tokens: list[str] = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    if any(token.startswith("##") for token in tokens):
        return torch.tensor([token.startswith("##") for token in tokens])
    return torch.tensor([not token.startswith(("Ġ", "Ċ", "▁")) for token in tokens])


TRAINED_HERE = "builtin:byte-bpe"


class TextData(Modality[TextDataArguments]):
    """See `Modality`. An example is {"input_ids": (tokens,) long}."""

    name = "text"
    arguments_class = TextDataArguments
    kind = TEXT
    named = False
    config_fields = ("vocab_size", "max_position_embeddings")
    processor_class = AutoTokenizer
    shapes = ("(batch, tokens)", "(batch, tokens, dim)")

    def __init__(
        self, args: TextDataArguments, config: PreTrainedConfig, processor: PreTrainedTokenizerBase | None = None
    ):
        self.args, self.config = args, config
        if processor is None:
            fix = f"name a folder or a Hub name that AutoTokenizer opens, e.g. roberta-base, or {TRAINED_HERE}"
            args.require(args.tokenizer is not None, "tokenizer", fix)
            processor = self._train_tokenizer() if args.tokenizer == TRAINED_HERE else _open_tokenizer(args)
        processor.model_max_length = max_tokens(config)  # so that a pipeline can cut what is too long
        self.processor = processor
        self.layout = RowLayout(args.block_size, *_border_ids(processor))
        self._check_vocabulary()

    @classmethod
    def open_processor(cls, model: str) -> PreTrainedTokenizerBase:
        try:
            return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"There is no tokenizer in {model}: copy the one of its run into it. {error}") from error

    @property
    def source_options(self) -> dict[str, Any]:
        return {"sample_by": self.args.sample_by}

    @classmethod
    def smallest_grid(cls, args: TextDataArguments, config: PreTrainedConfig) -> tuple[tuple[int, ...], str]:
        return (args.block_size,), f"data.block_size = {args.block_size}"

    def prepare(self, dataset: datasets.Dataset, packed: bool = True) -> Rows:
        tokens = tokenize(dataset, self.processor, self.args.num_proc)
        if packed and self.args.pack:
            return PackedRows(tokens, self.layout)
        return DocumentRows(tokens, self.layout, first_only=not packed)

    def kept(self, rows: Rows, numbers: Sequence[int]) -> datasets.Dataset:
        """What was cut into rows of tokens is a text again."""
        ids = [rows[number]["input_ids"] for number in numbers]
        texts = self.processor.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return datasets.Dataset.from_dict({"text": texts})

    def survey(self, rows: Rows, filtered: bool = True) -> Survey | None:
        assert isinstance(rows, PackedRows | DocumentRows)
        documents = rows.documents
        if documents.empty:
            logger.warning("%d empty documents are left out", documents.empty)
        return Survey(
            rows.lengths,
            {},
            {},
            gone=documents.bad,
            looked_at=len(documents.lengths),
            uncounted={"empty": documents.empty},
        )

    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        if "bad" in row:
            problem, where = row["bad"]
            raise BadExample(f"{where}.", problem)
        return {"input_ids": torch.from_numpy(row["input_ids"])}

    def rows_of_stream(self, stream: Iterator[Row]) -> Iterator[Row]:
        return rows_of_stream(stream, self.processor, self.layout, self.args.pack)

    def length(self, example: Mapping[str, Any]) -> int:
        return len(example["input_ids"])

    def collator(self, objective: ObjectiveConfig | None, seed: int) -> TextCollator:
        mask_id = getattr(self.config, "mask_token_id", None)
        mask_id = self.config.vocab_size - 1 if mask_id is None else mask_id
        if objective is not None and objective.views is None and mask_id != self.processor.mask_token_id:
            raise ValueError(
                f"The encoder hides tokens behind mask_token_id = {mask_id}, the tokenizer's is "
                f"{self.processor.mask_token_id}: set the encoder's mask_token_id to that."
            )
        return TextCollator(objective, self.processor, seed, self.args.whole_words)

    def _train_tokenizer(self) -> PreTrainedTokenizerBase:
        """A byte-level BPE of the encoder's vocabulary size, trained on the sources."""
        sources = load_sources(self.args.sources, TEXT, streaming=self.args.streaming, **self.source_options)
        return train_tokenizer(documents_of(sources), self.config.vocab_size)

    def _check_vocabulary(self) -> None:
        config, tokenizer = self.config, self.processor
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"The encoder's vocab_size = {config.vocab_size} is too small: the tokenizer has {len(tokenizer)} "
                f"tokens, set vocab_size to {len(tokenizer)}."
            )
        if tokenizer.pad_token_id is None or tokenizer.mask_token_id is None:
            raise ValueError(
                f"The tokenizer's pad_token = {tokenizer.pad_token!r} and mask_token = {tokenizer.mask_token!r}: "
                "both are needed, add them or use another tokenizer."
            )
        if config.pad_token_id != tokenizer.pad_token_id:
            raise ValueError(
                f"The encoder's pad_token_id = {config.pad_token_id} is not the tokenizer's, "
                f"{tokenizer.pad_token_id}: set it to that (positions are counted from it)."
            )
        self.args.require(
            self.args.block_size <= max_tokens(config),
            "block_size",
            f"the encoder has positions for {max_tokens(config)} tokens, use that or less, or set its "
            f"max_position_embeddings to {self.args.block_size + config.pad_token_id + 1}",
        )


def _open_tokenizer(args: TextDataArguments) -> PreTrainedTokenizerBase:
    try:
        require_hub_name(str(args.tokenizer))
        return AutoTokenizer.from_pretrained(args.tokenizer, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"data.tokenizer = {args.tokenizer!r} cannot be opened: name a folder or a Hub name that AutoTokenizer "
            f"opens (data2vec tokenizer makes one), or {TRAINED_HERE}. {error}"
        ) from error


def _border_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Begin and end of sequence, which BERT-like tokenizers call cls and sep."""
    begin = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    end = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    if begin is None or end is None:
        raise ValueError(
            f"The tokenizer's bos_token = {tokenizer.bos_token!r} and eos_token = {tokenizer.eos_token!r}: both are "
            "needed to separate documents, add them or use another tokenizer."
        )
    return int(begin), int(end)
