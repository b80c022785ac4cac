"""The claim `sweep` of reproduce.py: does a choice without labels agree with one by labels?

Runs the sweep of systems/sweep_vision.yaml (K, beta, mask ratio, tau, learning rate, drawn at random), probes every
trial on test images that chose nothing, and compares what each of the logged measures would have chosen.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from agreement import SMALL_SWEEP, agreement, trial_features
from comparisons import Comparison
from experiment import HERE, once, wall_seconds
from matplotlib.figure import Figure
from measure import accuracies
from prepare import PREPARE

from data2vec.pretraining.evaluation.label_free import rankme
from data2vec.pretraining.sweep import command as sweep


CLAIM = "A choice without labels agrees with one by labels"
PAPER = "not in the data2vec papers; RankMe (2210.02885): close to the choice by labels"
DATASET = "fashion_mnist"
ACCURACIES = ("linear", "knn", "few")  # of the frozen student on test images, in %
JUDGED_BY = "knn"
TEST_IMAGES = 2000
# measure -> which way is better; the first has labels, of images that are none of the test's
MEASURES = {
    "probe/knn_student": "maximize",
    "probe/knn_teacher": "maximize",
    "feature_rank_student": "maximize",
    "feature_rank_teacher": "maximize",
    "rankme_student": "maximize",
    "effective_rank": "maximize",
    "position_std": "maximize",
    "target_std": "maximize",
    "prediction_std": "maximize",
    "loss": "minimize",
}
DRAWN = ("probe/knn_student", "feature_rank_student", "rankme_student", "effective_rank", "prediction_std", "loss")


def evaluate(data: Path, runs: Path) -> dict[str, Any]:
    """Everything that data/sweep.json holds."""
    prepared = PREPARE[DATASET](data, runs / "data" / DATASET)
    folder = runs / "sweep_vision"
    fields = {
        "data.sources": json.dumps([{"path": prepared.source}]),
        "data.probe.path": str(prepared.probes / "online"),
        "data.probe.validation_split": "test",  # of the training examples, as all of that probe
        "output_dir": str(folder),
    }
    words = (word for name, value in fields.items() for word in (f"--{name}", value))
    if code := sweep.main([str(HERE / "systems" / "sweep_vision.yaml"), *words]):
        raise SystemExit(code)
    trials = trials_of(folder, prepared.probes)
    finished = [trial for trial in trials if trial["state"] == "finished"]
    untrained = measured(folder / finished[0]["run"], prepared.probes, trained=False)
    accuracies_found = [trial["test"][JUDGED_BY] for trial in finished]
    results = agreement(finished, accuracies_found, untrained[JUDGED_BY], MEASURES)
    return {
        "claim": CLAIM,
        "paper": PAPER,
        "judged_by": f"k-NN on the frozen student, {TEST_IMAGES} test images, in %",
        "untrained": {name: untrained[name] for name in ACCURACIES},
        "wall_seconds": round(untrained["seconds"] + sum(trial["wall_seconds"] for trial in finished), 1),
        **results,
        "trials": trials,
    }


def measured(folder: Path, probes: Path, *, trained: bool = True) -> dict[str, float]:
    """Accuracies of a trial's frozen student on the test images, and RankMe."""

    def measure() -> dict[str, float]:
        train, test = trial_features(folder, probes / "test", trained=trained)
        return {**accuracies(*train, *test, labels_per_class=10), "rankme_student": rankme(train[0])}

    return once(folder / ("test.json" if trained else "test_untrained.json"), measure)


