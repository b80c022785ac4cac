"""Small labelled clips that a tiny network can tell apart in seconds: a low and a high tone, noise."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile


RATE = 16_000
PITCHES = {"high": 2500.0, "low": 200.0}  # Hz


def tone(label: str, rng: np.random.Generator, seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone of random phase and loudness with some noise, (samples,) fp32."""
    time = np.arange(int(seconds * rate)) / rate
    wave = rng.uniform(0.1, 0.8) * np.sin(2 * np.pi * (PITCHES[label] * time + rng.random()))
    return (wave + 0.01 * rng.normal(size=len(time))).astype(np.float32)


def tone_folder(folder: Path, each: int, seed: int, seconds: tuple[float, float] = (0.2, 0.4)) -> Path:
    """`each` clips of both labels, a sub-folder each, with sampling rates of 16 and of 22.05 kHz."""
    rng = np.random.default_rng(seed)
    for label in PITCHES:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            rate = RATE if number % 2 else 22_050
            soundfile.write(folder / label / f"{number:02d}.wav", tone(label, rng, rng.uniform(*seconds), rate), rate)
    return folder


def tagged_clips(file: Path, count: int, seed: int) -> Path:
    """A jsonl of clips that hold both tones, one, or none (noise), with the list of their labels."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        labels = [label for label in PITCHES if rng.random() < 0.5]
        seconds = rng.uniform(0.2, 0.4)
        wave = sum((tone(label, np.random.default_rng(number), seconds) for label in labels), 0.0)
        wave = wave + 0.05 * rng.normal(size=int(seconds * RATE)).astype(np.float32)
        path = file.with_name(f"{file.stem}-{number:02d}.wav")
        soundfile.write(path, wave, RATE)
        lines.append(json.dumps({"audio": str(path), "label": labels}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def tone_table(
    folder: Path, splits: Mapping[str, Sequence[Mapping[str, object]]], seconds: tuple[float, float] = (0.3, 0.6)
) -> Path:
    """A data set in the Hub's layout: for each row its columns and a clip, a tone chosen by its `label`."""
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        clips = []
        for number, row in enumerate(rows):
            file, rng = io.BytesIO(), np.random.default_rng(number)
            pitch = list(PITCHES)[int(str(row["label"])) % len(PITCHES)]
            soundfile.write(file, tone(pitch, rng, rng.uniform(*seconds)), RATE, format="FLAC")
            clips.append({"audio": {"bytes": file.getvalue(), "path": f"{split}-{number}.flac"}, **row})
        pq.write_table(pa.Table.from_pylist(clips), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def folds_of_tones(folder: Path, classes: int = 4, each: int = 3) -> Path:
    """ESC-10's layout: five folds as splits, a `label`."""
    rows = [{"label": label} for label in range(classes) for _ in range(each)]
    return tone_table(folder, {f"fold{fold}": rows for fold in range(1, 6)}, (1.1, 1.4))
