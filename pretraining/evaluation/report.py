"""What did the run learn? Measured at its end, on labelled examples, and said in plain words, a table and a picture.

Every number of the pretrained encoder stands beside the same number of the same network untrained, and of raw features
that need no network at all. Nothing is said that was not measured: what is written is in `report.json`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from ..console.progress import progress
from ..data.arguments import CheckedArguments
from ..modalities.build import modality_of
from .fine_tuning import fine_tune_accuracy
from .panels import series
from .plots import draw_report, png_of
from .probe import (
    Collate,
    Example,
    Features,
    Score,
    batches_of,
    extract_features,
    few_label_accuracy,
    knn_accuracy,
    linear_probe,
    subset,
)
from .raw_features import raw_features
from .report_text import HEALTH, METRIC_NAMES, report_text


@dataclass(kw_only=True)
class ReportArguments(CheckedArguments):
    """The section `report` of a recipe: how a finished run is measured."""

    where: ClassVar[str] = "report"

    max_examples: int = field(default=2000, metadata={"help": "maximum of examples from each split of the probe"})
    neighbours: int = field(default=10, metadata={"help": "k of the k-NN"})
    layer: int | Literal["average"] | None = field(
        default=None,
        metadata={"help": "frozen features: a hidden state, average of all of them, or null for the encoder's output"},
    )
    labels_per_class: int = field(
        default=10, metadata={"help": "labels per class for the few-label probe and fine-tuning"}
    )
    draws: int = field(default=3, metadata={"help": "number of draws of those labels; spreads are over draws"})
    fine_tune_steps: int = field(default=100, metadata={"help": "optimizer steps of each fine-tuning run"})
    fine_tune_batch_size: int = field(default=32, metadata={"help": "batch size of fine-tuning"})
    fine_tune_learning_rates: list[float] = field(
        default_factory=lambda: [1e-3, 3e-3],
        metadata={
            "help": "learning rates, tried from the pretrained and from the initial weights; held-out training "
            "examples choose"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_examples", "neighbours", "labels_per_class", "fine_tune_steps"):
            self.require(getattr(self, name) >= 1, name, "use 1 or more")
        self.require(self.draws >= 2, "draws", "a spread over draws needs 2 or more")
        self.require(self.fine_tune_batch_size >= 2, "fine_tune_batch_size", "batch norm needs 2 or more")
        rates = self.fine_tune_learning_rates
        self.require(
            bool(rates) and min(rates) > 0, "fine_tune_learning_rates", "give at least one, all of them positive"
        )


def write_report(
    run_dir: Path,
    *,
    pretrained: PreTrainedModel,
    teacher: PreTrainedModel | None,
    untrained: PreTrainedModel,
    probe_train: Sequence[Example],
    probe_test: Sequence[Example],
    collate: Collate,
    log_history: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
    settings: ReportArguments,
    seed: int = 0,
    modality: str = "",
) -> dict[str, Any]:
    """Measure, print the report, and write `report.json`, `report.md` and `report.png` into the run folder.

    Args:
        run_dir: the run folder, whose top holds the encoder.
        modality: of a joint run, which is measured; its report goes into the folder of its name.
        pretrained, teacher, untrained: encoders; the last is the first with its initial weights. The student's device
            is used for all.
        probe_train, probe_test: labelled examples, as `collate` takes them (without masks).
        log_history: the `Trainer`'s logs, for the curves.
        class_names: in the order of the labels; the labels themselves by default.
        seed: of every draw.

    Returns:
        What `report.json` holds. Accuracies are from 0 to 1.

    Raises:
        ValueError: the probe has too few examples for the settings.
    """
    print("Measuring what was learned ...", flush=True)
    train, test = (subset(examples, settings.max_examples, seed) for examples in (probe_train, probe_test))
    encoders = {"student": pretrained, "teacher": teacher, "untrained": untrained}
    rows = {}
    for kind, encoder in progress(encoders.items(), title="probing", unit=" encoders"):
        if encoder is not None:
            nn.Module.to(encoder, pretrained.device)
            of_train, of_test = (
                extract_features(encoder, batches_of(split, collate), layer=settings.layer) for split in (train, test)
            )
            rows[kind] = {"name": NAMES[kind], **_probes((*of_train, *of_test), settings, seed)}
    labels = [np.array([int(example["labels"]) for example in examples]) for examples in (train, test)]
    for name, (train_x, test_x) in raw_features(modality_of(pretrained.config), train, test).items():
        rows[name] = {"name": name, **_probes((train_x, labels[0], test_x, labels[1]), settings, seed)}
    raw = [name for name in rows if name not in encoders]

    outputs = 1 + int(max(of_split.max() for of_split in labels))
    starts = {"student": pretrained, "untrained": untrained}
    for kind, encoder in progress(starts.items(), title="fine-tuning", unit=" encoders"):
        score = fine_tune_accuracy(
            encoder,
            train,
            test,
            collate,
            outputs,
            labels_per_class=settings.labels_per_class,
            steps=settings.fine_tune_steps,
            learning_rates=settings.fine_tune_learning_rates,
            draws=settings.draws,
            batch_size=settings.fine_tune_batch_size,
            seed=seed,
        )
        rows[kind]["fine_tuning"] = _over_draws(score) | {
            "learning_rate": score.learning_rate,
            "validation_accuracy": {str(rate): accuracy for rate, accuracy in score.validation_accuracies.items()},
            "validation_examples": score.validation_examples,
        }

    commonest = np.bincount(labels[0]).argmax()
    results = {
        "model_folder": str(run_dir),
        "modality": modality,
        "model_type": pretrained.config.model_type,
        "main_input_name": pretrained.main_input_name,
        "parameters": pretrained.num_parameters(),
        "seed": seed,
        "train_examples": len(train),
        "test_examples": len(test),
        "classes": len(np.unique(labels[0])),
        "class_names": list(class_names or map(str, np.unique(labels[0]))),
        "commonest_class": float((labels[1] == commonest).mean()),
        "settings": asdict(settings),
        "rows": rows,
        "raw": raw,
        "against_untrained": {
            metric: compare(rows["student"][metric], rows["untrained"][metric], len(test)) for metric in METRIC_NAMES
        },
        "against_raw": {metric: _against_best_raw(rows, raw, metric, len(test)) for metric in METRIC_NAMES},
        "health": _health(log_history),
    }
    text = report_text(results)
    run_dir = run_dir / modality
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "report.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (run_dir / "report.md").write_text(text, encoding="utf-8")
    (run_dir / "report.png").write_bytes(png_of(draw_report(results, log_history)))
    print(text)
    return results


NAMES = {"student": "pretrained student", "teacher": "pretrained teacher", "untrained": "same network, untrained"}


def compare(first: Mapping[str, Any], second: Mapping[str, Any], test_examples: int) -> dict[str, Any]:
    """How much better the first measurement is, and whether that is more than noise.

    The noise is twice the standard error of the difference: of two accuracies on so many test examples or, where it is
    larger, of the paired differences over draws of the labels.

    Returns:
        `gain` and `noise` (as accuracies), `verdict`: "better", "worse" or "unclear".
    """
    gain = first["accuracy"] - second["accuracy"]
    variance = sum(value["accuracy"] * (1 - value["accuracy"]) for value in (first, second))
    errors = [math.sqrt(variance / test_examples)]
    if "draws" in first and "draws" in second:
        differences = np.subtract(first["draws"], second["draws"])
        errors.append(float(differences.std(ddof=1)) / math.sqrt(len(differences)))
    noise = 2 * max(errors)
    verdict = "better" if gain > noise else "worse" if gain < -noise else "unclear"
    return {"gain": gain, "noise": noise, "verdict": verdict}


def _against_best_raw(rows: Mapping[str, Any], raw: Sequence[str], metric: str, test_examples: int) -> dict[str, Any]:
    # nothing to fine-tune in raw features: the same labels, a logistic regression
    of_raw = "few_labels" if metric == "fine_tuning" else metric
    best = max(raw, key=lambda name: rows[name][of_raw]["accuracy"])
    return {"raw": best, "raw_metric": of_raw, **compare(rows["student"][metric], rows[best][of_raw], test_examples)}


def _probes(data: tuple[Features, np.ndarray, Features, np.ndarray], settings: ReportArguments, seed: int) -> Any:
    """Scores of frozen features; `data` is train x, train y, test x, test y."""
    return {
        "linear_probe": {"accuracy": linear_probe(*data, seed=seed).accuracy},
        "knn": {"accuracy": knn_accuracy(*data, k=settings.neighbours)},
        "few_labels": _over_draws(few_label_accuracy(*data, settings.labels_per_class, settings.draws, seed)),
    }


def _over_draws(score: Score) -> dict[str, Any]:
    return {"accuracy": score.mean, "std": score.std, "draws": list(score.accuracies)}


def _health(log_history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """First and last logged value of what tells a healthy run, with their steps; what was not logged is left out."""
    health = {}
    for name in HEALTH:
        steps, values = series(log_history, name)
        if steps:
            ends = {"first_step": steps[0], "first": values[0], "last_step": steps[-1], "last": values[-1]}
            health[name] = ends
    return health
