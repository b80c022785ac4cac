"""The claim `guard` of reproduce.py: which logged number shows a collapse first, and how often is it wrong?

Short runs of the small systems, healthy ones and wrecks, each probed with labels. A signal is a logged number over its
first value, the highest of the last three logs; it alarms where that is below a limit. Limits are not chosen on what
they are tested on: those of the table are nine tenths of the lowest value of the healthy runs of seed 0. The trainer's
guard has limits of its own, and is judged on all runs. The rescued runs show what `training.on_collapse` does.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from comparisons import Comparison
from experiment import SYSTEMS, Experiment, once, wall_seconds
from matplotlib.figure import Figure
from measure import Data, percent

from data2vec.pretraining.evaluation.probe import batches_of, extract_features, knn_accuracy
from data2vec.pretraining.monitoring.callbacks import SHARES, CollapseGuard


CLAIM = "The guard sees every wreck and no healthy run, and going back to a lower rate rescues"
PAPER = "not there; fairseq's issue 5239: the local encoder had collapsed, loss and variances looked good"
SIGNALS = (
    *("effective_rank", "prediction_rank", "embedding_share", "embedding_rank"),
    *("target_std", "position_std", "prediction_std", "embedding_std", "embedding_position_std"),
)
SHOWN = ("effective_rank", "prediction_rank", "embedding_share", "embedding_rank")  # in the picture
PATIENCE, MARGIN = 3, 0.9
RATES = {"vision": 2e-3, "audio": 2e-3, "text": 5e-3}  # of the recipes
TOLERANCE = 2.0  # points of k-NN that a run must be below another to be worse: two standard errors
SHORT: dict[str, Any] = {"training.max_steps": 300, "training.logging_steps": 10}
BATCH = "training.per_device_train_batch_size"
OTHER: dict[str, dict[str, Any]] = {
    "vision": {BATCH: 8},
    "audio": {BATCH: 4, "objective.ema_anneal_steps": 300},
    "text": {BATCH: 24},
}
SLOW = {"objective.ema_decay": 0.999, "objective.ema_end_decay": 0.9999}
RATE_X_10: dict[str, Any] = {"training.learning_rate": 2e-2}
HEALTHY = (("as it is", (0, 1, 2)), ("half the rate", (1, 2)))
WRECKS: dict[str, dict[str, dict[str, Any]]] = {
    "vision_v1": {
        "tau 0": {"objective.ema_decay": 0.0, "objective.ema_end_decay": 0.0},
        "rate x 10": RATE_X_10,
        "rate x 10, slow teacher": RATE_X_10 | SLOW,
        "no norms": {"objective.target_layer_norm": None, "objective.target_norm": None},
        "local rate x 100": {"local_rate": 100},
    },
    "audio_v1": {"local rate x 30": {"local_rate": 30}},
    "audio_v2": {"local rate x 30": {"local_rate": 30}},
    "text_v1": {"local rate x 30": {"local_rate": 30}},
}
WRECK_SEEDS = (0, 1)
GUARDED = {"training.guard_patience": PATIENCE, "training.guard_start_step": 1, "training.save_steps": 100}
RESCUED = {"vision_v1": "rate x 10", "audio_v1": "local rate x 30"}
RESCUES = ("lower_rate", "restart_from_checkpoint")
VICREG = {"vicreg": [10.0, 0.4]}  # weights of variance and covariance, 25 to 1 as published
REGULARISED = {"as it is": {}} | {name: WRECKS["vision_v1"][name] for name in ("tau 0", "rate x 10")}
PARTS = ("healthy", "wreck", "rescued", "regularised")


def evaluate(data: Path, runs: Path, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Everything that data/guard.json holds."""
    found = [
        one_run(Experiment(system, fields, seed, data, runs), arm) | {"part": part}
        for part, system, arm, fields, seed in experiments()
        if part in parts
    ]
    seconds = sum(run.pop("wall_seconds") for run in found)
    return {"claim": CLAIM, "paper": PAPER, "wall_seconds": round(seconds, 1), "runs": found}


