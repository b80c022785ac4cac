"""Fine-tune from pretrained and from random weights, three seeds each: `python compare.py DATA RUNS [--only NAME]`.

DATA holds the data sets by folder. RUNS holds the run folders of the pretrained encoders and gets those of the
fine-tuning, under RUNS/fine_tuning; a finished run is not repeated. Prints a table and writes the metric of every run
to results.json beside this file. An experiment is a recipe that comes with the package and the fields given here, the
same ones for all its runs.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data2vec.finetune import run_audio_classification, run_ctc, run_glue, run_image_classification


HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
FAMILIES = ("v1", "v2")
STARTS = ("pretrained", "scratch")


@dataclass(frozen=True)
class Experiment:
    """One data set: the command, its recipe, the encoder's run folder (FAMILY is put in) and changed fields."""

    title: str
    script: Any
    recipe: str
    encoder: str
    fields: Sequence[str] = ()
    metric: str | None = None  # that is shown, where it is not the task's main one
    also: str | None = None  # a second metric, as it is, for results.json
    folds: bool = False  # seed 0 holds out the first fold, seed 1 the second, ...


# of what the recipes take from the Hub
FOLDERS = {"zalando-datasets/fashion_mnist": "fashion_mnist_small", "uoft-cs/cifar10": "cifar10_small"}
# No checkpoint is chosen on validation: the last one is measured, of all runs alike.
PLAIN = ("--eval_strategy", "no", "--save_strategy", "no")
LAST = ("--load_best_model_at_end", "false")
SHORT_SPEECH = ("--batch_seconds", "16", "--max_seconds", "16", "--data.validation", "null")
WORDS = "spoken digits, new voices"
EXPERIMENTS = {
    "spoken_digits_few": Experiment(
        f"{WORDS}, 10 labels per class, accuracy",
        run_audio_classification,
        "spoken_digits_small.yaml",
        "audio_{family}",
        ("--labels_per_class", "10", "--max_steps", "100", *PLAIN),
    ),
    "spoken_digits": Experiment(
        f"{WORDS}, accuracy",
        run_audio_classification,
        "spoken_digits_small.yaml",
        "audio_{family}",
        ("--max_steps", "200", *PLAIN),
    ),
    "fashion_mnist": Experiment(
        "Fashion-MNIST, 10 labels per class, accuracy",
        run_image_classification,
        "fashion_mnist_small.yaml",
        "vision_{family}",
        ("--max_steps", "60", *PLAIN),
    ),
    "cifar10": Experiment(
        "CIFAR-10, 50 labels per class, accuracy",
        run_image_classification,
        "cifar10_small.yaml",
        "cifar_{family}",
        ("--max_steps", "200", *PLAIN),
    ),
    "emodb": Experiment(
        "EmoDB, new voices, accuracy",
        run_audio_classification,
        "emodb_small.yaml",
        "audio_{family}",
        ("--max_steps", "60", *PLAIN),
    ),
    "esc10": Experiment(
        "ESC-10, folds 1 to 3, accuracy",
        run_audio_classification,
        "esc10_small.yaml",
        "audio_{family}",
        ("--max_steps", "60", *PLAIN),
        folds=True,
    ),
    "digits_ctc": Experiment(
        f"{WORDS}, letter error rate",
        run_ctc,
        "spoken_digits_ctc.yaml",
        "audio_{family}",
        ("--max_steps", "600", *PLAIN),
        metric="cer",
    ),
    "librispeech_ctc": Experiment(
        "LibriSpeech, half an hour, letter error rate",
        run_ctc,
        "librispeech_small.yaml",
        "audio_{family}",
        ("--max_steps", "120", "--freeze_encoder_steps", "20", *SHORT_SPEECH, *PLAIN),
        metric="cer",
        also="loss",
    ),
    **{
        task: Experiment(
            title,
            run_glue,
            "glue_small.yaml",
            "text_128_{family}",
            ("--task_name", task, "--sweep.tasks", "null", "--max_steps", "60", *PLAIN, *LAST),
        )
        for task, title in {
            "sst2": "SST-2, accuracy",
            "cola": "CoLA, Matthews correlation",
            "mrpc": "MRPC, mean of accuracy and F1",
            "rte": "RTE, accuracy",
            "stsb": "STS-B, mean of Pearson's and Spearman's correlation",
        }.items()
    },
}

