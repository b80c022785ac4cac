"""The data of the experiments: what is pretrained on, and labelled examples that probe what was learned.

Every data set becomes a folder with the probes `online` (the curves during training), `validation` (chooses settings)
and `test` (what is published), each a `train.parquet` and a `test.parquet`. Test examples choose nothing, and are
neither pretrained on nor of a speaker that was.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from prepare_streams import figures, with_mouth
from prepare_text import letters
from sklearn.model_selection import train_test_split

from data2vec.pretraining.data.builtin import BUILTIN, load_builtin


VALIDATION, LABELLED, TEST = 2000, 2000, 2000  # images
ONLINE = 1000  # of images; the online probe should not take longer than the training

TEST_SPEAKERS, VALIDATION_SPEAKER = ("theo", "yweweler"), "nicolas"  # of the spoken digits
SPEECH_ONLINE, SPEECH_LABELLED = 400, 1000


@dataclass(frozen=True)
class Prepared:
    """What is pretrained on, and the folder of the probes."""

    source: str
    probes: Path


def images(name: str, data: Path, folder: Path) -> Prepared:
    """Fashion-MNIST or CIFAR-10: the validation images are cut from those that are trained on, pretrain.parquet."""
    source = folder / "pretrain.parquet"
    if not source.is_file():
        everything = datasets.load_dataset(str(data / name))
        labels = np.asarray(everything["train"]["label"][:])
        rows = np.arange(len(labels))
        train, validation = train_test_split(rows, test_size=VALIDATION, stratify=labels, random_state=0)
        labelled, _ = train_test_split(train, train_size=LABELLED, stratify=labels[train], random_state=0)
        few = [part[:: len(part) // ONLINE] for part in (labelled, validation)]
        parts = {
            "online/train": everything["train"].select(np.sort(few[0])),
            "online/test": everything["train"].select(np.sort(few[1])),
            "validation/train": everything["train"].select(np.sort(labelled)),
            "validation/test": everything["train"].select(np.sort(validation)),
            "test/train": everything["train"].select(np.sort(labelled)),
            "test/test": everything["test"].shuffle(seed=0).select(range(TEST)),
            "pretrain": everything["train"].select(np.sort(train)),
        }
        write(parts, folder)
    return Prepared(str(source), folder)


def spoken_digits(data: Path, folder: Path) -> Prepared:
    """Which digit is said, by speakers whom no classifier has heard; pretrained on the clips of the other four."""
    source = folder / "pretrain.parquet"
    if not source.is_file():
        everything = datasets.concatenate_datasets(list(datasets.load_dataset(str(data / "spoken_digits")).values()))
        speakers = np.asarray(everything["speaker_id"][:])
        of_test = np.isin(speakers, TEST_SPEAKERS)
        of_validation = speakers == VALIDATION_SPEAKER
        test, validation, train = (
            everything.select(np.flatnonzero(rows)) for rows in (of_test, of_validation, ~of_test & ~of_validation)
        )
        known = everything.select(np.flatnonzero(~of_test))
        parts = {
            "online/train": drawn(train, SPEECH_ONLINE),
            "online/test": drawn(validation, SPEECH_ONLINE),
            "validation/train": drawn(train, SPEECH_LABELLED),
            "validation/test": validation,
            "test/train": drawn(known, SPEECH_LABELLED),
            "test/test": test,
            "pretrain": known,
        }
        write(parts, folder)
    return Prepared(str(source), folder)


def read_speech(data: Path, folder: Path) -> Prepared:
    """Pretrained on half an hour of LibriSpeech, probed with the spoken digits."""
    return Prepared(str(data / "librispeech_small"), spoken_digits(data, folder).probes)


def environmental(data: Path, folder: Path) -> Prepared:
    """ESC-10: pretrained and trained on three of its five folds, which share no recording with the other two."""
    source = folder / "pretrain.parquet"
    if not source.is_file():
        folds = datasets.load_dataset(str(data / "esc10"))
        one, two, three, *test = (folds[f"fold{number}"] for number in range(1, 6))
        train, known = datasets.concatenate_datasets([one, two]), datasets.concatenate_datasets([one, two, three])
        parts = {
            **{f"{probe}/train": train for probe in ("online", "validation")},
            **{f"{probe}/test": three for probe in ("online", "validation")},
            "test/train": known,
            "test/test": datasets.concatenate_datasets(test),
            "pretrain": known,
        }
        write(parts, folder)
    return Prepared(str(source), folder)


def text(reviews: int, data: Path, folder: Path) -> Prepared:
    """Film reviews as letters, probed with phrases whose letters are, or are not, in their order."""
    return Prepared(*letters(data / "imdb_unlabelled_text", folder, reviews))


def x_rays(data: Path, folder: Path) -> Prepared:
    """PneumoniaMNIST with the splits that it has."""
    source = folder / "pretrain.parquet"
    if not source.is_file():
        splits = datasets.load_dataset(str(data / "pneumonia_mnist"))
        parts = {f"{probe}/train": splits["train"] for probe in ("online", "validation", "test")}
        parts |= {f"{probe}/test": splits["validation"] for probe in ("online", "validation")}
        write(parts | {"test/test": splits["test"], "pretrain": splits["train"]}, folder)
    return Prepared(str(source), folder)


def drawn(clips: datasets.Dataset, number: int) -> datasets.Dataset:
    digits = np.asarray(clips["digit"][:])
    rows, _ = train_test_split(np.arange(len(digits)), train_size=number, stratify=digits, random_state=0)
    return clips.select(np.sort(rows))


CLOUD = 512  # points that are kept of a cloud


def clouds(name: str, read: Callable[[Mapping[str, Any]], np.ndarray], data: Path, folder: Path) -> Prepared:
    """Point clouds: a fifth of the training clouds is the validation set; all others are pretrained on."""
    source = folder / "pretrain.parquet"
    if not source.is_file():
        rng = np.random.default_rng(0)
        splits = {}
        for part in ("train", "test"):
            rows = load_builtin(name, split=part) if name in BUILTIN else datasets.load_dataset(str(data / name))[part]
            points = [rng.permutation(read(row))[:CLOUD].astype(np.float32).flatten().tolist() for row in rows]
            names = rows.features["label"]
            labels = [names.int2str(label) if hasattr(names, "int2str") else str(label) for label in rows["label"]]
            splits[part] = datasets.Dataset.from_dict({"points": points, "label": labels})
        write_held_out(splits, folder)
    return Prepared(str(source), folder)


def write_held_out(splits: Mapping[str, datasets.Dataset], folder: Path) -> None:
    """`train` and `test` with a label: a fifth of the training examples is the validation set."""
    everyone = np.arange(len(splits["train"]))
    train, validation = train_test_split(everyone, test_size=0.2, stratify=splits["train"]["label"], random_state=0)
    learned, held_out = (splits["train"].select(np.sort(part)) for part in (train, validation))
    parts = {"online/train": learned, "online/test": held_out}
    parts |= {"validation/train": learned, "validation/test": held_out}
    write(parts | {"test/train": learned, "test/test": splits["test"], "pretrain": learned}, folder)


def radar(row: Mapping[str, Any]) -> np.ndarray:
    """Coordinates of RadHAR's radar points, without velocity, intensity and time."""
    return np.asarray(row["points"], dtype=np.float32).reshape(-1, 6)[:, :3]