def experiments() -> Iterator[tuple[str, str, str, dict[str, Any], int]]:
    """Part, system, arm, its fields, seed."""
    systems = [f"{kind}_{family}" for family in ("v1", "v2") for kind in RATES]
    for arm, seeds in HEALTHY:
        for seed in seeds:
            for system in systems:
                rate = RATES[system.split("_")[0]] * (0.5 if arm == "half the rate" else 1)
                yield "healthy", system, arm, fields_of(system) | {"training.learning_rate": rate}, seed
    for seed in WRECK_SEEDS:
        for system, arms in WRECKS.items():
            for arm, fields in arms.items():
                yield "wreck", system, arm, fields_of(system) | fields, seed
    for seed in WRECK_SEEDS:
        for system, arm in RESCUED.items():
            for how in RESCUES:
                fields = fields_of(system) | WRECKS[system][arm] | GUARDED | {"training.on_collapse": how}
                yield "rescued", system, f"{arm}, {how}", fields, seed
    for seed in WRECK_SEEDS:
        for arm, fields in REGULARISED.items():
            yield "regularised", "vision_v1", f"{arm}, VICReg", fields_of("vision_v1") | fields | VICREG, seed


def fields_of(system: str) -> dict[str, Any]:
    return SHORT | OTHER[system.split("_")[0]]


def one_run(experiment: Experiment, arm: str) -> dict[str, Any]:
    """Of a run that its guard stopped for good, `knn` is None and nothing of its log is kept."""
    end = once(experiment.folder.with_name(f"{experiment.folder.name}-ended.json"), lambda: end_of(experiment))
    finished = end["state"] == "finished"
    found = {which: knn(experiment, which) for which in ("untrained", *["student"] * finished)}
    accuracy = found["student"]["knn"] if finished else None
    rows = [row for row in experiment.log() if "target_std" in row] if finished else []
    print(f"guard: {experiment.system}, {arm}, {experiment.seed}: {accuracy}", flush=True)
    return {
        "system": experiment.system,
        "arm": arm,
        "seed": experiment.seed,
        "knn": accuracy,
        "untrained": found["untrained"]["knn"],
        "rescues": end.get("rescues", 0),
        "stopped_at": None if finished else end["step"],
        "log": {name: [float(f"{row[name]:.4g}") for row in rows] for name in ("step", "loss", *SIGNALS)},
        "wall_seconds": wall_seconds(experiment.folder) + sum(took["seconds"] for took in found.values()),
    }


def end_of(experiment: Experiment) -> dict[str, Any]:
    """What the run folder says of the end. A run that is to be rescued may be stopped all the same."""
    try:
        experiment.pretrain()
    except SystemExit:
        if "training.on_collapse" not in experiment.fields:
            raise
    health = json.loads((experiment.folder / "health.json").read_text())
    return {name: health[name] for name in ("state", "step", "rescues") if name in health}


def knn(experiment: Experiment, which: str) -> dict[str, float]:
    """Accuracy of k-NN on the frozen features of the student, or of the untrained network, which all arms share."""
    of = replace(experiment, fields={}) if which == "untrained" else experiment

    def measure() -> dict[str, float]:
        labelled = Data(experiment)
        encoder, collate = labelled.encoder(which), labelled.data.probe_collator
        train, test = (extract_features(encoder, batches_of(x, collate)) for x in (labelled.train, labelled.test))
        return {"knn": percent(knn_accuracy(*train, *test))}

    return once(of.folder.with_name(f"{of.folder.name}-{which}-knn.json"), measure)


# ---- who is healthy, and who alarms ----


