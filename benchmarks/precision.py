"""Whether training in bf16 follows training in fp32: the same recipe, seed and steps in both, as a plot and numbers.

    python benchmarks/precision.py demo_vision.yaml demo_text.yaml --steps 400 --out docs/precision

Every run is `pretraining/run.py` as anybody would start it; the teacher's decay rises within its steps. Written are
the loss, the spread of targets and of predictions at each log, and how far the losses of the two are apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import torch


matplotlib.use("Agg")
from matplotlib import pyplot

from data2vec.pretraining.arguments import read_recipe


RUN = Path(__file__).parents[1] / "pretraining" / "run.py"
COLOURS = {"fp32": "black", "bf16": "tab:orange"}


def train(recipe: str, precision: str, steps: int, seed: int) -> list[dict[str, float]]:
    """What was logged, 40 times in a run."""
    with tempfile.TemporaryDirectory() as folder:
        fields: dict[str, Any] = {"bf16": precision == "bf16", "max_steps": steps, "seed": seed, "output_dir": folder}
        fields |= {"logging_steps": max(steps // 40, 1), "save_steps": steps, "probe_steps": 0, "report_to": "none"}
        fields["use_cpu"] = not torch.cuda.is_available()
        fields = {f"training.{name}": value for name, value in fields.items()}
        fields["objective.ema_anneal_steps"] = min(read_recipe(Path(recipe))["objective"]["ema_anneal_steps"], steps)
        words = [word for name, value in fields.items() for word in (f"--{name}", json.dumps(value))]
        ended = subprocess.run([sys.executable, str(RUN), recipe, *words], capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{recipe} in {precision} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
        [state] = Path(folder).glob("checkpoint-*/trainer_state.json")
        logs = json.loads(state.read_text())["log_history"]
    kept = ("step", "loss", "target_std", "prediction_std")
    return [{name: log[name] for name in kept} for log in logs if "loss" in log]


def apart(curves: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Distance of the losses, relative to fp32's: at the first log, at the last, and the largest."""
    pairs = zip(curves["fp32"], curves["bf16"], strict=True)
    distances = [abs(half["loss"] / full["loss"] - 1) for full, half in pairs]
    return {"first": distances[0], "last": distances[-1], "largest": max(distances)}


def plot(found: dict[str, Any], file: Path) -> None:
    figure, panels = pyplot.subplots(
        1, len(found), figsize=(3.2 * len(found), 2.8), squeeze=False, layout="constrained"
    )
    for panel, (name, one) in zip(panels[0], found.items(), strict=True):
        for precision, style in (("fp32", "-"), ("bf16", "--")):
            logs = one["curves"][precision]
            steps, losses = [log["step"] for log in logs], [log["loss"] for log in logs]
            panel.plot(steps, losses, style, color=COLOURS[precision], label=precision)
        panel.set(xlabel="step", title=name)
    panels[0][0].set_ylabel("loss")
    panels[0][0].legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="as run.py takes them")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.png are written")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    print("| recipe | loss in fp32, first and last | in bf16 | apart at the end | at most |\n" + "| --- " * 5 + "|")
    for recipe in args.recipes:
        curves = {precision: train(recipe, precision, args.steps, args.seed) for precision in COLOURS}
        name = "/".join(Path(recipe).with_suffix("").parts[-2:])
        found[name] = {"steps": args.steps, "seed": args.seed, "apart": apart(curves), "curves": curves}
        ends = {precision: f"{logs[0]['loss']:.4g}, {logs[-1]['loss']:.4g}" for precision, logs in curves.items()}
        distance = found[name]["apart"]
        print(f"| {name} | {ends['fp32']} | {ends['bf16']} | {distance['last']:.2%} | {distance['largest']:.2%} |")
        sys.stdout.flush()
        args.out.with_suffix(".json").write_text(json.dumps(found, indent=1))
    plot(found, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
