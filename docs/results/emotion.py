"""The claim `emotion` of reproduce.py: does emotion2vec's training on emotional speech help, and what of it?

    read_speech_v2 (data2vec 2.0 on LibriSpeech)  ->  emotion2vec on EmoDB without labels, by arm  ->  probes

Each speaker is left out once. Encoders have heard the clips of eight of the ten, without their labels, as the paper's
have heard IEMOCAP. Classifiers read the mean of the frozen frames; the paper's network on frames, which
`probe_emodb.yaml` asks for as it is, takes about a minute of one core for each encoder.
"""

import contextlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from comparisons import Comparison, compare, spread
from experiment import HERE, Experiment, once, wall_seconds, yaml_word
from matplotlib.figure import Figure
from tables import guard_stop

from data2vec.finetune.arguments import parse
from data2vec.finetune.probe.arguments import Probe
from data2vec.finetune.probe.runner import probe
from data2vec.pretraining import run
from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.checkpoints.run_files import WHOLE


CLAIM = "Going on from data2vec 2.0 on emotional speech helps, of frames and of the utterance"
PAPER = (
    "emotion2vec, IEMOCAP, weighted accuracy: data2vec 2.0 68.6, emotion2vec 71.8; from random weights 61.3; frames "
    "alone 70.9, utterance alone 29.0"
)
START = "read_speech_v2"
SEEDS = (0, 1, 2)
ARMS: dict[str, tuple[bool, dict[str, Any]]] = {  # whether it starts from data2vec 2.0, and what it changes
    "emotion2vec": (True, {}),
    "frames alone": (True, {"objective.cls_loss_weight": 0.0}),
    "utterance alone": (True, {"objective.regression_weight": 0.0}),
    "emotion2vec, target norm": (True, {"objective.target_norm": "layer"}),
    "emotion2vec from random weights": (False, {"training.learning_rate": 2.0e-3}),  # the rate of read_speech_v2
}
REFERENCES = ("data2vec 2.0", "untrained")
PAIRS = (
    ("emotion2vec", "data2vec 2.0"),
    ("emotion2vec", "emotion2vec from random weights"),
    ("emotion2vec", "frames alone"),
    ("emotion2vec", "utterance alone"),
    ("emotion2vec", "untrained"),
)
MEASURES = {"linear": "linear probe", "knn": "k-NN"}
HEALTH = (
    *("target_std", "position_std", "prediction_std", "effective_rank"),
    *("utterance_target_std", "utterance_prediction_std"),
)


def evaluate(data: Path, runs: Path, **changes: Any) -> dict[str, Any]:
    """Everything that data/emotion.json holds; `changes` are fields of every recipe."""
    found: dict[str, Any] = {"arms": {}, "claim": CLAIM, "paper": PAPER}
    arms: dict[str, list[Any]] = {name: [] for name in (*ARMS, *REFERENCES)}
    raw, wall = once(runs / "emotion" / "raw.json", partial(probed, data, runs, None, 0)), 0.0
    wall += raw.pop("seconds")
    for seed in SEEDS:
        start = Experiment(START, changes, seed, data, runs)
        start.pretrain()
        wall += wall_seconds(start.folder)
        folders = {"data2vec 2.0": start.folder, "untrained": None}
        for name in ARMS:
            folders[name] = trained(name, seed, data, runs, start, changes)
            wall += wall_seconds(folders[name])
        for name, folder in folders.items():
            kept = runs / "emotion" / f"{name}-{seed}.json"
            scores = once(kept, partial(probed, data, runs, folder or folders["emotion2vec"], seed, folder is None))
            wall += scores.pop("seconds")
            row = {"seed": seed, **scores["encoder"]}
            if folder is not None and name in ARMS:
                row |= {"health": health(folder, name), "training_seconds": round(wall_seconds(folder), 1)}
            arms[name].append(row)
            print(f"{name}, seed {seed}: {json.dumps(scores['encoder'])}", flush=True)
    return found | {"arms": arms, "raw": raw["raw"], "examples": raw["examples"], "wall_seconds": round(wall, 1)}


def trained(name: str, seed: int, data: Path, runs: Path, start: Experiment, changes: dict[str, Any]) -> Path:
    """The run folder of an arm, which is trained if that was not done."""
    from_start, fields = ARMS[name]
    folder = runs / "emotion" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    if (folder / "trainer_state.json").is_file():
        return folder
    values = {
        "data.sources": [{"path": str(data / "emodb_4class"), "split": "train"}],
        "training.output_dir": str(folder),
        "training.seed": seed,
        **fields,
        **changes,
    }
    words = [word for field, value in values.items() for word in (f"--{field}", yaml_word(value))]
    if from_start:
        model = {"model_type": "emotion2vec", "model_name_or_path": str(start.folder / WHOLE)}
        words += ["--model", yaml_word(model)]
    asked = parse_arguments([str(HERE / "systems" / "emotion.yaml"), *words])
    with contextlib.ExitStack() as stack:
        opened, checkpoint = run.prepare(asked, stack)
        code = run.pretrain(asked, opened, checkpoint)
    if code:
        raise SystemExit(f"{folder} ended with exit code {code}, see its health.json")
    return folder


