"""What does each layer know? `python layers.py DATA RUNS [--only ENCODER ...]`.

Probes student and teacher of the encoders that ../README.md lists with the recipes probe_{vision,audio,text}.yaml, and
untrained networks of their shapes. DATA holds the data sets by folder, RUNS the run folders of the encoders; the
probes' go to RUNS/probes, and a finished one is not repeated. Writes results.json, layers.png and few_labels.png
beside this file.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from data2vec.finetune import run_probe


HERE = Path(__file__).parent
FAMILIES = {"v1": "data2vec 1", "v2": "data2vec 2.0"}
WEIGHTS = ("student", "teacher")
# the encoder (FAMILY is put in): what the picture calls it, its recipe
MODALITIES = {
    "vision_{family}": ("Fashion-MNIST", "probe_vision.yaml"),
    "audio_{family}": ("spoken digits, new voices", "probe_audio.yaml"),
    "text_128_{family}": ("IMDb, kind or not", "probe_text.yaml"),
}
LOOKS = {
    "student": {"color": "#1f5fa8", "marker": "o"},
    "teacher": {"color": "#e08a1e", "marker": "s"},
    "untrained": {"color": "#9a9a9a", "marker": "^"},
}


def probe(encoder: str, weights: str, recipe: str, data: Path, runs: Path) -> dict[str, Any]:
    """The results.json of one probe, made unless it is there."""
    folder = runs / "probes" / f"{encoder}_{weights}"
    if not (folder / "results.json").is_file():
        text = (HERE.parents[3] / "finetune" / "recipes" / recipe).read_text(encoding="utf-8")
        local = runs / "probes" / recipe
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_text(text.replace(" data/", f" {data}/"), encoding="utf-8")
        fields = {
            "model_name_or_path": str(runs / encoder),
            "weights": weights,
            # every network of a shape is untrained alike: measured beside the student
            "untrained": 1 if weights == "student" else 0,
            "raw_features": str(weights == "student").lower(),
            "max_examples": 1000,
            "use_cpu": "true",
            "output_dir": str(folder),
        }
        words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
        code = run_probe.main([str(local), *words])
        if code:
            raise SystemExit(f"{folder.name} ended with exit code {code}")
        shutil.rmtree(folder / "features")
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def of_encoder(encoder: str, recipe: str, data: Path, runs: Path) -> dict[str, Any]:
    """{student, teacher, untrained, raw features: what probed.json says}, in % with one decimal."""
    sources: dict[str, Any] = {}
    for weights in WEIGHTS:
        found = probe(encoder, weights, recipe, data, runs)
        for name, source in found["probed"].items():
            sources[weights if name == "pretrained" else name] = {
                "layers": {
                    layer: {kind: percent(value) for kind, value in scores.items()}
                    for layer, scores in source["layers"].items()
                },
                "best": source["best"],
                "few_labels": {
                    number: {"mean": percent(point["mean"]), "std": percent(point["std"])}
                    for number, point in source["few_labels"][source["best"]].items()
                    if "mean" in point
                },
            }
    return {"examples": found["examples"], "majority": percent(found["majority"]), "sources": sources}


def percent(share: float) -> float:
    return round(100 * share, 1)


def grid(results: dict[str, Any], x_label: str) -> tuple[Figure, list[tuple[Any, dict[str, Any]]]]:
    """A row a modality, a column a family; the axes with their results."""
    figure = Figure(figsize=(8, 8.5), layout="constrained")
    axes = figure.subplots(len(MODALITIES), len(FAMILIES), sharey="row")
    pairs = []
    for row, (encoder, (title, _)) in zip(axes, MODALITIES.items(), strict=True):
        for axis, (family, name) in zip(row, FAMILIES.items(), strict=True):
            axis.set_title(f"{title}: {name}", fontsize=9)
            axis.grid(alpha=0.3)
            pairs.append((axis, results[encoder.format(family=family)]))
        row[0].set_ylabel("accuracy in %")
    for axis in axes[-1]:
        axis.set_xlabel(x_label)
    return figure, pairs


def draw_layers(results: dict[str, Any]) -> None:
    """Linear probe (solid) and k-NN (dashed) over depth."""
    figure, pairs = grid(results, "layer (0: the first block's input)")
    for axis, result in pairs:
        for name, look in LOOKS.items():
            layers = result["sources"][name]["layers"]
            depth = range(len(layers))
            axis.plot(depth, [scores["linear"] for scores in layers.values()], **look, label=f"{name}, linear")
            dashed = {**look, "linestyle": "--", "markersize": 3}
            axis.plot(depth, [scores["knn"] for scores in layers.values()], **dashed, label=f"{name}, k-NN")
        axis.set_xticks(list(depth))
    pairs[0][0].legend(fontsize=7)
    figure.savefig(HERE / "layers.png", dpi=80)


def draw_few_labels(results: dict[str, Any]) -> None:
    """Of each network's best layer, with the spread over draws; raw features beside it."""
    figure, pairs = grid(results, "labels a class")
    for axis, result in pairs:
        others = [name for name in result["sources"] if name not in LOOKS]
        looks = {**LOOKS, **{name: {"linestyle": ":", "marker": "."} for name in others}}
        for name, look in looks.items():
            points = result["sources"][name]["few_labels"]
            numbers = [int(number) for number in points]
            means, spreads = ([point[key] for point in points.values()] for key in ("mean", "std"))
            axis.errorbar(numbers, means, spreads, **look, capsize=2, label=name)
        axis.set_xscale("log")
        axis.set_xticks([1, 5, 10, 50], ["1", "5", "10", "50"])
        axis.minorticks_off()
        axis.legend(fontsize=7)
    figure.savefig(HERE / "few_labels.png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("runs", type=Path, help="folder of the encoders' run folders")
    recipes = {encoder.format(family=f): recipe for encoder, (_, recipe) in MODALITIES.items() for f in FAMILIES}
    parser.add_argument("--only", nargs="*", choices=sorted(recipes), default=list(recipes))
    given = parser.parse_args()
    file = HERE / "results.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for encoder in given.only:
        results[encoder] = of_encoder(encoder, recipes[encoder], given.data, given.runs)
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if set(results) == set(recipes):
        draw_layers(results)
        draw_few_labels(results)


if __name__ == "__main__":
    main()
