"""What does each layer know? `python layers.py DATA RUNS [--only ENCODER ...]`.

Probes student and teacher of the encoders that ../README.md lists with the recipes probe_{vision,audio,text}.yaml, and
untrained networks of their shapes. DATA holds the data sets by folder, RUNS the run folders of the encoders; the
probes' go to RUNS/probes, and a finished one is not repeated. Writes results.json, layers.png and few_labels.png
beside this file.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data2vec.finetune import run_probe
from data2vec.pretraining.evaluation.plots import draw_few_labels, draw_layers


HERE = Path(__file__).parent
FAMILIES = {"v1": "data2vec 1", "v2": "data2vec 2.0"}
WEIGHTS = ("student", "teacher")
# the encoder (FAMILY is put in): what the picture calls it, its recipe
MODALITIES = {
    "vision_{family}": ("Fashion-MNIST", "probe_vision.yaml"),
    "audio_{family}": ("spoken digits, new voices", "probe_audio.yaml"),
    "text_128_{family}": ("IMDb, kind or not", "probe_text.yaml"),
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


def draw(results: dict[str, Any], name: str, draw_panel: Callable[[Axes, dict[str, Any]], None]) -> None:
    """A row a modality, a column a family."""
    figure = Figure(figsize=(10, 11), layout="constrained")
    axes = figure.subplots(len(MODALITIES), len(FAMILIES))
    for row, (encoder, (title, _)) in zip(axes, MODALITIES.items(), strict=True):
        for axis, (family, called) in zip(row, FAMILIES.items(), strict=True):
            draw_panel(axis, results[encoder.format(family=family)]["sources"])
            axis.set_title(f"{title}: {called}, accuracy in %", fontsize=9, loc="left")
    figure.savefig(HERE / name, dpi=80)


def shares(percentages: Any) -> Any:
    """Of 1, as the drawing takes them."""
    if isinstance(percentages, dict):
        return {name: shares(value) for name, value in percentages.items()}
    return percentages / 100


def layers(axis: Axes, sources: dict[str, Any]) -> None:
    """Linear probe (solid) and k-NN (dashed) over depth."""
    networks = {name: source["layers"] for name, source in sources.items() if "raw" not in source["layers"]}
    draw_layers(axis, shares(networks))


def few_labels(axis: Axes, sources: dict[str, Any]) -> None:
    """Of each network's best layer, with the spread over draws; raw features beside it."""
    draw_few_labels(axis, shares({name: source["few_labels"] for name, source in sources.items()}))


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
        draw(results, "layers.png", layers)
        draw(results, "few_labels.png", few_labels)


if __name__ == "__main__":
    main()