def probed(data: Path, runs: Path, encoder: Path | None, seed: int, untrained: bool = False) -> dict[str, Any]:
    """Scores in % of an encoder, of a network of its shape with random weights, or of raw features (no encoder)."""
    kind = "untrained" if untrained else "raw" if encoder is None else "pretrained"
    folder = runs / "emotion" / "probes" / f"{kind if kind != 'pretrained' else encoder.name}-{seed}"
    if encoder is None:  # any will do
        start = Experiment(START, {}, seed, data, runs)
        start.pretrain()
        encoder = start.folder
    values = {
        "model.model_name_or_path": str(encoder),
        "data.train": {"path": str(data / "emodb_4class"), "split": "train+test"},
        "task.probes": ["knn", "linear"],
        "task.untrained": int(untrained),
        "task.raw_features": kind == "raw",
        "training.output_dir": str(folder),
        "training.seed": seed,
        "training.use_cpu": True,
    }
    words = [word for field, value in values.items() for word in (f"--{field}", yaml_word(value))]
    found = probe(parse(["probe_emodb.yaml", *words], Probe))
    scores = {
        name: {measure: round(100 * layer[measure], 2) for measure in MEASURES}
        for name, source in found["probed"].items()
        for layer in source["layers"].values()
    }
    examples = {"clips": found["examples"]["train"], "speakers": len(found["groups"]), "majority": found["majority"]}
    if kind == "raw":
        del scores["pretrained"]
        return {"raw": scores, "examples": examples}
    return {"encoder": scores[kind]}


def health(folder: Path, name: str) -> dict[str, Any]:
    """What was logged last, and the update at which the guard, which was off, would have stopped the run."""
    rows = [
        row for row in json.loads((folder / "trainer_state.json").read_text())["log_history"] if "target_std" in row
    ]
    log = {name: [row.get(name, math.nan) for row in rows] for name in ("step", *HEALTH)}
    last = {name: round(column[-1], 4) for name, column in log.items() if not math.isnan(column[-1])}
    utterance_only = ARMS[name][1].get("objective.regression_weight") == 0
    return last | {"guard_stops_at": guard_stop(log, utterance_only=utterance_only)}


def compared(found: dict[str, Any]) -> list[Comparison]:
    rows = []
    for better, worse in PAIRS:
        sides = [[seed["linear"] for seed in found["arms"][name]] for name in (better, worse)]
        said = f"EmoDB, linear probe: {better} {spread(sides[0])}, {worse} {spread(sides[1])}"
        rows.append(compare(said, *sides))
    return rows


def table(found: dict[str, Any]) -> str:
    """Markdown: mean (lowest to highest) of the seeds, and health."""
    lines = [
        "| accuracy in %, the mean over speakers | " + " | ".join(MEASURES.values()) + " |",
        "| --- |" + " --: |" * len(MEASURES),
    ]
    for name, seeds in found["arms"].items():
        cells = [spread([seed[measure] for seed in seeds]) for measure in MEASURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, scores in found["raw"].items():
        lines.append(f"| {name} | " + " | ".join(f"{scores[measure]:.1f}" for measure in MEASURES) + " |")
    lines.append(f"| most frequent emotion | {100 * found['examples']['majority']:.1f} | - | - |")
    lines += [
        "",
        "| last logged; mean of the seeds | " + " | ".join(f"`{name}`" for name in HEALTH) + " | guard stops at |",
        "| --- |" + " --: |" * (len(HEALTH) + 1),
    ]
    for name in ARMS:
        logs = [seed["health"] for seed in found["arms"][name]]
        means = [[log[key] for log in logs if key in log] for key in HEALTH]
        cells = [f"{sum(values) / len(values):.2g}" if values else "-" for values in means]
        cells.append(", ".join(str(log["guard_stops_at"] or "-") for log in logs))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Every seed a dot; the bar is the mean, the line the most frequent emotion."""
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    axes = figure.add_subplot()
    rows = {name: [seed["linear"] for seed in seeds] for name, seeds in found["arms"].items()}
    rows |= {name: [scores["linear"]] for name, scores in found["raw"].items()}
    for number, (name, values) in enumerate(rows.items()):
        colour = "#999999" if name in found["raw"] or name in REFERENCES else "#1f77b4"
        axes.barh(number, sum(values) / len(values), color=colour, alpha=0.35)
        axes.plot(values, [number] * len(values), "o", color=colour, markersize=5)
    axes.axvline(100 * found["examples"]["majority"], color="#333333", linestyle=":", label="most frequent emotion")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("accuracy of a linear probe in %, the mean over ten speakers left out")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
