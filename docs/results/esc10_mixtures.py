"""AudioSet's recipe at small scale: which of ten environmental sounds are heard at once?

    python docs/results/esc10_mixtures.py --data DATA --runs RUNS      ->  data/esc10_mixtures.json

Pretrains on the clips of ESC-10 without their labels (systems/esc10.yaml: K = all, DeepNorm, instance norm of each
layer, layer norm of the average). Then clips of one to three sounds are mixed at random gains, and a classifier says
which sounds are in a mixture, as mean average precision (mAP) on mixtures of clips that nothing has seen:

    frozen       logistic regressions on the mean of the frames: pretrained, the same network untrained, log-mel
                 energies
    fine-tuned   run_audio_classification.py, pretrained and from the same random weights, with linear-softmax pooling
                 as on AudioSet, and with the mean and `head_norm`

Seed s tests on fold s + 1, chooses penalty and layer on the next fold, and trains on the other three. What is finished
is not done again.
"""

import argparse
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
import torch
from measure import pooled_layers
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, set_seed

from data2vec.finetune import run_audio_classification
from data2vec.finetune.arguments import parse as parse_fine_tuning
from data2vec.finetune.audio.task import AudioClassification
from data2vec.finetune.metrics import mean_average_precision
from data2vec.pretraining import run
from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.checkpoints.environment import hardware, source_commit
from data2vec.pretraining.evaluation.probe import PENALTIES, teacher_encoder
from data2vec.pretraining.evaluation.raw_features import raw_features
from data2vec.pretraining.modalities.audio import AudioData


HERE = Path(__file__).parent
FOLDS, SEEDS = 5, (0, 1, 2)
RATE = 16_000
AUDIO = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
FEATURES = {"audio": AUDIO, "label": datasets.List(datasets.Value("string"))}
HEADS = {
    "linear softmax": ("--pooling", "linear_softmax"),
    "mean, head_norm": ("--pooling", "mean", "--head_norm", "true"),
}
STARTS = {"student": "pretrained", "untrained": "untrained"}  # name in the results -> folder of the encoder


@dataclass(frozen=True)
class Size:
    """Mixtures of each part, how long they are, and updates."""

    train: int = 600
    validation: int = 150
    test: int = 200
    seconds: float = 3.0
    updates: int | None = None  # of pretraining; None is the recipe's
    fine_tune_updates: int = 200


# ---- data ----


def clips(dataset: Path, fold: int) -> list[tuple[str, np.ndarray]]:
    """(class, wave) of a fold, 1 to 5; the silence that fills clips up to 5 s is cut off."""
    found = []
    rows = datasets.load_dataset(str(dataset), split=f"fold{fold}")
    names = rows.features["label"]
    for row in rows:
        wave, _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        heard = np.flatnonzero(np.abs(wave) > 1e-3)
        label = names.int2str(row["label"]) if isinstance(names, datasets.ClassLabel) else row["label"]
        found.append((label, wave[heard[0] : heard[-1] + 1]))
    return found


