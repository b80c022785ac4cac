"""How a step's cost grows with clip length, image size, text length, views and batch: a table and a plot.

    python benchmarks/growth.py --precision bf16 --out docs/growth

Every point is this package's step (see step.py) at base size, one after the other, with its operations by formula. The
exponent between neighbours says how time grows: 1 is linear, 2 quadratic.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from flops import step as parts_of
from flops import total
from step import run, shape_of
from worker import CLOCKS


matplotlib.use("Agg")
from matplotlib import pyplot


SWEEPS: dict[str, tuple[str, str, list[int]]] = {  # title -> system, what varies, its values
    "clip length, s": ("audio_v2", "length", [2, 5, 10, 20]),
    "image size, pixels": ("vision_v2", "length", [112, 224, 384]),
    "text length, tokens": ("text_v2", "length", [64, 128, 256, 512]),
    "views": ("vision_v2", "views", [1, 2, 4, 8]),
    "batch, images": ("vision_v2", "batch", [1, 2, 4, 8]),
    "batch, clips": ("audio_v2", "batch", [1, 2, 4]),
}
FEW: dict[str, tuple[str, str, list[int]]] = {"views": ("vision_v2", "views", [1, 2])}  # for tests
SAMPLES = {"audio": 1, "vision": 2, "text": 1}  # of a batch where another number varies


def measure(system: str, varied: str, value: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, peak memory and operations of one point."""
    point: dict[str, Any] = {"batch": SAMPLES[system.split("_")[0]], "length": None, "views": None} | {varied: value}
    one = argparse.Namespace(**{**vars(args), **point})
    [arm] = run(system, args.precision, one)
    flops = total(parts_of(*shape_of(system, one)))
    return {"value": value, "seconds": arm.seconds, "peak_bytes": arm.peak, "flops": flops}


def exponents(points: list[dict[str, Any]], name: str) -> list[float]:
    """Of `name` between each point and the one before."""
    pairs = zip(points[:-1], points[1:], strict=True)
    return [math.log(b[name] / a[name]) / math.log(b["value"] / a["value"]) for a, b in pairs]


def table(title: str, system: str, points: list[dict[str, Any]]) -> str:
    lines = [f"\n| {system}: {title} | step s | exponent | GFLOP | exponent | peak MB |", "| --- " * 6 + "|"]
    grown = [["", ""], *zip(exponents(points, "seconds"), exponents(points, "flops"), strict=True)]
    for point, (seconds, flops) in zip(points, grown, strict=True):
        shown = [f"{number:.2f}" if number != "" else "" for number in (seconds, flops)]
        lines.append(
            f"| {point['value']} | {point['seconds']:.2f} | {shown[0]} | {point['flops'] / 1e9:.0f} | {shown[1]} | "
            f"{point['peak_bytes'] / 1e6:.0f} |"
        )
    return "\n".join(lines)


def plot(found: dict[str, Any], file: Path) -> None:
    """A panel for each sweep: measured time, and what the operations say, at the first point's rate."""
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    size = (3.2 * columns, 2.8 * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    panels = grid.flat
    for (title, sweep), panel in zip(found.items(), panels, strict=False):
        points = sweep["points"]
        values = [point["value"] for point in points]
        rate = points[0]["seconds"] / points[0]["flops"]
        panel.plot(values, [point["seconds"] for point in points], "o-", label="measured")
        panel.plot(values, [point["flops"] * rate for point in points], "--", color="grey", label="operations")
        panel.set(xscale="log", yscale="log", xlabel=title, title=sweep["system"])
        panel.set_xticks(values, [str(value) for value in values], minor=False)
        panel.set_yticks([point["seconds"] for point in points], [f"{point['seconds']:.2g}" for point in points])
        panel.minorticks_off()
    for empty in panels:
        empty.set_axis_off()
    for first in grid[:, 0]:
        first.set_ylabel("step, s")
    grid[0][0].legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--size", choices=["base", "tiny"], default="base")
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=None)
    parser.add_argument("--few", action="store_true", help="two points, for tests")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="as step.py's")
    parser.add_argument(
        "--out", type=Path, required=True, help="OUT.json and OUT.png are written; OUT.json is added to"
    )
    args = parser.parse_args()
    args.arms, args.stages, args.dropout, args.fairseq = ["data2vec"], False, False, None
    args.warmup = 2  # the optimizer's moments appear in the first step, so that the second still asks for memory
    written = args.out.with_suffix(".json")
    found: dict[str, Any] = json.loads(written.read_text()) if written.is_file() else {}
    sweeps = FEW if args.few else {title: SWEEPS[title] for title in args.sweeps or SWEEPS}
    for title, (system, varied, values) in sweeps.items():
        points = [measure(system, varied, value, args) for value in values]
        found[title] = {"system": system, "precision": args.precision, "points": points}
        print(table(title, system, points), flush=True)
        written.write_text(json.dumps(found, indent=1))
    plot(found, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
