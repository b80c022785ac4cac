"""data2vec 1, and 2.0 with one view and with several, at equal wall-clock: `python compare_arms.py ARMS RUNS DATASET`.

ARMS is a folder with the recipes v1.yaml, v2_one_view.yaml and v2.yaml; results.json and curves.png are written there.
The runs go to RUNS, one after the other, and a finished one is not repeated. Then the encoders are probed on the test
examples. Time is what the trainer logs as training_seconds; pin the process to one idle core (`taskset -c 1`) and set
OMP_NUM_THREADS=1.

    vision   DATASET is a Hugging Face dataset, by folder or name, with the columns image and label
    speech   DATASET is one with a column audio, and --probe FOLDER what prepare_spoken_digits.py wrote

`--sweep RATE ...` instead tries learning rates, with another seed and half the updates, and prints their accuracies on
labelled examples that are none of the test's.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import yaml
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split
from transformers import AutoModel, set_seed

from data2vec.pretraining import run
from data2vec.pretraining.arguments import Run, parse_arguments
from data2vec.pretraining.data import PretrainingData
from data2vec.pretraining.probe import (
    batches_of,
    extract_features,
    few_label_accuracy,
    knn_accuracy,
    linear_probe_accuracy,
    teacher_encoder,
)
from data2vec.pretraining.raw_features import raw_features


ARMS = {
    "v1": ("data2vec 1", "#9a9a9a"),
    "v2_one_view": ("data2vec 2.0, one view", "#7fb2e5"),
    "v2": ("data2vec 2.0, several views", "#1f5fa8"),
}
ENCODERS = ("student", "teacher", "untrained")
SEEDS, SWEEP_SEED = (0, 1, 2), 100
DRAWS = 10  # of the few labels


# Data: every modality writes the probes `online`, `validation` and `test`, each a train.parquet and a test.parquet

VALIDATION, LABELLED = 2000, 2000  # training images that choose settings, and that the probes are fitted on
ONLINE = 1000  # of each, for the curves: the online probe should not take longer than the training
TEST = 2000

HELD_OUT = "nicolas"  # one of the speakers of the training part, who chooses settings
SPEECH_ONLINE, SPEECH_LABELLED = 400, 1000


def split_images(name: str, _: str | None, folder: Path) -> str:
    """Also cuts the validation images from those that are trained on, pretrain.parquet, which it returns."""
    source = folder / "pretrain.parquet"
    if source.is_file():
        return str(source)
    dataset = datasets.load_dataset(name)
    labels = np.asarray(dataset["train"]["label"][:])
    rows = np.arange(len(labels))
    train, validation = train_test_split(rows, test_size=VALIDATION, stratify=labels, random_state=0)
    labelled, _ = train_test_split(train, train_size=LABELLED, stratify=labels[train], random_state=0)
    few = [rows[np.arange(0, len(rows), len(rows) // ONLINE)] for rows in (labelled, validation)]
    parts = {
        "online/train": dataset["train"].select(np.sort(few[0])),
        "online/test": dataset["train"].select(np.sort(few[1])),
        "validation/train": dataset["train"].select(np.sort(labelled)),
        "validation/test": dataset["train"].select(np.sort(validation)),
        "test/train": dataset["train"].select(np.sort(few[0])),
        "test/test": dataset["test"].shuffle(seed=0).select(range(TEST)),
        "pretrain": dataset["train"].select(np.sort(train)),
    }
    write(parts, folder)
    return str(source)


def split_speech(name: str, probe: str | None, folder: Path) -> str:
    """The probes know other speakers than they are asked about; trained on is the dataset itself, which it returns."""
    if probe is None:
        raise SystemExit("Speech needs --probe FOLDER, as prepare_spoken_digits.py writes it.")
    if not (folder / "test" / "test.parquet").is_file():
        digits = datasets.load_dataset(probe)
        held_out = np.asarray(digits["train"]["speaker_id"][:]) == HELD_OUT
        others, validation = (digits["train"].select(np.flatnonzero(rows)) for rows in (~held_out, held_out))
        parts = {
            "online/train": drawn(others, SPEECH_ONLINE),
            "online/test": drawn(validation, SPEECH_ONLINE),
            "validation/train": drawn(others, SPEECH_LABELLED),
            "validation/test": validation,
            "test/train": drawn(digits["train"], SPEECH_LABELLED),
            "test/test": digits["test"],
        }
        write(parts, folder)
    return name


def drawn(clips: datasets.Dataset, number: int) -> datasets.Dataset:
    digits = np.asarray(clips["digit"][:])
    rows, _ = train_test_split(np.arange(len(digits)), train_size=number, stratify=digits, random_state=0)
    return clips.select(np.sort(rows))


def write(parts: dict[str, datasets.Dataset], folder: Path) -> None:
    for name, part in parts.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(path)


@dataclass(frozen=True)
class Modality:
    """What differs; `split` takes the dataset, the probe and a folder, and returns what to train on."""

    split: Callable[[str, str | None, Path], str]
    main_input: str
    labels_per_class: int
    title: str


MODALITIES = {
    "vision": Modality(split_images, "pixel_values", 5, "Fashion-MNIST, 196 patches"),
    "audio": Modality(split_speech, "input_values", 10, "LibriSpeech, probed on spoken digits"),
}


@dataclass(frozen=True)
class Comparison:
    arms: Path
    folder: Path
    source: str
    modality: Modality

    def recipe(self, arm: str) -> dict[str, Any]:
        return yaml.safe_load((self.arms / f"{arm}.yaml").read_text())

    def pretrain(self, arm: str, name: str, **training: Any) -> Path:
        """Run an arm's recipe with other training fields, unless that was done; returns its run folder."""
        recipe = self.recipe(arm)
        recipe["data"]["sources"] = [{"path": self.source}]
        recipe["data"].setdefault("probe", {})["path"] = str(self.folder / "data" / "online")
        recipe["training"] |= {"output_dir": str(self.folder / name), **training}
        steps = recipe["training"]["max_steps"]
        recipe["objective"]["ema_anneal_steps"] = steps // 2
        if recipe["training"]["seed"] != SEEDS[0]:
            recipe.pop("report", None)  # it takes longer than the run, and one is shown
        written = self.folder / f"{name}.yaml"
        written.write_text(yaml.safe_dump(recipe, sort_keys=False))
        if not (self.folder / name / "trainer_state.json").is_file():
            code = run.main([str(written)])
            if code:
                raise SystemExit(code)
        return self.folder / name

    def open_probe(self, name: str, probe: str) -> tuple[Run, PretrainingData]:
        path = str(self.folder / "data" / probe)
        asked = parse_arguments([str(self.folder / f"{name}.yaml"), "--probe.path", path])
        return asked, run.open_data(asked)

    def measure(self, name: str, probe: str, which: str = "student") -> dict[str, float]:
        """Frozen `student` or `teacher`, or the same network `untrained`, on a probe: accuracies in %."""
        asked, data = self.open_probe(name, probe)
        if which == "untrained":
            set_seed(asked.training.seed)
            encoder = asked.model_class(asked.config).base_model
        elif which == "teacher":
            encoder = teacher_encoder(asked.model_class.from_pretrained(self.folder / name / "pretraining"))
        else:
            encoder = AutoModel.from_pretrained(self.folder / name)
        sets = [extract_features(encoder, batches_of(split, data.probe_collator)) for split in probe_splits(data)]
        return self.accuracies(*sets[0], *sets[1])

    def accuracies(self, *sets: np.ndarray) -> dict[str, float]:
        """Linear probe, k-NN and a classifier on few labels, in %."""
        few = few_label_accuracy(*sets, self.modality.labels_per_class, DRAWS)
        found = {"linear": linear_probe_accuracy(*sets), "knn": knn_accuracy(*sets), "few": few.mean}
        return {metric: round(100 * value, 2) for metric, value in found.items()}

    def raw(self, name: str) -> dict[str, dict[str, float]]:
        _, data = self.open_probe(name, "test")
        splits = probe_splits(data)
        labels = [np.array([example["labels"] for example in split]) for split in splits]
        features = raw_features(self.modality.main_input, *splits)
        return {kind: self.accuracies(a, labels[0], b, labels[1]) for kind, (a, b) in features.items()}


