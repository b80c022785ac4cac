"""The run's own examples, masks and encoder, for pictures: a few rows of its data, read as the run read them.

An example and its masks are those of the run's seed in epoch 0, but for the number of the example: of a large set only
the first rows are opened. Nothing is downloaded that the run did not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
)

from ...modeling.configuration_objective import objective_class_of
from ...pretraining.data.examples import PretrainingDataset
from ...pretraining.data.sources import load_sources
from ...pretraining.data.streaming import StreamingBatches
from ...pretraining.modalities.build import DataArguments, load_labelled, modality_of
from ..folder import Folder


FIRST = 256  # rows of a source that are opened
SEED = 42  # TrainingArguments' own
Example = dict[str, Any]


@dataclass(frozen=True)
class Masked:
    """An example as the run's collator returned it."""

    name: str
    batch: dict[str, Tensor]  # of one row, without `masked`
    masked: np.ndarray  # bool (views, time), True = hidden from the student
    has_views: bool  # or there is one mask only

    def view(self, number: int) -> str:
        """What the caption of a view starts with; nothing where there is one mask."""
        return f"view {number + 1}: " if self.has_views else ""


@dataclass(frozen=True)
class Labelled:
    """Examples of the probe's splits, with `labels`; read without augmentation."""

    train: Sequence[Example]
    test: Sequence[Example]
    names: tuple[str, ...]


class Inputs:
    """What a run reads, opened from its folder.

    Raises:
        ValueError: the folder has no recipe, no weights or another run's recipe than one of pretraining.
    """

    def __init__(self, folder: Folder):
        if not folder.pretrains:
            raise ValueError(
                "This run was fine-tuned: its inputs are whole. The folder of its pretraining run shows masks, "
                "features and attention."
            )
        for name in ("recipe.yaml", "weights"):
            if name in folder.missing:
                raise ValueError(f"The folder has no {name}: {folder.missing[name]}.")
        self.weights = str(folder.weights)
        self.config: Any = AutoConfig.from_pretrained(self.weights, trust_remote_code=False)
        self.seed = int(folder.recipe.get("training", {}).get("seed", SEED))
        modality_class = modality_of(self.config)
        args: DataArguments = modality_class.arguments_class.from_dict(folder.recipe.get("data", {}))
        self.args = replace(args, num_proc=1)
        self.modality: Any = modality_class(self.args, self.config, modality_class.open_processor(self.weights))
        if not getattr(self.config, "objective", None):
            raise ValueError(
                f"{self.weights}/config.json has no objective, so the masks of its pretraining are unknown."
            )
        self.objective = objective_class_of(self.config).from_dict(self.config.objective)

    def examples(self, count: int) -> list[Example]:
        """Examples of the training data, augmented as in training.

        Raises ValueError where the data cannot be opened, in which case its message says why and how to fix it.
        """
        options = self.modality.source_options
        sources = load_sources(self.args.sources, self.modality.kind, streaming=self.args.streaming, **options)
        how: dict[str, Any] = {"seed": self.seed, "max_bad_share": 1.0}
        if self.args.streaming:
            shares = self.args.shares()
            bound: dict[str, Any] = {"batch_size": count, "shuffle_buffer": count, "shares": shares}
            batch = next(iter(StreamingBatches(sources, self.modality, **bound, **how)))
            return list(islice(batch, count))
        rows = [self.modality.prepare(_first(source)) for source in sources]
        dataset = PretrainingDataset(rows, self.modality, **how)
        spread = np.unique(np.linspace(0, len(dataset) - 1, count + 2)[1:-1].round().astype(int))
        return [dataset[int(index)] for index in spread]

    def masked(self, examples: Sequence[Example]) -> list[Masked]:
        """Examples with the masks that the run's collator draws for them."""
        collator = self.modality.collator(self.objective, self.seed)
        found = []
        for number, example in enumerate(examples):
            collated = collator([example])
            masked = collated.pop("masked")[0].numpy()
            others = ("mask_counts", "mask_candidates", "labels")
            batch = {column: values for column, values in collated.items() if column not in others}
            name = str(example.get("name") or f"example {number + 1}")
            found.append(Masked(name, batch, np.atleast_2d(masked), masked.ndim == 2))
        return found

    def labelled(self, most: int) -> Labelled:
        """Up to `most` examples of each split of `data.probe`, drawn with the run's seed; raises as `examples`."""
        probe = self.args.probe
        if probe is None:
            raise ValueError("No labelled set is configured: add `probe: {path: ...}` to the recipe's section data.")
        numbered, names = load_labelled(probe, self.modality)
        parts = []
        for rows in (numbered[probe.train_split], numbered[probe.test_split]):
            if len(rows) > most:
                rows = rows.select(np.sort(np.random.default_rng(self.seed).permutation(len(rows))[:most]))
            prepared = self.modality.prepare(rows, packed=False)
            dataset = PretrainingDataset([prepared], self.modality, seed=self.seed, augment=False, filtered=False)
            parts.append([dataset[index] for index in range(len(dataset))])
        return Labelled(parts[0], parts[1], names)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Examples as a batch without masks."""
        return self.modality.collator(None, self.seed)(list(examples))

    def encoder(self) -> PreTrainedModel:
        """The student in eval mode and fp32, with the attention that returns its weights."""
        how: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False, "attn_implementation": "eager"}
        encoder: PreTrainedModel = AutoModel.from_pretrained(self.weights, **how)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return encoder.eval().to(device)

    def attention(self, encoder: PreTrainedModel, batch: dict[str, Tensor]) -> list[np.ndarray]:
        """Attention of each block on a batch of one, the mean over heads: (time, time) each, a row what one looks at.

        Tokens that stand for no part of the input (CLS) are left out; what they were given is missing in the sums.
        """
        taken = signature(encoder.forward).parameters  # what the student alone reads is none of them
        inputs = {name: value.to(encoder.device) for name, value in batch.items() if name in taken}
        with torch.no_grad():
            attentions = encoder(**inputs, output_attentions=True).attentions
        real = modality_of(encoder.config).real_tokens(encoder, inputs, attentions[0].shape[-1])[0].cpu().numpy()
        return [block[0].float().mean(0).cpu().numpy()[np.ix_(real, real)] for block in attentions]


def _first(rows: Any) -> Dataset:
    return rows.select(range(min(FIRST, len(rows))))