def voxels(row: Mapping[str, Any]) -> np.ndarray:
    """Centres of the occupied cells of a grid of 32 x 32 x 32."""
    return np.argwhere(np.unpackbits(np.frombuffer(row["voxels_packed"], np.uint8)).reshape(32, 32, 32)) / 15.5 - 1


def solids(row: Mapping[str, Any]) -> np.ndarray:
    array: np.ndarray = np.load(io.BytesIO(row["points"]["bytes"]))
    return array


def stick_figures(data: Path, folder: Path) -> Prepared:
    """Which of 14 actions the joints of a person in JHMDB make, drawn as a film."""
    source = folder / "pretrain.parquet"
    if not source.is_file():
        write_held_out({split: figures(data, split) for split in ("train", "test")}, folder)
    return Prepared(str(source), folder)


def mouths(data: Path, folder: Path) -> Prepared:
    """The spoken digits, with a mouth drawn from the sound."""
    source = folder / "pretrain.parquet"
    if not source.is_file():
        sounds = spoken_digits(data, folder / "sounds").probes
        names = [f"{probe}/{part}" for probe in ("online", "validation", "test") for part in ("train", "test")]
        clips = {name: datasets.Dataset.from_parquet(str(sounds / f"{name}.parquet")) for name in (*names, "pretrain")}
        write({name: part.map(with_mouth, with_indices=True) for name, part in clips.items()}, folder)
    return Prepared(str(source), folder)


def write(parts: dict[str, datasets.Dataset], folder: Path) -> None:
    """`pretrain` comes last in the parts: where it is there, all of them are."""
    for name, part in parts.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(path)


# name -> what prepares it from DATA, in a folder of its own
PREPARE: dict[str, Callable[[Path, Path], Prepared]] = {
    "fashion_mnist": partial(images, "fashion_mnist_small"),
    "cifar10": partial(images, "cifar10_small"),
    "spoken_digits": spoken_digits,
    "read_speech": read_speech,
    "esc10": environmental,
    "imdb_letters": partial(text, 3000),  # 3.8 million letters: more than a run reads
    "imdb_letters_few": partial(text, 300),  # of which stages keep a share
    "x_rays": x_rays,
    "radar": partial(clouds, "pointcloud_radhar", radar),
    "voxels": partial(clouds, "pointcloud_modelnet10_voxels2", voxels),
    "solids": partial(clouds, "shapes", solids),
    "stick_figures": stick_figures,
    "mouths": mouths,
}
