"""The text of the experiments: letters of film reviews, and phrases that are spelled or scrambled.

Whole words are out of reach of a minute of training on one CPU thread (README.md says what was tried), letters are
not.
So the reviews are reduced to lower-case letters and single spaces, which the probe's phrases consist of too.
"""

import re
from pathlib import Path

import datasets

from data2vec.pretraining.data.builtin import load_builtin


ONLINE = 1000  # phrases; the online probe should not take longer than the training


def letters_only(text: str) -> str:
    """Lower-case words without anything that is no letter, a space between them."""
    return " ".join(filter(None, (re.sub("[^a-z]", "", word) for word in text.lower().split())))


def letters(dataset: Path, folder: Path, reviews: int) -> tuple[str, Path]:
    """Prepare what text systems are pretrained on, and their probes, unless that was done.

    Args:
        dataset: unlabelled texts, a Hugging Face data set with the splits train and validation and a column text.
        folder: gets pretrain.parquet and the probes `online`, `validation` and `test`, each a train.parquet and a
            test.parquet with the columns text and label (0 spelled, 1 scrambled: the letters of each word in another
            order; of the documentation of Python, which is not pretrained on).
        reviews: how many texts are pretrained on.

    Returns:
        The path of pretrain.parquet, and the folder of the probes.
    """
    source = folder / "pretrain.parquet"
    if not source.is_file():
        phrases = {split: load_builtin("python-docs", "spelling", split) for split in ("train", "validation", "test")}
        train = phrases["train"]
        everything = datasets.load_dataset(str(dataset), split="train").select_columns(["text"])
        texts = [letters_only(text) for text in everything.shuffle(seed=0)["text"][:reviews]]
        parts = {
            "online/train": train.select(range(ONLINE)),
            "online/test": phrases["validation"].select(range(ONLINE)),
            "validation/train": train,
            "validation/test": phrases["validation"],
            "test/train": train,
            "test/test": phrases["test"],
            "pretrain": datasets.Dataset.from_dict({"text": texts}),  # last: where it is there, all are
        }
        for name, part in parts.items():
            path = folder / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            part.to_parquet(path)
    return str(source), folder
