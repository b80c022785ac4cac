"""The `DataLoader` of both trainers, as `TrainingArguments` ask for it."""

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments


def make_loader(dataset: Dataset[Any], args: TrainingArguments, **how: Any) -> DataLoader[Any]:
    """A loader with the workers that `args` ask for; `how` is given to `DataLoader`."""
    workers = args.dataloader_num_workers
    return DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
        persistent_workers=args.dataloader_persistent_workers and workers > 0,
        prefetch_factor=args.dataloader_prefetch_factor,
        **how,
    )
