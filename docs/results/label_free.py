"""The claim `label_free` of reproduce.py: does a choice without labels agree with one by labels, and by which measure?

Runs the sweeps of systems/label_free_vision.yaml and label_free_audio.yaml (K, beta, the hidden share and tau, drawn
at random), probes every trial on test examples that chose nothing, and compares what each measure would have chosen.
"""

import json
from pathlib import Path
from typing import Any

from agreement import SMALL_SWEEP, agreement, trial_features
from comparisons import Comparison
from experiment import HERE, once, wall_seconds
from matplotlib.figure import Figure
from prepare import PREPARE

from data2vec.pretraining.evaluation.probe import knn_accuracy
from data2vec.pretraining.sweep import command as sweep
from data2vec.pretraining.sweep.arguments import MEASURES


CLAIM = "Among settings that all suit the recipe, a choice without labels agrees with one by labels"
PAPER = (
    "not in the data2vec papers; RankMe (2210.02885), alpha-ReQ (NeurIPS 2022) and LiDAR (2312.04000): close to the "
    "choice by labels"
)
MODALITIES = {"vision": "fashion_mnist", "audio": "spoken_digits"}  # a recipe label_free_..., and its data
WITH_LABELS = "knn_validation"  # k-NN on the frozen student, of examples none of which is the test's
ORDERED_BY = {WITH_LABELS: "maximize"} | {
    name: way for name, way in MEASURES.items() if name != "eval_loss" and not name.startswith("probe/")
}
COMPARED = ("feature_rank_student", "rankme_student", "alpha_req_student", "lidar", "effective_rank", "loss")
DRAWN = (WITH_LABELS, "feature_rank_student", "alpha_req_student", "lidar")


def evaluate(data: Path, runs: Path) -> dict[str, Any]:
    """Everything that data/label_free.json holds."""
    found = {name: one_modality(name, data, runs) for name in MODALITIES}
    return {
        "claim": CLAIM,
        "paper": PAPER,
        "judged_by": "k-NN on the frozen student, test examples, in %",
        "wall_seconds": round(sum(part["wall_seconds"] for part in found.values()), 1),
        "trusted": trusted(found),
        "modalities": found,
    }


def one_modality(name: str, data: Path, runs: Path) -> dict[str, Any]:
    """The sweep of a modality, what its trials know, and how the measures agree with that."""
    prepared = PREPARE[MODALITIES[name]](data, runs / "data" / MODALITIES[name])
    folder = runs / f"label_free_{name}"
    fields = {
        "data.sources": json.dumps([{"path": prepared.source}]),
        "data.probe.path": str(prepared.probes / "test"),
        "output_dir": str(folder),
    }
    words = (word for field, value in fields.items() for word in (f"--{field}", value))
    if code := sweep.main([str(HERE / "systems" / f"label_free_{name}.yaml"), *words]):
        raise SystemExit(code)
    own, *trials = trials_of(folder, prepared.probes)
    finished = [trial for trial in trials if trial["state"] == "finished"]
    untrained = measured(folder / own["run"], prepared.probes / "test", trained=False)
    return {
        "data": MODALITIES[name],
        "test_examples": untrained["test_examples"],
        "untrained": untrained["accuracy"],
        "recipe": own,
        "wall_seconds": round(untrained["seconds"] + sum(trial["wall_seconds"] for trial in [own, *finished]), 1),
        **agreement(finished, [trial["accuracy"] for trial in finished], untrained["accuracy"], ORDERED_BY),
        "trials": trials,
    }


def measured(folder: Path, probe: Path, *, trained: bool = True) -> dict[str, float]:
    """k-NN on a trial's frozen student, accuracy in % on the test examples of a probe."""

    def measure() -> dict[str, float]:
        train, test = trial_features(folder, probe, trained=trained)
        return {"accuracy": round(100 * knn_accuracy(*train, *test), 3), "test_examples": len(test[1])}

    return once(folder / f"{probe.name}{'' if trained else '_untrained'}.json", measure)


def trials_of(folder: Path, probes: Path) -> list[dict[str, Any]]:
    """Finished trials: their fields, their measures as last logged, and their test accuracies."""
    found = []
    for trial in json.loads((folder / sweep.RESULTS).read_text())["trials"]:
        if trial["state"] != "finished":
            found.append({name: trial[name] for name in ("run", "state", "message", "values")})
            continue
        validation, test = (measured(folder / trial["run"], probes / name) for name in ("online", "test"))
        measures = trial["measures"] | {WITH_LABELS: validation["accuracy"]}
        found.append({
            "run": trial["run"],
            "state": trial["state"],
            "values": trial["values"],
            "measures": {name: round(measures[name], 5) for name in ORDERED_BY},
            "accuracy": test["accuracy"],
            "wall_seconds": round(wall_seconds(folder / trial["run"]) + validation["seconds"] + test["seconds"], 1),
        })  # fmt: skip
    return found


