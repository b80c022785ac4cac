"""Texts that a tiny encoder learns to tell apart, laid out as GLUE is."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

from data2vec.finetune.text.glue_tasks import GLUE
from tests.finetune.encoders import WORDS


PLAIN = WORDS[:-4]
GOOD, BAD = ("good", "fine"), ("bad", "poor")
TRAIN, VALIDATION, TEST = 211, 47, 23  # rows


def text(rng: np.random.Generator, word: str) -> str:
    words = [str(w) for w in rng.choice(PLAIN, rng.integers(3, 8))]
    words.insert(int(rng.integers(0, len(words) + 1)), word)
    return " ".join(words)


def glue_rows(task: str, count: int, seed: int, labelled: bool = True) -> datasets.Dataset:
    """Rows that the word good, fine, bad or poor decides; of a pair, whether both texts have a good one."""
    rng, spec = np.random.default_rng(seed), GLUE[task]
    good = rng.integers(0, 2, (count, len(spec.text_columns)))  # (rows, texts)
    columns: dict = {
        column: [text(rng, str(rng.choice(GOOD if is_good else BAD))) for is_good in good[:, i]]
        for i, column in enumerate(spec.text_columns)
    }
    total = good.sum(1)
    if spec.labels:
        columns["label"] = np.minimum(total, len(spec.labels) - 1).tolist()
        kind = datasets.ClassLabel(names=list(spec.labels))
    else:
        columns["label"], kind = (total * 2.5).tolist(), datasets.Value("float32")
    rows = datasets.Dataset.from_dict(columns).cast_column("label", kind)
    if not labelled:  # as on the Hub
        rows = rows.remove_columns("label").add_column("label", [-1] * count)
    return rows


def glue_folder(root: Path, tasks: Sequence[str]) -> Path:
    """Tasks in the Hub's layout; the test sets have no labels."""
    for task in tasks:
        spec = GLUE[task]
        sizes = {"train": TRAIN, **dict.fromkeys(spec.validation_splits, VALIDATION)}
        for seed, (split, count) in enumerate({**sizes, **dict.fromkeys(spec.test_splits, TEST)}.items()):
            rows = glue_rows(task, count, seed, labelled=not split.startswith("test"))
            rows.to_parquet(str(root / task / f"{split}-00000-of-00001.parquet"))
    return root
