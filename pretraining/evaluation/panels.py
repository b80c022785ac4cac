"""The curves of a run: which quantities of its log share a figure, and what a reader is told of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any


Log = Sequence[Mapping[str, Any]]  # the `Trainer`'s log_history
Curve = tuple[str, list[int], list[float]]  # label, steps, values


@dataclass(frozen=True)
class Panel:
    """Quantities of the log that share their axes."""

    title: str
    quantities: dict[str, str]  # log key -> what a reader calls it
    means: str  # in a sentence or two
    short: str = ""  # title before a quantity's name, where each has a figure of its own
    scale: float = 1.0
    from_zero: bool = False
    top: float | None = None  # no value can be above it
    begins: str | None = None  # quantities with such names are its too, under the rest of their names


PANELS = {
    "loss": Panel(
        "Loss",
        {"loss": "training", "eval_loss": "held-out"},
        "Falls, fast at first. A sudden drop to near 0 is a collapse, not success.",
        from_zero=True,
    ),
    "terms": Panel(
        "Terms of the loss",
        {},
        "Each as a mean, without its weight. The loss is their weighted sum: one may fall while another rises.",
        short="Term",
        from_zero=True,
        begins="loss_",
    ),
    "spread": Panel(
        "Spread of targets and predictions",
        {
            "target_std": "targets",
            "prediction_std": "predictions",
            "position_std": "targets, across samples",
            "utterance_target_std": "utterance targets",
            "utterance_prediction_std": "utterance predictions",
        },
        "Targets stay well above 0.1, and predictions rise towards them. If the spread across samples is much "
        "smaller than that of the targets, targets say where a token is, not what it is.",
        short="Spread",
        from_zero=True,
    ),
    "effective_rank": Panel(
        "Effective rank",
        {"effective_rank": "targets", "prediction_rank": "predictions", "embedding_rank": "embeddings"},
        "How many directions of the model's width are in use. Neither may fall towards 1; the predictions' falls at "
        "first, and rises again.",
        short="Rank",
        from_zero=True,
    ),
    "embedding": Panel(
        "What the local encoder makes of the input",
        {
            "embedding_share": "share that varies",
            "embedding_std": "spread",
            "embedding_position_std": "spread across samples",
        },
        "Before positions are added; in text, with them. If the share falls towards 0, every input is read alike, "
        "whatever the targets' spread.",
        short="Embeddings",
        from_zero=True,
    ),
    "probe": Panel(
        "Online probe, accuracy in %",
        {
            "probe/knn_student": "k-NN, student",
            "probe/knn_teacher": "k-NN, teacher",
            "probe/svm_student": "linear SVM, student",
            "probe/svm_teacher": "linear SVM, teacher",
        },
        "A classifier on frozen features of labelled examples. It rises. If it falls while the loss improves, the "
        "student has found a shortcut.",
        short="Probe, %",
        scale=100.0,
    ),
    "evaluation": Panel(
        "Evaluation, in %",
        {
            "eval_accuracy": "accuracy",
            "eval_f1": "F1",
            "eval_mAP": "mean average precision",
            "eval_wer": "word error rate",
            "eval_cer": "character error rate",
        },
        "Measured on the validation examples.",
        short="Evaluation, %",
        scale=100.0,
    ),
    "grad_norm": Panel(
        "Gradient norm before clipping",
        {"grad_norm": "norm"},
        "Short spikes are normal; a level that keeps rising ends in divergence.",
        from_zero=True,
    ),
    "learning_rate": Panel(
        "Learning rate", {"learning_rate": "rate"}, "Warm-up and decay, as the recipe says.", from_zero=True
    ),
    "ema_decay": Panel(
        "Decay of the teacher",
        {"ema_decay": "decay"},
        "The share of its weights that the teacher keeps at each update. It rises, then stays.",
        top=1.0,
    ),
    "throughput": Panel(
        "Throughput",
        {"samples_per_second": "samples per second"},
        "All devices together. A slow decline points to data loading.",
        from_zero=True,
    ),
    "masked_fraction": Panel(
        "Share of the input hidden, in %",
        {"masked_fraction": "hidden"},
        "What the student does not see. It stays as the recipe sets it.",
        scale=100.0,
        from_zero=True,
        top=100.0,
    ),
}


def series(log: Log, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a quantity where it was logged and finite."""
    logged = [
        (entry["step"], float(entry[name]))
        for entry in log
        if "step" in entry and isinstance(entry.get(name), int | float) and isfinite(entry[name])
    ]
    return [step for step, _ in logged], [value for _, value in logged]


def logged_panels(*logs: Log) -> dict[str, Panel]:
    """The panels of which one of the logs has a quantity."""
    found = {}
    for key, panel in PANELS.items():
        if panel.begins is not None:
            names = sorted({name for log in logs for entry in log for name in entry if name.startswith(panel.begins)})
            panel = replace(panel, quantities={name: name.removeprefix(panel.begins) for name in names})
        if any(series(log, name)[0] for name in panel.quantities for log in logs):
            found[key] = panel
    return found


def curves_of(log: Log, panel: Panel) -> list[Curve]:
    return [(label, *series(log, name)) for name, label in panel.quantities.items()]