def probe_splits(data: PretrainingData) -> list[list[Any]]:
    return [[split[i] for i in range(len(split))] for split in (data.probe_train, data.probe_test)]


def log_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def sweep(comparison: Comparison, rates: list[float]) -> None:
    for arm in ARMS:
        steps = comparison.recipe(arm)["training"]["max_steps"] // 2
        for rate in rates:
            name = f"sweep_{arm}_{rate:g}"
            fields = {"seed": SWEEP_SEED, "learning_rate": rate, "max_steps": steps, "probe_steps": 0}
            seconds = log_of(comparison.pretrain(arm, name, **fields))[-1]["training_seconds"]
            print(name, f"{seconds:.0f} s", comparison.measure(name, "validation"), flush=True)


def draw(results: dict[str, Any], comparison: Comparison) -> None:
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for arm, (title, colour) in ARMS.items():
        seconds, knn = (np.array([seed[key] for seed in results[arm]["seeds"]]) for key in ("seconds", "knn_curve"))
        axes.plot(seconds.mean(0), knn.mean(0), "o-", color=colour, label=title, markersize=4)
        axes.fill_between(seconds.mean(0), knn.min(0), knn.max(0), color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="training time in s, one CPU thread", ylabel="k-NN on the frozen student, in %")
    axes.set_title(f"{comparison.modality.title}: mean and range of three seeds", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(comparison.arms / "curves.png", dpi=110)


def compare(comparison: Comparison) -> None:
    results: dict[str, Any] = {}
    for seed in SEEDS:  # arm by arm inside, so that a slow hour of the machine meets all
        for arm in ARMS:
            comparison.pretrain(arm, f"{arm}_{seed}", seed=seed)
    for arm in ARMS:
        runs = []
        for seed in SEEDS:
            name = f"{arm}_{seed}"
            log = log_of(comparison.folder / name)
            probes = [entry for entry in log if "probe/knn_student" in entry]
            runs.append({
                "seed": seed,
                "updates": log[-1]["step"],
                "seconds": [round(probe["training_seconds"], 1) for probe in probes],
                "knn_curve": [round(100 * probe["probe/knn_student"], 2) for probe in probes],
                "knn_curve_teacher": [round(100 * probe["probe/knn_teacher"], 2) for probe in probes],
                **{which: comparison.measure(name, "test", which) for which in ENCODERS},
            })  # fmt: skip
        results[arm] = {"seeds": runs}
        for row in ENCODERS:
            table = {metric: np.array([found[row][metric] for found in runs]) for metric in runs[0][row]}
            cells = [f"{metric} {v.mean():.1f} ({v.min():.1f} to {v.max():.1f})" for metric, v in table.items()]
            print(f"{ARMS[arm][0]}, {row}: {', '.join(cells)}; {runs[0]['seconds'][-1]:.0f} s", flush=True)
    for kind, found in comparison.raw(f"v2_{SEEDS[0]}").items():
        results[kind] = found
        print(f"{kind}: {found}")
    (comparison.arms / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, comparison)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", type=Path, help="folder of the three recipes")
    parser.add_argument("runs", type=Path, help="where the runs go")
    parser.add_argument("dataset", help="folder or name of what is trained on")
    parser.add_argument("--probe", help="folder of labelled examples, for speech")
    parser.add_argument("--sweep", type=float, nargs="+", metavar="RATE", help="learning rates to try")
    given = parser.parse_args()
    model_type = yaml.safe_load((given.arms / "v1.yaml").read_text())["model"]["model_type"]
    modality = MODALITIES[model_type.split("-")[-1]]
    source = modality.split(given.dataset, given.probe, given.runs / "data")
    comparison = Comparison(given.arms, given.runs, source, modality)
    sweep(comparison, given.sweep) if given.sweep else compare(comparison)


if __name__ == "__main__":
    main()
