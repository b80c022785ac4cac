"""Does a choice without labels agree with one by labels? `python docs/results/sweep.py DATA RUNS`.

Runs the sweep of systems/sweep_vision.yaml (K, beta, mask ratio, tau, learning rate, drawn at random), probes every
trial on test images that chose nothing, and compares what each of the logged measures would have chosen. Writes
data/sweep.json, pictures/sweep.png and the table of README.md between `<!-- the sweep -->` and `<!-- end -->`. What
is done is not repeated; `--trials N` stops after N trials.

DATA is the folder of the data sets, RUNS where the runs go.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from experiment import wall_seconds
from matplotlib.figure import Figure
from prepare import PREPARE
from scipy.stats import rankdata
from transformers import AutoModel, set_seed

from data2vec.pretraining import run
from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.evaluation.probe import (
    batches_of,
    extract_features,
    few_label_accuracy,
    knn_accuracy,
    linear_probe,
)
from data2vec.pretraining.sweep import command as sweep


HERE = Path(__file__).parent
RECIPE, DATASET = HERE / "systems" / "sweep_vision.yaml", "fashion_mnist"
ACCURACIES = ("linear", "knn", "few")  # of the frozen student on test images, in %
JUDGED_BY = "knn"
LABELS_PER_CLASS, DRAWS = 10, 10
# measure -> 1 where more is better, -1 where less is; the first has labels, of images that are none of the test's
MEASURES = {
    "probe/knn_student": 1,
    "probe/knn_teacher": 1,
    "feature_rank_student": 1,
    "feature_rank_teacher": 1,
    "rankme_student": 1,
    "effective_rank": 1,
    "position_std": 1,
    "target_std": 1,
    "prediction_std": 1,
    "loss": -1,
}
DRAWN = ("probe/knn_student", "feature_rank_student", "rankme_student", "effective_rank", "prediction_std", "loss")
COMMAND = "python docs/results/sweep.py DATA RUNS"
RESAMPLES, SMALL_SWEEP = 5000, 8  # of the bootstrap; trials of a small sweep drawn from all


def sweep_words(data: Path, runs: Path) -> list[str]:
    """The sweep's recipe and fields, as its command takes them."""
    prepared = PREPARE[DATASET](data, runs / "data" / DATASET)
    sources = json.dumps([{"path": prepared.source}])
    words = {"data.sources": sources, "data.probe.path": str(prepared.probes / "online")}
    words["output_dir"] = str(runs / "sweep_vision")
    return [str(RECIPE), *(word for name, value in words.items() for word in (f"--{name}", value))]


def measured(folder: Path, probes: Path, *, trained: bool = True) -> dict[str, float]:
    """Accuracies of a trial's frozen student on the test images, and RankMe; measured once and kept."""
    kept = folder / ("test.json" if trained else "test_untrained.json")
    if not kept.is_file():
        began = time.monotonic()
        asked = parse_arguments([str(folder / "recipe.yaml"), "--data.probe.path", str(probes / "test")])
        opened = run.open_data(asked)
        if trained:
            encoder = AutoModel.from_pretrained(folder)
        else:
            set_seed(asked.training.seed)
            encoder = asked.model_class(asked.config).base_model
        train_x, train_y, test_x, test_y = (
            values
            for split in (opened.probe_train, opened.probe_test)
            for values in extract_features(encoder, batches_of(split, opened.probe_collator))
        )
        few = few_label_accuracy(train_x, train_y, test_x, test_y, LABELS_PER_CLASS, DRAWS)
        found = {
            "linear": 100 * linear_probe(train_x, train_y, test_x, test_y).accuracy,
            "knn": 100 * knn_accuracy(train_x, train_y, test_x, test_y),
            "few": 100 * few.mean,
            "rankme_student": rankme(train_x),
        }
        found["seconds"] = time.monotonic() - began
        kept.write_text(json.dumps({name: round(value, 3) for name, value in found.items()}) + "\n")
    return json.loads(kept.read_text())


def rankme(features: np.ndarray) -> float:
    """exp(entropy of the singular values), of features that are not centred: as published, arXiv 2210.02885."""
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def trials_of(runs: Path) -> list[dict[str, Any]]:
    """Finished trials: their fields, their measures as last logged, and their test accuracies."""
    folder = runs / "sweep_vision"
    found = []
    for trial in json.loads((folder / sweep.RESULTS).read_text())["trials"]:
        if trial["state"] != "finished":
            found.append({name: trial[name] for name in ("run", "state", "message", "values")})
            continue
        test = measured(folder / trial["run"], runs / "data" / DATASET)
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


