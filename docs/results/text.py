"""The claim `text` of reproduce.py: does pretraining on film reviews help GLUE at this size?

    encoders: letters by data2vec 1, by 2.0, by masked language modelling
        ->  frozen features of GLUE's sentences
        ->  fine-tuning on SST-2 with few labels, from pretrained and from random weights

Every encoder is compared with itself untrained, with a bag of words and with word vectors that were counted from the
same reviews.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from comparisons import Comparison, compare, spread
from experiment import Experiment, once, wall_seconds
from matplotlib.figure import Figure
from measure import Data
from text_features import WordVectors, bag_of_words, encoder_features
from text_tasks import TASKS, Encode, Examples, nothing_known, read, scores, standard_error
from transformers import AutoTokenizer

from data2vec.finetune import run_glue


@dataclass(frozen=True)
class Arm:
    """What is pretrained, a system and changed fields; which of its weights are measured; whether it is fine-tuned."""

    system: str
    fields: dict[str, Any] = field(default_factory=dict)
    weights: tuple[str, ...] = ("student", "untrained")
    seeds: int = 3
    fine_tune: bool = False


CLAIM = "What letters teach helps GLUE"
PAPER = "GLUE 82.7 (data2vec, table 4), of words and at full size"
MLM = {"method": "reconstruction", "training.learning_rate": 2.0e-3}  # as in claims/against.yaml
ARMS = {
    "letters, data2vec 1": Arm("text_v1", fine_tune=True),
    "letters, data2vec 2.0": Arm("text_v2"),
    "letters, masked language modelling": Arm("text_v1", MLM, ("student",)),
}


@dataclass(frozen=True)
class Settings:
    """Args:
    data, runs: the folder of the data sets, and where the runs go.
    train_examples: most labelled sentences or pairs of a task that a classifier is trained on.
    most_tokens: of a long text that are read, its last ones.
    fine_tune_labels, fine_tune_steps: labels per class of SST-2, and updates on them.
    common: fields of every arm.
    """

    data: Path
    runs: Path
    arms: dict[str, Arm] = field(default_factory=lambda: ARMS)
    train_examples: int = 2000
    most_tokens: int = 150
    fine_tune_labels: int = 200
    fine_tune_steps: int = 100
    common: dict[str, Any] = field(default_factory=dict)

    def experiment(self, name: str, seed: int) -> Experiment:
        arm = self.arms[name]
        return Experiment(arm.system, {**arm.fields, **self.common}, seed, self.data, self.runs)


Tasks = dict[str, tuple[Examples, Examples]]


def evaluate(data: Path, runs: Path, **changes: Any) -> dict[str, Any]:
    """Everything that data/text.json holds; `changes` are fields of [`Settings`]."""
    settings = Settings(data, runs, **changes)
    kept = runs / "text"
    tasks = {name: read(task, data, settings.train_examples) for name, task in TASKS.items()}
    yardsticks = once(kept / "yardsticks.json", partial(_yardsticks, settings, tasks))
    wall = yardsticks.pop("seconds")
    arms: dict[str, Any] = {name: [] for name in settings.arms}
    fine_tuned: dict[str, Any] = {name: [] for name, arm in settings.arms.items() if arm.fine_tune}
    for seed in range(max(arm.seeds for arm in settings.arms.values())):
        for name in (name for name, arm in settings.arms.items() if seed < arm.seeds):
            experiment = settings.experiment(name, seed)
            experiment.pretrain()
            folder = experiment.folder.name
            scored = once(kept / f"{folder}.json", partial(_frozen, settings, name, seed, tasks))
            wall += wall_seconds(experiment.folder) + scored.pop("seconds")
            arms[name].append({"seed": seed, **scored})
            print(f"{name}, seed {seed}: {json.dumps(scored['student'])}", flush=True)
            if name in fine_tuned:
                starts = once(kept / f"sst2-{folder}.json", partial(_fine_tuned, settings, name, seed))
                wall += starts.pop("seconds")
                fine_tuned[name].append(starts)
    return {
        "claim": CLAIM,
        "paper": PAPER,
        "yardsticks": yardsticks,
        "arms": arms,
        "fine_tuned": fine_tuned,
        "wall_seconds": round(wall, 1),
        "tasks": {
            name: {
                "metric": TASKS[name].metric,
                "train_examples": len(train.labels),
                "test_examples": len(test.labels),
                "nothing_known": round(nothing_known(TASKS[name], test), 2),
                "standard_error": round(standard_error(TASKS[name], test), 2),
            }
            for name, (train, test) in tasks.items()
        },
        "settings": {
            name: getattr(settings, name)
            for name in ("train_examples", "most_tokens", "fine_tune_labels", "fine_tune_steps")
        },
        "fields": {name: dict(arm.fields) for name, arm in settings.arms.items()},
    }


def _frozen(settings: Settings, name: str, seed: int, tasks: Tasks) -> dict[str, Any]:
    """Scores of an arm's weights: {weights: {task: {measure: score}}}."""
    experiment = settings.experiment(name, seed)
    data, tokenizer = Data(experiment), AutoTokenizer.from_pretrained(experiment.folder)
    found = {}
    for which in settings.arms[name].weights:
        encode = partial(encoder_features, data.encoder(which), tokenizer, most=settings.most_tokens)
        found[which] = all_scores(tasks, lambda _, encode=encode: encode)
    return found


