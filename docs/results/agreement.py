"""How measures of trials agree with their accuracy: for the claims `sweep` and `label_free`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from transformers import AutoModel, set_seed

from data2vec.pretraining import run
from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.evaluation.probe import batches_of, extract_features


RESAMPLES, SMALL_SWEEP = 5000, 8  # of the bootstrap; trials of a small sweep drawn from all
Features = tuple[Any, Any]  # of examples, and their labels


def trial_features(folder: Path, probe: Path, *, trained: bool = True) -> tuple[Features, Features]:
    """Of the frozen student of a trial, or of the untrained network: those to learn from, and those to test on."""
    asked = parse_arguments([str(folder / "recipe.yaml"), "--data.probe.path", str(probe)])
    opened = run.open_data(asked)
    if trained:
        encoder = AutoModel.from_pretrained(folder)
    else:
        set_seed(asked.training.seed)
        encoder = asked.model_class(asked.config).base_model
    splits = (opened.probe_train, opened.probe_test)
    train, test = (extract_features(encoder, batches_of(split, opened.probe_collator)) for split in splits)
    return train, test


def agreement(
    trials: Sequence[Mapping[str, Any]], accuracies: Sequence[float], untrained: float, ordered_by: Mapping[str, str]
) -> dict[str, Any]:
    """How each measure orders the trials and what it would have chosen, beside their accuracy on test examples.

    `spearman_of_better` is among the trials above the untrained network; `regret_of_small` is the mean over sweeps of
    `SMALL_SWEEP` trials drawn from all; `moves_with` the field that a measure follows most.

    Args:
        trials: `run`, `values` of the fields and `measures` of each.
        accuracies: of each, in %.
        ordered_by: measure -> `maximize` or `minimize`.
    """
    accuracy = np.array(accuracies)
    fields = {name: np.array([trial["values"][name] for trial in trials]) for name in trials[0]["values"]}
    rng = np.random.default_rng(0)
    resamples = rng.integers(len(trials), size=(RESAMPLES, len(trials)))
    small = np.argsort(rng.random((RESAMPLES, len(trials))), axis=1)[:, :SMALL_SWEEP]
    better = accuracy > untrained
    found = {}
    for name, way in ordered_by.items():
        measured = np.array([trial["measures"][name] for trial in trials])
        values = measured if way == "maximize" else -measured
        picked = int(values.argmax())
        again = [spearman(values[rows], accuracy[rows]) for rows in resamples]
        of_small = accuracy[small[np.arange(len(small)), values[small].argmax(1)]]
        moves_with = {field: spearman(measured, drawn) for field, drawn in fields.items()}
        strongest = max(moves_with, key=lambda field: abs(moves_with[field]))
        found[name] = {
            "spearman": round(spearman(values, accuracy), 3),
            "interval": [round(float(bound), 3) for bound in np.percentile(again, (2.5, 97.5))],
            "spearman_of_better": round(spearman(values[better], accuracy[better]), 3),
            "picks": trials[picked]["run"],
            "accuracy": float(accuracy[picked]),
            "regret": round(float(accuracy.max() - accuracy[picked]), 3),
            "regret_of_small": round(float((accuracy[small].max(1) - of_small).mean()), 3),
            "moves_with": {strongest: round(moves_with[strongest], 3)},
        }
    chance = (accuracy[small].max(1) - accuracy[small].mean(1)).mean()
    return {
        "finished": len(trials),
        "better_than_untrained": int(better.sum()),
        "accuracy": {"best": float(accuracy.max()), "median": float(np.median(accuracy))},
        "regret_of_small_by_chance": round(float(chance), 3),
        "fields": {name: round(spearman(drawn, accuracy), 3) for name, drawn in fields.items()},
        "agreement": found,
    }


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """NaN-free: 0 where one of them is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