EXPERIMENTS["spoken_digits_few_norm"] = replace(
    EXPERIMENTS["spoken_digits_few"],
    title=f"{WORDS}, 10 labels per class, `head_norm`, accuracy",
    fields=(*EXPERIMENTS["spoken_digits_few"].fields, "--head_norm", "true"),
)


def one_run(name: str, family: str, start: str, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """The results.json of one run, made unless it is there."""
    experiment = EXPERIMENTS[name]
    folder = runs / "fine_tuning" / f"{name}_{family}_{start}_{seed}"
    if not (folder / "results.json").is_file():
        values = {
            "model.model_name_or_path": str(runs / experiment.encoder.format(family=family)),
            "model.from_scratch": str(start == "scratch").lower(),
            "training.seed": seed,
            "training.output_dir": str(folder),
            "training.disable_tqdm": "true",
            "training.report_to": "none",
            "training.use_cpu": "true",
        }
        if experiment.folds:
            values["data.fold"] = seed + 1
        words = [word for field, value in values.items() for word in (f"--{field}", str(value))]
        recipe = local_recipe(experiment.recipe, data, runs)
        code = experiment.script.main([str(recipe), *words, *experiment.fields])
        if code:
            raise SystemExit(f"{folder.name} ended with exit code {code}")
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def local_recipe(name: str, data: Path, runs: Path) -> Path:
    """The recipe with its data sets taken from DATA."""
    text = (HERE.parents[2] / "finetune" / "recipes" / name).read_text(encoding="utf-8")
    path = runs / "fine_tuning" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for hub, folder in FOLDERS.items():
        text = text.replace(f"path: {hub}", f"path: {data}/{folder}")
    text = text.replace(" data/", f" {data}/")
    path.write_text(text, encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("runs", type=Path, help="folder of the run folders")
    parser.add_argument("--only", nargs="*", choices=sorted(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=FAMILIES)
    given = parser.parse_args()
    file = HERE / "results.json"
    for name in given.only:
        rows: dict[str, Any] = {"title": EXPERIMENTS[name].title}
        for family in given.families:
            for start in STARTS:
                found = [one_run(name, family, start, seed, given.data, given.runs) for seed in SEEDS]
                split, metric = found[0]["main"]["split"], EXPERIMENTS[name].metric or found[0]["main"]["metric"]
                values = [round(100 * result[split][metric], 2) for result in found]
                rows[f"{family} {start}"] = {"values": values, "metric": metric, "split": split}
                if (also := EXPERIMENTS[name].also) is not None:
                    rows[f"{family} {start}"][also] = [round(result[split][also], 2) for result in found]
                print(f"{rows['title']}, {family} {start}: {np.mean(values):.1f} {values}", flush=True)
        results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        results[name] = {**results.get(name, {}), **rows}
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(file.read_text(encoding="utf-8"))))


def table(results: dict[str, Any]) -> str:
    """Markdown: mean (lowest to highest) of the seeds, in %."""
    columns = [f"{family} {start}" for family in FAMILIES for start in STARTS]
    lines = ["| in % | " + " | ".join(columns) + " |", "| --- |" + " --: |" * len(columns)]
    for name in EXPERIMENTS:
        if name in results:
            cells = [results[name].get(column, {}).get("values") for column in columns]
            row = " | ".join(f"{np.mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" if v else "-" for v in cells)
            lines.append(f"| {results[name]['title']} | {row} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