def trusted(modalities: dict[str, Any]) -> str | None:
    """The measure without labels whose order agrees in every modality, its interval above 0, and most in the worse."""
    rows = {name: [part["agreement"][name] for part in modalities.values()] for name in ORDERED_BY}
    agree = {
        name: min(row["spearman"] for row in of_name)
        for name, of_name in rows.items()
        if name != WITH_LABELS and all(row["interval"][0] > 0 for row in of_name)
    }
    return max(agree, key=agree.__getitem__, default=None)


def compared(results: dict[str, Any]) -> list[Comparison]:
    """A choice agrees if its orders do and its pick is as good.

    That is: the interval of Spearman's correlation is above 0, and the pick within two standard errors of the best.
    """
    rows = []
    for modality, part in results["modalities"].items():
        best = part["accuracy"]["best"] / 100
        margin = 200 * (best * (1 - best) / part["test_examples"]) ** 0.5
        for name in COMPARED:
            row = part["agreement"][name]
            said = f"{modality}, {name}: picks {row['accuracy']:.1f} of at best {100 * best:.1f}"
            agrees = "yes" if row["interval"][0] > 0 and row["regret"] <= margin else "no"
            rows.append(Comparison(said, agrees, (row["spearman"], *row["interval"]), unit="rank correlation"))
    return rows


def table(found: dict[str, Any]) -> str:
    """Markdown: what each measure would have chosen."""
    parts = found["modalities"]
    heads = [
        f"{name}: Spearman, {part['finished']} trials | of the {part['better_than_untrained']} better than untrained "
        f"| its pick, k-NN | below the best of {SMALL_SWEEP}"
        for name, part in parts.items()
    ]
    lines = [f"| measure | {' | '.join(heads)} |", "| --- |" + " --: |" * 4 * len(parts)]
    for name in ORDERED_BY:
        cells = []
        for part in parts.values():
            row = part["agreement"][name]
            low, high = row["interval"]
            cells.append(f"{row['spearman']:.2f} ({low:.2f} to {high:.2f}) | {row['spearman_of_better']:.2f}")
            cells.append(f"{row['accuracy']:.1f} | {row['regret_of_small']:.1f}")
        title = f"`{name}`, with labels" if name == WITH_LABELS else f"`{name}`"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for title, of in (
        ("the best trial", lambda part: f"{part['accuracy']['best']:.1f} | 0.0"),
        ("the recipe", lambda part: f"{part['recipe']['accuracy']:.1f} |"),
        (
            "any trial",
            lambda part: f"{part['accuracy']['median']:.1f} (median) | {part['regret_of_small_by_chance']:.1f}",
        ),
        ("untrained", lambda part: f"{part['untrained']:.1f} |"),
    ):
        lines.append(f"| {title} |" + " |".join(f" | | {of(part)}" for part in parts.values()) + " |")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Each measure against test accuracy, a dot a trial; red: what it picks; dashed: untrained; cross: the recipe."""
    parts = found["modalities"]
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for (modality, part), row_of_axes in zip(parts.items(), figure.subplots(len(parts), len(DRAWN)), strict=True):
        trials = [trial for trial in part["trials"] if trial["state"] == "finished"]
        accuracy = [trial["accuracy"] for trial in trials]
        shown = [trial["values"]["objective.top_k_layers"] for trial in trials]
        for axes, name in zip(row_of_axes, DRAWN, strict=True):
            row, values = part["agreement"][name], [trial["measures"][name] for trial in trials]
            points = axes.scatter(values, accuracy, c=shown, cmap="viridis", s=24)
            picked = next(i for i, trial in enumerate(trials) if trial["run"] == row["picks"])
            axes.scatter(values[picked], accuracy[picked], s=100, facecolors="none", edgecolors="#d1495b")
            own = part["recipe"]
            axes.scatter(own["measures"][name], own["accuracy"], marker="x", color="black", s=30)
            axes.axhline(part["untrained"], color="#9a9a9a", linewidth=0.8, linestyle="--")
            low, high = row["interval"]
            axes.set_title(f"Spearman {row['spearman']:.2f} ({low:.2f} to {high:.2f})", fontsize=9, loc="left")
            less = ", less is better" if ORDERED_BY[name] == "minimize" else ""
            axes.set_xlabel(name + (" (labels)" if name == WITH_LABELS else less), fontsize=9)
            axes.grid(alpha=0.3)
        row_of_axes[0].set_ylabel(f"{modality}: test accuracy, k-NN, %", fontsize=9)
    figure.colorbar(points, ax=figure.axes, label="K", shrink=0.7, ticks=[1, 2, 3, 4])
    figure.suptitle(
        "Trials: a measure against test accuracy; red: its pick; x: the recipe; dashed: untrained", fontsize=10
    )
    figure.savefig(path, dpi=110)
