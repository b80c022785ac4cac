"""What this machine can do, measured: the rates that a training step is compared with."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data2vec.pretraining.monitoring.run_summary import has_bf16_products


Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class Machine:
    """Rates with the threads or the GPU that steps use too.

    Attributes:
        gemm: FLOP/s of the fastest matrix product, by precision.
        bandwidth: bytes/s that an average over two large vectors reads and writes.
    """

    name: str
    threads: int
    allocator: str
    versions: str
    gemm: dict[str, float]
    bandwidth: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def floor(self, flops: float, precision: str, trained: int, teacher: int) -> float:
        """Seconds that a step takes at least with these rates.

        Its matrix products run as fast as the fastest, elementwise work is free, and the weights pass memory once:
        weight, two moments read and written, gradient read twice, teacher read and written, in fp32.
        """
        return flops / self.gemm[precision] + (32 * trained + 8 * teacher) / self.bandwidth


def measure(
    precisions: tuple[str, ...] = ("fp32", "bf16"), quick: bool = False, now: Clock = time.perf_counter
) -> Machine:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {precision: _gemm(precision, device, quick, now) for precision in precisions}
    return Machine(_name(), torch.get_num_threads(), allocator(), _versions(), rates, _bandwidth(device, quick, now))


def _seconds(work: Callable[[], Any], device: str, repeats: int, now: Clock) -> float:
    """The best of a few, after a first that is not counted."""
    best = float("inf")
    for number in range(repeats + 1):
        began = now()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number:
            best = min(best, now() - began)
    return best


def _gemm(precision: str, device: str, quick: bool, now: Clock) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    big = 8192 if device == "cuda" else 2048
    shapes = [(64, 64, 64)] if quick else [(big, big, big), (788, 768, 3072), (788, 3072, 768), (992, 768, 2304)]
    best = 0.0
    for rows, inside, outside in shapes:
        x = torch.randn(rows, inside, device=device).to(dtype)
        w = torch.randn(outside, inside, device=device).to(dtype)
        seconds = _seconds(lambda x=x, w=w: torch.nn.functional.linear(x, w), device, 10, now)
        best = max(best, 2.0 * rows * inside * outside / seconds)
    return best


def _bandwidth(device: str, quick: bool, now: Clock) -> float:
    size = 1 << (16 if quick else 26)  # 256 MB each: no cache holds them
    mean, new = torch.zeros(size, device=device), torch.ones(size, device=device)
    return 3 * 4 * size / _seconds(lambda: mean.lerp_(new, 0.1), device, 5, now)


def allocator() -> str:
    """Which malloc this process has; it changes a step by up to a fifth on CPU."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return "unknown"
    return next((name for name in ("tcmalloc", "jemalloc", "mimalloc") if name in maps), "the system's malloc")


def _name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, " + ("with bf16 products" if has_bf16_products() else "without bf16 products: bf16 is slow")


def _versions() -> str:
    import accelerate
    import transformers

    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"accelerate {accelerate.__version__}"
    )