def _yardsticks(settings: Settings, tasks: Tasks) -> dict[str, Any]:
    reviews = datasets.load_dataset(str(settings.data / "imdb_unlabelled_text"), split="train")
    vectors = WordVectors(list(reviews["text"][:]))
    return {
        "bag of words": all_scores(tasks, lambda train: bag_of_words(sum(train.sentences, [])).transform),
        "word vectors": all_scores(tasks, lambda train: vectors),
    }


def all_scores(tasks: Tasks, encoder: Callable[[Examples], Encode]) -> dict[str, dict[str, float]]:
    return {name: scores(TASKS[name], train, test, encoder(train)) for name, (train, test) in tasks.items()}


def _fine_tuned(settings: Settings, name: str, seed: int) -> dict[str, float]:
    """Accuracy on SST-2 after fine-tuning on few labels, from pretrained and from random weights."""
    found = {}
    encoder = settings.experiment(name, seed).folder
    for start in ("pretrained", "scratch"):
        folder = settings.runs / "text" / f"sst2-{start}-{encoder.name}"
        if not (folder / "results.json").is_file():
            fields = {
                "model.model_name_or_path": encoder,
                "model.from_scratch": str(start == "scratch").lower(),
                "task.sweep.tasks": "null",
                "data.glue": settings.data / "glue_small",
                "data.task_name": "sst2",
                "data.labels_per_class": settings.fine_tune_labels,
                "training.max_steps": settings.fine_tune_steps,
                "training.seed": seed,
                "training.output_dir": folder,
                "training.eval_strategy": "no",
                "training.save_strategy": "no",
                "training.load_best_model_at_end": "false",
                "training.use_cpu": "true",
                "training.disable_tqdm": "true",
            }
            words = [word for key, value in fields.items() for word in (f"--{key}", str(value))]
            if code := run_glue.main(["glue_small.yaml", *words]):
                raise SystemExit(f"{folder} ended with exit code {code}")
            for checkpoint in folder.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        results = json.loads((folder / "results.json").read_text())
        found[start] = round(100 * results[results["main"]["split"]]["accuracy"], 2)
    return found


# ---- the picture ----

SHOWN = (("imdb", "few 200"), ("sst2", "few 200"), ("cola", "linear"), ("mrpc", "linear"), ("rte", "linear"))
SHOWN += (("stsb", "cosine"),)
COLOURS = {"student": "#1f5fa8", "teacher": "#d9822b", "untrained": "#9a9a9a"}


def draw(found: dict[str, Any], path: Path) -> None:
    """A panel for each task: arms from top to bottom, every seed a dot; the band is two standard errors of chance."""
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    for axes, (task, measure) in zip(figure.subplots(2, 3, sharey=True).flat, SHOWN, strict=True):
        about = found["tasks"][task]
        at, error = about["nothing_known"], about["standard_error"]
        axes.axvspan(at - 2 * error, at + 2 * error, color="#eeeeee", zorder=0)
        names = [*found["arms"], *found["yardsticks"]]
        for row, seeds in enumerate(found["arms"].values()):
            for offset, (which, colour) in zip((-0.2, 0.0, 0.2), COLOURS.items(), strict=True):
                values = [seed[which][task][measure] for seed in seeds if which in seed]
                if not values:
                    continue
                label = which if row == 0 else None
                axes.plot(values, [row + offset] * len(values), "o", color=colour, markersize=5, label=label)
        for row, yardstick in enumerate(found["yardsticks"].values(), start=len(found["arms"])):
            axes.plot([yardstick[task][measure]], [row], "D", color="#333333", markersize=5)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"{task}: {about['metric']}, {measure}", loc="left", fontsize=10)
        axes.grid(alpha=0.3)
    figure.axes[0].invert_yaxis()
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def table(found: dict[str, Any]) -> str:
    """Markdown: mean (lowest to highest) of the seeds."""
    columns = [
        ("imdb", "linear"), ("imdb", "few 200"), ("sst2", "linear"), ("sst2", "few 50"), ("sst2", "few 200"),
        ("cola", "linear"), ("mrpc", "linear"), ("rte", "linear"), ("stsb", "cosine"),
    ]  # fmt: skip
    lines = ["| | " + " | ".join(f"{task}, {measure}" for task, measure in columns) + " |"]
    lines.append("| --- |" + " --: |" * len(columns))
    for name, seeds in found["arms"].items():
        for which in COLOURS:
            if which in seeds[0]:
                cells = [spread([seed[which][task][measure] for seed in seeds]) for task, measure in columns]
                lines.append(f"| {name}, {which} | " + " | ".join(cells) + " |")
    for name, of_tasks in found["yardsticks"].items():
        lines.append(f"| {name} | " + " | ".join(f"{of_tasks[task][m]:.1f}" for task, m in columns) + " |")
    for name in ("nothing_known", "standard_error"):
        cells = [f"{found['tasks'][task][name]:.1f}" for task, _ in columns]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compared(found: dict[str, Any]) -> list[Comparison]:
    """The first arm against the same network untrained."""
    rows = []
    seeds = next(iter(found["arms"].values()))
    for task, measure in SHOWN:
        student, untrained = ([seed[which][task][measure] for seed in seeds] for which in ("student", "untrained"))
        said = f"{task}, {measure}: pretrained {spread(student)}, untrained {spread(untrained)}"
        rows.append(compare(said, student, untrained))
    return rows