def split(found: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Healthy runs, not worse than untrained; and wrecks, worse than untrained and than as it is."""
    of = {part: [run for run in found["runs"] if run["part"] == part] for part in ("healthy", "wreck")}
    plain = {(run["system"], run["seed"]): run["knn"] for run in of["healthy"] if run["arm"] == "as it is"}
    judged = [*of["healthy"], *of["wreck"]]
    healthy = [run for run in judged if run["knn"] > run["untrained"] - TOLERANCE]
    least = {name: knn - TOLERANCE for name, knn in plain.items()}
    wrecks = [run for run in of["wreck"] if run not in healthy and run["knn"] < least[run["system"], run["seed"]]]
    return healthy, wrecks


def level(run: dict[str, Any], signal: str) -> list[float]:
    """The highest of the last three logs over the first one, for each log; the first ones have no level."""
    values = np.array(run["log"][signal]) / run["log"][signal][0]
    return [np.nan] * PATIENCE + [float(values[i - PATIENCE + 1 : i + 1].max()) for i in range(PATIENCE, len(values))]


def alarm(run: dict[str, Any], signal: str, limit: float) -> int | None:
    """The update at which a signal alarms."""
    found = [step for step, value in zip(run["log"]["step"], level(run, signal), strict=True) if value < limit]
    return int(found[0]) if found else None


def guard_alarms(run: dict[str, Any]) -> dict[str, int]:
    """The updates at which the trainer's guard says that a number is lost."""
    rows = [dict(zip(run["log"], values, strict=True)) for values in zip(*run["log"].values(), strict=True)]
    found: dict[str, int] = {}
    for count, row in enumerate(rows, start=1):
        for name in CollapseGuard().lost(rows[:count], PATIENCE, SHARES):
            found.setdefault(name, int(row["step"]))
    return found


def limit_of(healthy: list[dict[str, Any]], signal: str) -> float:
    """Nine tenths of the lowest level of the healthy runs of seed 0."""
    return MARGIN * min(float(np.nanmin(level(run, signal))) for run in healthy if run["seed"] == 0)


def compared(found: dict[str, Any]) -> list[Comparison]:
    """Does the trainer's guard see all wrecks, and no healthy run; and are the rescued runs better than the wrecks?"""
    healthy, wrecks = split(found)
    false, seen = (sum(bool(guard_alarms(run)) for run in runs) for runs in (healthy, wrecks))
    said = f"the guard alarms in {false} of {len(healthy)} healthy runs and in {seen} of {len(wrecks)} wrecks"
    share = seen / len(wrecks) - false / len(healthy)
    good = "yes" if false == 0 and seen == len(wrecks) else "no"
    rows = [Comparison(said, good, (share,), unit="share of wrecks seen, less false alarms,")]
    for how in RESCUES:
        pairs = [(run, wreck) for run, wreck in _rescued(found) if run["arm"].endswith(how)]
        gains = [(run["knn"] or wreck["knn"]) - wreck["knn"] for run, wreck in pairs]  # 0 where it was stopped
        saved = sum((run["knn"] or 0.0) > run["untrained"] for run, _ in pairs)
        said = f"{how}: {saved} of {len(pairs)} wrecks end above the untrained network"
        verdict = "yes" if saved == len(pairs) else "no" if not saved else "undecided"
        rows.append(Comparison(said, verdict, (float(np.mean(gains)),)))
    return rows


def _rescued(found: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Rescued runs, each with the wreck that it would have been."""
    wrecks = {(run["system"], run["arm"], run["seed"]): run for run in found["runs"] if run["part"] == "wreck"}
    for run in found["runs"]:
        if run["part"] == "rescued":
            yield run, wrecks[run["system"], run["arm"].rpartition(", ")[0], run["seed"]]


# ---- shown ----


def table(found: dict[str, Any]) -> str:
    """Markdown: signals by wrecks, the trainer's guard, and the rescued runs."""
    healthy, wrecks = split(found)
    tested = [run for run in healthy if run["seed"] != 0]
    names = list(dict.fromkeys((run["system"], run["arm"]) for run in wrecks))
    titles = [f"{SYSTEMS[system].title.split(', ')[1]}, {system[-2:]}: {arm}" for system, arm in names]
    lines = [
        "| updates until it alarms, by seed | limit | false alarms | " + " | ".join(titles) + " |",
        "| --- |" + " --: |" * (len(names) + 2),
    ]
    for signal in SIGNALS:
        limit = limit_of(healthy, signal)
        false = sum(alarm(run, signal, limit) is not None for run in tested)
        cells = [_steps(wrecks, name, lambda run, s=signal, at=limit: alarm(run, s, at)) for name in names]
        lines.append(f"| `{signal}` | {limit:.2f} | {false} of {len(tested)} | " + " | ".join(cells) + " |")
    false = sum(bool(guard_alarms(run)) for run in healthy)
    cells = [_steps(wrecks, name, lambda run: min(guard_alarms(run).values(), default=None)) for name in names]
    shares = ", ".join(f"{share:g}" for share in SHARES.values())
    lines.append(f"| the trainer's guard | {shares} | {false} of {len(healthy)} | " + " | ".join(cells) + " |")
    lines += ["", "| k-NN in % | untrained | the wreck | rescues | ends at |", "| --- | --: | --: | --: | --: |"]
    for run, wreck in _rescued(found):
        end = f"{run['knn']:.1f}" if run["knn"] is not None else f"stopped at {run['stopped_at']}"
        lines.append(
            f"| {SYSTEMS[run['system']].title}, {run['arm']}, seed {run['seed']} | {run['untrained']:.1f} "
            f"| {wreck['knn']:.1f} | {run['rescues']} | {end} |"
        )
    lines += ["", "| with VICReg, k-NN in % | untrained | without | with |", "| --- | --: | --: | --: |"]
    without = {(run["system"], run["arm"], run["seed"]): run["knn"] for run in found["runs"]}
    for run in found["runs"]:
        if run["part"] == "regularised":
            arm = run["arm"].removesuffix(", VICReg")
            plain = without[run["system"], arm, run["seed"]]
            title = f"{SYSTEMS[run['system']].title}, {arm}, seed {run['seed']}"
            lines.append(f"| {title} | {run['untrained']:.1f} | {plain:.1f} | {run['knn']:.1f} |")
    lines += ["", "| run | seed | k-NN in % | untrained | counted as |", "| --- | --: | --: | --: | --- |"]
    for run in found["runs"]:
        if run["part"] in ("healthy", "wreck"):
            kind = "healthy" if run in healthy else "wreck" if run in wrecks else "neither"
            title = f"{SYSTEMS[run['system']].title}, {run['arm']}"
            lines.append(f"| {title} | {run['seed']} | {run['knn']:.1f} | {run['untrained']:.1f} | {kind} |")
    return "\n".join(lines)


def _steps(wrecks: list[dict[str, Any]], name: tuple[str, str], judge: Any) -> str:
    return ", ".join(str(judge(run) or "-") for run in wrecks if (run["system"], run["arm"]) == name)


def draw(found: dict[str, Any], path: Path) -> None:
    """Each shown signal over its first value: healthy runs grey, wrecks in colour, the trainer's limit dashed."""
    healthy, wrecks = split(found)
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    names = list(dict.fromkeys((run["system"], run["arm"]) for run in wrecks))
    for axes, signal in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN, strict=True):
        for run in (*healthy, *wrecks):
            name = (run["system"], run["arm"])
            wrecked = run in wrecks
            label = f"{run['system']}, {run['arm']}" if wrecked and run["seed"] == 0 else None
            values = np.array(run["log"][signal]) / run["log"][signal][0]
            colour = f"C{names.index(name)}" if wrecked else "#c9c9c9"
            axes.plot(run["log"]["step"], values, color=colour, label=label, linewidth=1.3 if wrecked else 0.7)
        if signal in SHARES:
            axes.axhline(SHARES[signal], color="black", linewidth=0.9, linestyle="--")
        axes.set_yscale("log")
        axes.set_title(f"{signal}, first = 1", loc="left", fontsize=9)
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False, fontsize=6, loc="lower left")
    figure.savefig(path, dpi=110)