def mixture(
    sounds: Sequence[tuple[str, np.ndarray]], seconds: float, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """One to three sounds of different classes, each at -10 to 0 dB of an equal loudness, and their names."""
    length = int(seconds * RATE)
    mixed, names = np.zeros(length, dtype=np.float32), []
    classes = sorted({name for name, _ in sounds})
    for name in rng.choice(classes, rng.integers(1, 4), replace=False):
        ours = [wave for label, wave in sounds if label == name]
        wave = loudest(ours[rng.integers(len(ours))], length)
        start = rng.integers(length - len(wave) + 1)
        loudness = float(np.sqrt(np.mean(wave**2)))
        mixed[start : start + len(wave)] += wave * (0.1 / loudness * 10 ** (rng.uniform(-10, 0) / 20))
        names.append(str(name))
    return names, mixed / max(1.0, float(np.abs(mixed).max()))


def loudest(wave: np.ndarray, length: int) -> np.ndarray:
    """The part of so many samples that has the most energy, or all of a shorter wave."""
    if len(wave) <= length:
        return wave
    energy = np.concatenate(([0.0], np.cumsum(wave.astype(np.float64) ** 2)))
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return wave[start : start + length]


def write(rows: Sequence[tuple[list[str], np.ndarray]], path: Path) -> None:
    content = []
    for number, (names, wave) in enumerate(rows):
        file = io.BytesIO()
        soundfile.write(file, wave, RATE, format="FLAC")
        content.append({"audio": {"bytes": file.getvalue(), "path": f"{path.stem}-{number}.flac"}, "label": names})
    datasets.Dataset.from_list(content, features=datasets.Features(FEATURES)).to_parquet(path)


def prepare(dataset: Path, folder: Path, seed: int, size: Size) -> None:
    """pretrain.parquet, of all clips but the test fold's; train, validation and test.parquet, of mixtures."""
    if (folder / "test.parquet").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    order = [(seed + i) % FOLDS + 1 for i in range(FOLDS)]  # test, validation, and three to train on
    of_fold = {fold: clips(dataset, fold) for fold in order}
    known = [clip for fold in order[1:] for clip in of_fold[fold]]
    write([([name], wave) for name, wave in known], folder / "pretrain.parquet")
    parts = {
        "train": (size.train, [clip for fold in order[2:] for clip in of_fold[fold]]),
        "validation": (size.validation, of_fold[order[1]]),
        "test": (size.test, of_fold[order[0]]),
    }
    for number, (name, (count, sounds)) in enumerate(parts.items()):
        rng = np.random.default_rng([seed, number])
        write([mixture(sounds, size.seconds, rng) for _ in range(count)], folder / f"{name}.parquet")


# ---- encoders ----


def pretrain(folder: Path, seed: int, size: Size) -> None:
    """folder/pretrained, and folder/untrained: the same network with its initial weights."""
    if (folder / "untrained" / "model.safetensors").is_file():
        return
    words = ["--data.sources", f"[{{path: {folder / 'pretrain.parquet'}}}]", "--training.seed", str(seed)]
    words += ["--training.output_dir", str(folder / "pretrained"), "--use_cpu", "true", "--disable_tqdm", "true"]
    if size.updates is not None:
        words += ["--max_steps", str(size.updates), "--ema_anneal_steps", str(size.updates)]
        words += ["--logging_steps", "1"]
    recipe = str(HERE / "systems" / "esc10.yaml")
    if run.main([recipe, *words]):
        raise SystemExit(f"{folder / 'pretrained'} did not finish.")
    asked = parse_arguments([recipe, *words])
    set_seed(seed)
    asked.model_class(asked.config).save_encoder(folder / "untrained")


def fine_tuning(folder: Path, start: str, head: str, seed: int, size: Size) -> list[str]:
    """The command line of run_audio_classification.py: a recipe that comes with the package, on the mixtures."""
    words = ["esc10_small.yaml", "--model_name_or_path", str(folder / start)]
    words += ["--output_dir", str(folder / "fine_tuned" / f"{start}, {head}"), *HEADS[head]]
    words += ["--data.folds", "null", "--multi_label", "true", "--mixup_prob", "0", "--max_seconds", str(size.seconds)]
    for part in ("train", "validation", "test"):
        words += [f"--data.{part}", f"{{path: {folder / part}.parquet}}"]
    words += [
        "--max_steps",
        str(size.fine_tune_updates),
        "--learning_rate",
        "3e-3",
        "--seed",
        str(seed),
        "--eval_strategy",
        "no",
    ]
    words += ["--save_strategy", "no", "--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true"]
    return words


# ---- measures, mAP in % ----


def fine_tuned(folder: Path, start: str, head: str, seed: int, size: Size) -> dict[str, Any]:
    """On validation and test, after the last update."""
    words = fine_tuning(folder, start, head, seed, size)
    if run_audio_classification.main(words):
        raise SystemExit(f"{words} did not finish.")
    results = json.loads((folder / "fine_tuned" / f"{start}, {head}" / "results.json").read_text())
    return {"mAP": percent(results["test"]["mAP"]), "validation": percent(results["validation"]["mAP"])}


def frozen(folder: Path, seed: int, size: Size) -> dict[str, Any]:
    """Every encoder and the raw features: on test, with the penalty and the layer that are best on validation."""
    done = folder / "frozen.json"
    if done.is_file():
        return json.loads(done.read_text())
    words = fine_tuning(folder, "pretrained", next(iter(HEADS)), seed, size)
    data = AudioClassification(parse_fine_tuning(words, AudioClassification)).build_data()
    parts = [data.train, data.evaluation["validation"], data.evaluation["test"]]
    examples = [[part[i] for i in range(len(part))] for part in parts]
    labels = [np.stack([example["labels"].numpy() for example in part]) for part in examples]
    asked = parse_arguments(
        [str(HERE / "systems" / "esc10.yaml"), "--output_dir", "unused", "--data.sources", "[{path: x}]"]
    )
    encoders = {
        "student": AutoModel.from_pretrained(folder / "pretrained"),
        "teacher": teacher_encoder(asked.model_class.from_pretrained(folder / "pretrained" / "pretraining")),
        "untrained": AutoModel.from_pretrained(folder / "untrained"),
    }
    found = {}
    for name, encoder in encoders.items():
        layers = [pooled_layers(encoder, part, data.collator)[0] for part in examples]  # part, layer: (examples, dim)
        found[name] = linear_probe([list(layer) for layer in zip(*layers, strict=True)], labels)
    raw = [raw_features(AudioData, part, part[:1]) for part in examples]  # nothing of these is fitted
    for name in raw[0]:
        found[name] = linear_probe([[part[name][0] for part in raw]], labels)
    done.write_text(json.dumps(found) + "\n")
    return found


def linear_probe(layers: Sequence[Sequence[np.ndarray]], labels: Sequence[np.ndarray]) -> dict[str, Any]:
    """Logistic regressions, one a class, on features of train, validation and test."""
    tried = []
    for number, (train, validation, test) in enumerate(layers):
        for penalty in PENALTIES:
            classify = make_pipeline(
                StandardScaler(), OneVsRestClassifier(LogisticRegression(C=penalty, max_iter=1000))
            ).fit(train, labels[0])
            scores = [classify.decision_function(features) for features in (validation, test)]
            tried.append((mean_precision(scores[0], labels[1]), number, penalty, mean_precision(scores[1], labels[2])))
    validation, number, penalty, test = max(tried)
    return {"mAP": percent(test), "validation": percent(validation), "layer": number, "penalty": penalty}


def mean_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    return mean_average_precision(scores, labels)["mAP"]


def percent(share: float) -> float:
    return round(100 * share, 2)


# ---- all of it ----


def one_seed(dataset: Path, folder: Path, seed: int, size: Size) -> dict[str, Any]:
    """What a seed gives: {encoder or raw features: {"mAP", ...}, "fine_tuned": {head: {start: {"mAP", ...}}}}."""
    done = folder / "measured.json"
    if done.is_file():
        return json.loads(done.read_text())
    began = time.monotonic()
    prepare(dataset, folder, seed, size)
    pretrain(folder, seed, size)
    probes = frozen(folder, seed, size)
    heads = {
        head: {name: fine_tuned(folder, start, head, seed, size) for name, start in STARTS.items()} for head in HEADS
    }
    log = json.loads((folder / "pretrained" / "trainer_state.json").read_text())["log_history"]
    last = [row for row in log if "target_std" in row][-1]
    found = {
        "seed": seed,
        "updates": last["step"],
        "seconds": round(max(row.get("training_seconds", 0.0) for row in log), 1),
        "health": {name: round(last[name], 4) for name in ("loss", "target_std", "prediction_std", "position_std")},
        **probes,
        "fine_tuned": heads,
        "wall_seconds": round(time.monotonic() - began, 1),
    }
    done.write_text(json.dumps(found) + "\n")
    print(f"seed {seed}: {found['wall_seconds']:.0f} s", flush=True)
    return found


def main(argv: Sequence[str] | None = None, size: Size | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, esc10 among them")
    parser.add_argument("--runs", type=Path, required=True, help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="only these, and no data file")
    parser.add_argument("--output", type=Path, default=HERE / "data" / "esc10_mixtures.json")
    given = parser.parse_args(argv)
    chosen = size or Size()
    found = [one_seed(given.data / "esc10", given.runs / f"esc10_mixtures-{s}", s, chosen) for s in given.seeds]
    if tuple(given.seeds) != SEEDS:
        return
    content = {
        "claim": "AudioSet's recipe learns to tell sounds that are heard at once",
        "paper": "mAP 34.5 on AudioSet, 527 classes (data2vec, table 3)",
        "headline": [
            {
                "system": "esc10",
                "better": "AudioSet's recipe/student/mAP",
                "worse": "AudioSet's recipe/untrained/mAP",
            }
        ],
        "command": "python docs/results/esc10_mixtures.py --data DATA --runs RUNS",
        "commit": source_commit(),
        "hardware": hardware() | {"threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in ("torch", "transformers", "datasets", "scikit-learn")},
        "wall_seconds": round(sum(seed["wall_seconds"] for seed in found), 1),
        "systems": {
            "esc10": {"title": "data2vec 1, ESC-10 mixtures", "arms": {"AudioSet's recipe": {"seeds": found}}}
        },
    }
    given.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
