"""data2vec against the pretraining of other libraries: the same images, encoder, time and probe.

    pip install "data2vec[rivals]"
    python benchmarks/rivals.py --data DATA/cifar10_small --out docs/runs/rivals
    python benchmarks/rivals.py --out docs/runs/rivals --draw

Every arm trains a vision transformer of one size on one thread, in a process of its own, for `--seconds` of processor
time: what a clock on the wall shows where the core does nothing else. A few updates are timed first, and the schedules
are laid over as many as fit. Each candidate setting of an arm is tried for `--tune-seconds`, not counted, and the one
with the best k-NN on held-out training images is kept. Then one probe reads all: layer, pooling (mean of the patches,
or CLS) and network (student or teacher) are chosen on held-out training images as well, test images choose nothing.

Ours runs as users run it, through `data2vec.pretrain`. The others get a plain loop without logging, their images
decoded in memory and cropped as a batch. `--arm` runs some arms and leaves the others in OUT/results.json as they are;
`--draw` writes the table into OUT/README.md and OUT/rivals.png.
"""

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from rival_arms import ARMS, CONTROLS, PATCHES, TIMED, TITLES, Layers, Trunk, images_of
from sklearn.model_selection import train_test_split
from torch import Tensor

from data2vec.pretraining.checkpoints.environment import hardware, source_commit
from data2vec.pretraining.evaluation.probe import knn_accuracy, linear_probe


matplotlib.use("Agg")
from matplotlib import pyplot


BEGIN, END = "<!-- rivals -->", "<!-- /rivals -->"
LIBRARIES = ("data2vec", "torch", "transformers", "timm", "torchvision", "lightly", "stable-pretraining")

Features = dict[str, np.ndarray]  # by network, layer and pooling


# The probe of all


@torch.no_grad()
def features(networks: dict[str, Layers], images: Tensor) -> Features:
    found: dict[str, list[Tensor]] = {}
    for (name, layers), batch in itertools.product(networks.items(), images.split(250)):
        for number, tokens in enumerate(layers(batch)):
            found.setdefault(f"{name}, layer {number}, mean", []).append(tokens[:, -PATCHES:].mean(1))
            if tokens.shape[1] > PATCHES:
                found.setdefault(f"{name}, layer {number}, CLS", []).append(tokens[:, 0])
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def held_out_knn(found: Features, labels: np.ndarray) -> dict[str, float]:
    """k-NN of a fifth of the labelled training images among the others."""
    rows = np.arange(len(labels))
    known, asked = train_test_split(rows, test_size=0.2, stratify=labels, random_state=0)
    return {name: knn_accuracy(x[known], labels[known], x[asked], labels[asked]) for name, x in found.items()}


def best(scores: dict[str, float]) -> str:
    return max(scores, key=lambda name: scores[name])


def probed(networks: dict[str, Layers], data: Path, labels: int) -> dict[str, Any]:
    """Test accuracies in %, each of what is best on held-out training images, and those by layer."""
    (train, train_y), (test, test_y) = images_of(data, "train", labels), images_of(data, "test")
    train_x, test_x = features(networks, train), features(networks, test)
    linear = {name: linear_probe(x, train_y, test_x[name], test_y) for name, x in train_x.items()}
    read = best({name: probe.validation_accuracy for name, probe in linear.items()})
    near = best(held_out_knn(train_x, train_y))
    return {
        "linear": round(100 * linear[read].accuracy, 2),
        "linear_of": read,
        "knn": round(100 * knn_accuracy(train_x[near], train_y, test_x[near], test_y), 2),
        "knn_of": near,
        "layers": {name: round(100 * probe.accuracy, 2) for name, probe in linear.items()},
        "labels": len(train_y),
        "test_images": len(test_y),
    }


