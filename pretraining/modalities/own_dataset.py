"""A dataset of one's own as pretraining data: anything with a length and `[index]`, of torch or of `datasets`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from ..data.arguments import Source
from ..data.bad_examples import Ledger
from ..data.sampler import BatchSampler
from .build import PretrainingData, modality_of


class OwnDataset(Dataset[dict[str, Any]]):
    """The examples of another dataset by the keys of [`BatchSampler`], (epoch, index), which its masks follow from."""

    def __init__(self, dataset: Any, column: str):
        self.dataset, self.column = dataset, column
        self.ledger = Ledger("train", 0.0, len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        example = self.dataset[index]
        if not isinstance(example, Mapping) or self.column not in example:
            found = ", ".join(example) if isinstance(example, Mapping) else type(example).__name__
            raise ValueError(
                f"dataset[{index}] holds {found}: it must be a dict with {self.column!r}, without a batch."
            )
        inputs = {name: torch.as_tensor(value) for name, value in example.items() if name != "labels"}
        return {**inputs, "epoch": epoch, "index": index, "name": f"example {index}"}


def wrap_dataset(
    dataset: Any,
    model: Any,
    args: TrainingArguments,
    processor: Any = None,
) -> PretrainingData:
    """What a [`Data2VecTrainer`] needs of a dataset.

    Args:
        dataset: `dataset[i]` is a dict of the encoder's inputs without a batch axis: `pixel_values` (channels, height,
            width), `input_values` (samples,) or `input_ids` (tokens,). `labels` are left out.
        model: a model with [`PreTrainingMixin`].
        args: say how many examples a batch holds, and the seed.
        processor: the image processor, feature extractor or tokenizer, saved beside the weights; text needs one.
    """
    config = model.config
    modality_class = modality_of(config)
    source = Source(path="a dataset of one's own")  # never opened
    modality = modality_class(modality_class.arguments_class(sources=[source]), config, processor)
    sampler = BatchSampler(
        None,
        len(dataset),
        seed=args.seed,
        batch_size=args.per_device_train_batch_size,
        num_batches_multiple=args.world_size * args.gradient_accumulation_steps,
    )
    train: Any = OwnDataset(dataset, model.base_model.main_input_name)
    return PretrainingData(train, sampler, modality.collator(model.objective, args.seed), modality.processor)