def agreement(trials: list[dict[str, Any]], untrained: float) -> dict[str, Any]:
    """How each measure orders the trials and what it would have chosen, beside their accuracy on test images.

    `spearman_of_better` is among the trials above the untrained network; `regret_of_small` is the mean over sweeps of
    `SMALL_SWEEP` trials drawn from all.
    """
    accuracy = np.array([trial["test"][JUDGED_BY] for trial in trials])
    fields = {name: np.array([trial["values"][name] for trial in trials]) for name in trials[0]["values"]}
    rng = np.random.default_rng(0)
    resamples = rng.integers(len(trials), size=(RESAMPLES, len(trials)))
    small = np.argsort(rng.random((RESAMPLES, len(trials))), axis=1)[:, :SMALL_SWEEP]
    found = {}
    for name, sign in MEASURES.items():
        values = sign * np.array([trial["measures"][name] for trial in trials])
        picked = int(values.argmax())
        again = [spearman(values[rows], accuracy[rows]) for rows in resamples]
        better = accuracy > untrained
        of_small = accuracy[small[np.arange(len(small)), values[small].argmax(1)]]
        moves_with = {field: spearman(values * sign, drawn) for field, drawn in fields.items()}
        strongest = max(moves_with, key=lambda field: abs(moves_with[field]))
        found[name] = {
            "spearman": round(spearman(values, accuracy), 3),
            "interval": [round(float(bound), 3) for bound in np.percentile(again, (2.5, 97.5))],
            **{
                f"spearman_{other}": round(spearman(values, np.array([t["test"][other] for t in trials])), 3)
                for other in ACCURACIES
                if other != JUDGED_BY
            },
            "spearman_of_better": round(spearman(values[better], accuracy[better]), 3),
            "picks": trials[picked]["run"],
            "accuracy": float(accuracy[picked]),
            "regret": round(float(accuracy.max() - accuracy[picked]), 3),
            "rank_of_pick": int(len(trials) + 1 - rankdata(accuracy, "max")[picked]),
            "regret_of_small": round(float((accuracy[small].max(1) - of_small).mean()), 3),
            "moves_with": {strongest: round(moves_with[strongest], 3)},
        }
    chance = (accuracy[small].max(1) - accuracy[small].mean(1)).mean()
    return {
        "finished": len(trials),
        "better_than_untrained": int((accuracy > untrained).sum()),
        "best": trials[int(accuracy.argmax())]["run"],
        "accuracy": {
            "best": float(accuracy.max()), "median": float(np.median(accuracy)), "worst": float(accuracy.min()),
        },
        "regret_of_small_by_chance": round(float(chance), 3),
        "fields": {name: round(spearman(drawn, accuracy), 3) for name, drawn in fields.items()},
        "measures": found,
    }  # fmt: skip


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """NaN-free: 0 where one of them is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def row_of(results: dict[str, Any]) -> dict[str, str]:
    """The cells of the table that opens README.md. A choice agrees if its orders do and its pick is as good.

    That is: the interval of Spearman's correlation is above 0, and the pick within two standard errors of the best.
    """
    best, images = results["accuracy"]["best"] / 100, 2000
    margin = 200 * (best * (1 - best) / images) ** 0.5
    here, holds = [], []
    for name in ("feature_rank_student", "effective_rank", "loss"):
        row = results["measures"][name]
        agrees = row["interval"][0] > 0 and row["regret"] <= margin
        here.append(f"{name}: Spearman {row['spearman']:.2f}, picks {row['accuracy']:.1f} of at best {100 * best:.1f}")
        holds.append("yes" if agrees else "no")
    return {
        "claim": "A choice without labels agrees with one by labels",
        "paper": "not in the data2vec papers; RankMe (2210.02885): close to the choice by labels",
        "here": "<br>".join(here),
        "holds": "<br>".join(holds),
        "command": COMMAND,
    }


def write_table(page: Path, results: dict[str, Any]) -> None:
    """What each measure would have chosen, into the page."""
    lines = [
        f"| measure | Spearman, {results['finished']} trials | of the {results['better_than_untrained']} better than "
        f"untrained | its pick, k-NN | below the best | below the best of {SMALL_SWEEP} |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, row in results["measures"].items():
        low, high = row["interval"]
        title = f"`{name}`, with labels" if name.startswith("probe/") else f"`{name}`"
        lines.append(
            f"| {title} | {row['spearman']:.2f} ({low:.2f} to {high:.2f}) | {row['spearman_of_better']:.2f} "
            f"| {row['accuracy']:.1f} | {row['regret']:.1f} | {row['regret_of_small']:.1f} |"
        )
    median = results["accuracy"]["best"] - results["accuracy"]["median"]
    lines.append(
        f"| any trial | | | {results['accuracy']['median']:.1f} (median) | {median:.1f} "
        f"| {results['regret_of_small_by_chance']:.1f} |"
    )
    block = re.compile(r"(<!-- the sweep -->\n).*?(<!-- end -->)", re.DOTALL)
    text = page.read_text(encoding="utf-8")
    page.write_text(block.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text), encoding="utf-8")


def draw(trials: list[dict[str, Any]], results: dict[str, Any], untrained: float) -> None:
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    rate = np.log10([trial["values"]["training.learning_rate"] for trial in trials])
    for axes, name in zip(figure.subplots(2, 3, sharey=True).flat, DRAWN, strict=True):
        values = [trial["measures"][name] for trial in trials]
        accuracy = [trial["test"][JUDGED_BY] for trial in trials]
        points = axes.scatter(values, accuracy, c=rate, cmap="viridis", s=26)
        row = results["measures"][name]
        picked = next(trial for trial in trials if trial["run"] == row["picks"])
        axes.scatter(
            picked["measures"][name], picked["test"][JUDGED_BY], s=110, facecolors="none", edgecolors="#d1495b"
        )
        axes.axhline(untrained, color="#9a9a9a", linewidth=0.8, linestyle="--")
        low, high = row["interval"]
        axes.set_title(f"Spearman {row['spearman']:.2f} ({low:.2f} to {high:.2f})", fontsize=9, loc="left")
        axes.set_xlabel(name + (" (labels)" if name.startswith("probe/") else ""), fontsize=9)
        axes.grid(alpha=0.3)
    for axes in figure.axes[::3]:
        axes.set_ylabel("test accuracy, k-NN, %", fontsize=9)
    figure.colorbar(points, ax=figure.axes, label="log10 of the learning rate", shrink=0.7)
    figure.suptitle(
        f"{len(trials)} trials: a measure against test accuracy; red: what it picks; dashed: untrained", fontsize=10
    )
    (HERE / "pictures").mkdir(exist_ok=True)
    figure.savefig(HERE / "pictures" / "sweep.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the data sets")
    parser.add_argument("runs", type=Path, metavar="RUNS", help="where the runs go")
    parser.add_argument("--trials", type=int, help="stop after so many trials")
    given = parser.parse_args()
    words = sweep_words(given.data, given.runs)
    code = sweep.main([*words, *(["--trials", str(given.trials)] if given.trials else [])])
    if code:
        raise SystemExit(code)
    trials = trials_of(given.runs)
    finished = [trial for trial in trials if trial["state"] == "finished"]
    untrained = measured(
        given.runs / "sweep_vision" / finished[0]["run"], given.runs / "data" / DATASET, trained=False
    )
    results = agreement(finished, untrained[JUDGED_BY])
    written = {
        "row": row_of(results),
        "judged_by": "k-NN on the frozen student, 2000 test images, in %",
        "untrained": {name: untrained[name] for name in ACCURACIES},
        "wall_seconds": round(untrained["seconds"] + sum(trial["wall_seconds"] for trial in finished), 1),
        **{"agreement" if name == "measures" else name: value for name, value in results.items()},
        "trials": trials,
    }
    (HERE / "data").mkdir(exist_ok=True)
    (HERE / "data" / "sweep.json").write_text(json.dumps(written, indent=1) + "\n")
    draw(finished, results, untrained[JUDGED_BY])
    write_table(HERE / "README.md", results)
    print(f"untrained {untrained[JUDGED_BY]:.1f}; trials: {results['accuracy']}, best {results['best']}")
    for name, row in results["measures"].items():
        low, high = row["interval"]
        print(
            f"{name}: Spearman {row['spearman']:.2f} ({low:.2f} to {high:.2f}), picks {row['picks']} with "
            f"{row['accuracy']:.1f}, regret {row['regret']:.1f}, of {SMALL_SWEEP} trials {row['regret_of_small']:.2f} "
            f"(by chance {results['regret_of_small_by_chance']:.2f}), moves with {row['moves_with']}"
        )


if __name__ == "__main__":
    main()