def measure(
    name: str, data: Path, seconds: float, tune_seconds: float, labels: int, trunk: Trunk | None = None
) -> dict[str, Any]:
    """One arm or control: candidates tried, the better one trained, and probed."""
    trunk, found = trunk or Trunk(), {"title": TITLES[name]}
    if name in CONTROLS:
        networks = CONTROLS[name][1](trunk)
    else:
        arm, (images, classes) = ARMS[name], images_of(data, "train", labels)
        tried = []
        for settings in arm.candidates if tune_seconds else ():
            step = arm.run(data, trunk, settings, TIMED).clock.of_an_update
            trained = arm.run(data, trunk, settings, max(TIMED, round(tune_seconds / step)))
            score = max(held_out_knn(features(trained.networks, images), classes).values())
            tried.append({"settings": settings, "held_out_knn": round(100 * score, 2)})
            print(name, tried[-1], flush=True)
        chosen = max(tried, key=lambda one: one["held_out_knn"])["settings"] if tried else arm.candidates[0]
        step = arm.run(data, trunk, chosen, TIMED).clock.of_an_update
        updates = max(TIMED, round(seconds / step))
        trained = arm.run(data, trunk, chosen, updates)
        networks, (cpu, wall) = trained.networks, trained.clock.between(0)
        batch = chosen.get("batch", 16)
        found |= {"settings": chosen, "tried": tried, "updates": updates, "images_seen": updates * batch}
        found |= {"seconds": round(cpu, 1), "wall_seconds": round(wall, 1), "loss": trained.loss}
    found |= probed(networks, data, labels)
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    return found | {"trunk": asdict(trunk), "versions": versions, "cpu": hardware()["cpu"], "commit": source_commit()}


# The page


def table(arms: dict[str, Any]) -> str:
    lines = [
        "| | updates | images seen | processor s | linear probe | k-NN | linear probe reads |",
        "| --- | --: | --: | --: | --: | --: | --- |",
    ]
    for name in [name for name in TITLES if name in arms]:
        one = arms[name]
        ran = [f"{one[key]:,.0f}" if key in one else "-" for key in ("updates", "images_seen", "seconds")]
        cells = [one["title"], *ran, f"{one['linear']:.1f}", f"{one['knn']:.1f}", one["linear_of"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(arms: dict[str, Any], file: Path) -> None:
    names = [name for name in reversed(TITLES) if name in arms]
    figure, panel = pyplot.subplots(figsize=(7, 0.6 + 0.5 * len(names)), layout="constrained")
    rows = np.arange(len(names))
    for shift, kind, label in ((0.2, "linear", "linear probe"), (-0.2, "knn", "k-NN")):
        panel.bar_label(panel.barh(rows + shift, [arms[name][kind] for name in names], 0.38, label=label), fmt="%.1f")
    panel.set_yticks(rows, [arms[name]["title"] for name in names])
    panel.set_xlabel("test accuracy, %")
    panel.margins(x=0.1)
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def draw(out: Path) -> None:
    arms, page = json.loads((out / "results.json").read_text()), out / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{table(arms)}\n\n{END}{rest.partition(END)[2]}")
    picture(arms, out / "rivals.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="labelled images that datasets.load_dataset opens, train and test")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json, README.md and rivals.png")
    parser.add_argument("--arm", nargs="+", choices=list(TITLES), default=list(TITLES), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--tune-seconds", type=float, default=60, help="of each candidate setting; 0: take the first")
    parser.add_argument("--labels", type=int, default=4000, help="labelled training images of the probe")
    parser.add_argument("--draw", action="store_true", help="only the table and the picture of what is there")
    args = parser.parse_args()
    if args.draw:
        draw(args.out)
        return
    if args.data is None:
        parser.error("--data is missing")
    if len(args.arm) > 1:
        shared = ["--data", args.data, "--out", args.out, "--seconds", args.seconds]
        shared += ["--tune-seconds", args.tune_seconds, "--labels", args.labels]
        for name in args.arm:
            subprocess.run([sys.executable, __file__, *map(str, shared), "--arm", name], check=True)
        return
    torch.set_num_threads(1)
    try:
        found = measure(args.arm[0], args.data, args.seconds, args.tune_seconds, args.labels)
    except ModuleNotFoundError as error:
        parser.error(f'{error.name} is not installed: pip install "data2vec[rivals]"')
    written = args.out / "results.json"
    args.out.mkdir(parents=True, exist_ok=True)
    arms = json.loads(written.read_text()) if written.is_file() else {}
    written.write_text(json.dumps({**arms, args.arm[0]: found}, indent=1) + "\n")
    print(table({args.arm[0]: found}), flush=True)


if __name__ == "__main__":
    main()
