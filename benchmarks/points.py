"""How the cost of a cloud grows with its points: `python benchmarks/points.py`.

Point2Vec at base size in eval mode: the grouping alone, and the whole encoder. The tokens stay 64, so only the choice
of centres and of their neighbours reads more. The exponent between neighbours says how time grows: 1 is linear.
Processor time, the least of some repetitions.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from data2vec.modeling import Point2VecConfig, Point2VecModel
from data2vec.modeling.point_groups import farthest_points, nearest_points, pick


def least(work: Callable[[], Any], repetitions: int) -> float:
    """Processor seconds."""
    found = []
    for _ in range(repetitions):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


@torch.no_grad()
def measure(points: int, batch: int, repetitions: int, config: Point2VecConfig) -> tuple[float, float]:
    """Seconds of the grouping and of the encoder."""
    torch.manual_seed(0)
    model, clouds = Point2VecModel(config).eval(), torch.randn(batch, points, 3)

    def group() -> None:
        centers = pick(clouds, farthest_points(clouds, config.num_groups))
        nearest_points(centers, clouds, config.group_size)

    group()
    return least(group, repetitions), least(lambda: model(clouds), repetitions)


def table(sizes: list[int], rows: list[tuple[float, float]]) -> str:
    lines = ["| points | grouping ms | exponent | encoder ms | exponent |", "| --: | --: | --: | --: | --: |"]
    for number, (size, row) in enumerate(zip(sizes, rows, strict=True)):
        grown = ["", ""]
        if number:
            step = math.log(size / sizes[number - 1])
            grown = [f"{math.log(now / before) / step:.2f}" for now, before in zip(row, rows[number - 1], strict=True)]
        lines.append(f"| {size:,} | {1000 * row[0]:.0f} | {grown[0]} | {1000 * row[1]:.0f} | {grown[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    rows = [measure(points, given.batch, given.repetitions, Point2VecConfig()) for points in given.points]
    print(table(given.points, rows))


if __name__ == "__main__":
    main()