def trials_of(folder: Path, probes: Path) -> list[dict[str, Any]]:
    """Finished trials: their fields, their measures as last logged, and their test accuracies."""
    found = []
    for trial in json.loads((folder / sweep.RESULTS).read_text())["trials"]:
        if trial["state"] != "finished":
            found.append({name: trial[name] for name in ("run", "state", "message", "values")})
            continue
        test = measured(folder / trial["run"], probes)
        measures = trial["measures"] | {"rankme_student": test["rankme_student"]}
        found.append({
            "run": trial["run"],
            "state": trial["state"],
            "values": trial["values"],
            "measures": {name: round(measures[name], 5) for name in MEASURES},
            "test": {name: test[name] for name in ACCURACIES},
            "wall_seconds": round(wall_seconds(folder / trial["run"]) + test["seconds"], 1),
        })  # fmt: skip
    return found


def compared(results: dict[str, Any]) -> list[Comparison]:
    """A choice agrees if its orders do and its pick is as good.

    That is: the interval of Spearman's correlation is above 0, and the pick within two standard errors of the best.
    """
    best = results["accuracy"]["best"] / 100
    margin = 200 * (best * (1 - best) / TEST_IMAGES) ** 0.5
    rows = []
    for name in ("feature_rank_student", "effective_rank", "loss"):
        row = results["agreement"][name]
        said = f"{name}: picks {row['accuracy']:.1f} of at best {100 * best:.1f}"
        agrees = "yes" if row["interval"][0] > 0 and row["regret"] <= margin else "no"
        rows.append(Comparison(said, agrees, (row["spearman"], *row["interval"]), unit="rank correlation"))
    return rows


def table(found: dict[str, Any]) -> str:
    """Markdown: what each measure would have chosen."""
    lines = [
        f"| measure | Spearman, {found['finished']} trials | of the {found['better_than_untrained']} better than "
        f"untrained | its pick, k-NN | below the best | below the best of {SMALL_SWEEP} |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, row in found["agreement"].items():
        low, high = row["interval"]
        title = f"`{name}`, with labels" if name.startswith("probe/") else f"`{name}`"
        lines.append(
            f"| {title} | {row['spearman']:.2f} ({low:.2f} to {high:.2f}) | {row['spearman_of_better']:.2f} "
            f"| {row['accuracy']:.1f} | {row['regret']:.1f} | {row['regret_of_small']:.1f} |"
        )
    best, median = found["accuracy"]["best"], found["accuracy"]["median"]
    chance = found["regret_of_small_by_chance"]
    lines.append(f"| any trial | | | {median:.1f} (median) | {best - median:.1f} | {chance:.1f} |")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Each measure against test accuracy, a dot a trial; red: what it picks; dashed: untrained."""
    trials = [trial for trial in found["trials"] if trial["state"] == "finished"]
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    rate = np.log10([trial["values"]["training.learning_rate"] for trial in trials])
    accuracy = [trial["test"][JUDGED_BY] for trial in trials]
    for axes, name in zip(figure.subplots(2, 3, sharey=True).flat, DRAWN, strict=True):
        row, values = found["agreement"][name], [trial["measures"][name] for trial in trials]
        points = axes.scatter(values, accuracy, c=rate, cmap="viridis", s=26)
        picked = next(i for i, trial in enumerate(trials) if trial["run"] == row["picks"])
        axes.scatter(values[picked], accuracy[picked], s=110, facecolors="none", edgecolors="#d1495b")
        axes.axhline(found["untrained"][JUDGED_BY], color="#9a9a9a", linewidth=0.8, linestyle="--")
        low, high = row["interval"]
        axes.set_title(f"Spearman {row['spearman']:.2f} ({low:.2f} to {high:.2f})", fontsize=9, loc="left")
        axes.set_xlabel(name + (" (labels)" if name.startswith("probe/") else ""), fontsize=9)
        axes.grid(alpha=0.3)
    for axes in figure.axes[::3]:
        axes.set_ylabel("test accuracy, k-NN, %", fontsize=9)
    figure.colorbar(points, ax=figure.axes, label="log10 of the learning rate", shrink=0.7)
    title = f"{len(trials)} trials: a measure against test accuracy; red: what it picks; dashed: untrained"
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
