"""Splits the Free Spoken Digit Dataset by speaker: `python docs/runs/prepare_spoken_digits.py DATASET FOLDER`.

Its own split has the same six speakers on both sides; a probe on it measures who speaks as well as what is said. Here
theo and yweweler are held out for the test, all their takes, and the other four are for training.

DATASET is a Hugging Face dataset, by folder or name, with the columns audio, digit and speaker_id; all its splits are
read. FOLDER gets train.parquet and test.parquet, which `datasets.load_dataset(FOLDER)` and a recipe's
`data.probe: {path: FOLDER, label_column: digit}` open. The audio is not touched.
"""

import argparse
from pathlib import Path

import datasets
import numpy as np


HELD_OUT = ("theo", "yweweler")


def split_by_speaker(dataset: datasets.Dataset, held_out: tuple[str, ...] = HELD_OUT) -> datasets.DatasetDict:
    """`train` and `test` without a common speaker. Raises ValueError where a held-out speaker does not occur."""
    speakers = np.asarray(dataset["speaker_id"][:])
    missing = set(held_out) - set(speakers)
    if missing:
        raise ValueError(
            f"speaker_id holds {', '.join(sorted(set(speakers)))}, not {', '.join(sorted(missing))}: is this the Free "
            "Spoken Digit Dataset?"
        )
    of_test = np.isin(speakers, held_out)
    parts = {"train": np.flatnonzero(~of_test), "test": np.flatnonzero(of_test)}
    return datasets.DatasetDict({name: dataset.select(rows) for name, rows in parts.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or name of the dataset")
    parser.add_argument("folder", type=Path, help="where the two files are written")
    given = parser.parse_args()
    everything = datasets.concatenate_datasets(list(datasets.load_dataset(given.dataset).values()))
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, part in split_by_speaker(everything).items():
        part.to_parquet(given.folder / f"{name}.parquet")
        print(f"{name}: {len(part)} clips of {', '.join(sorted(set(part['speaker_id'])))}")


if __name__ == "__main__":
    main()
