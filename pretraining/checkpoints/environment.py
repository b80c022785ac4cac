"""What a run was made with and on: the commit of this package, the machine. Facts for its run.json and model card."""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch


CHECKOUT = Path(__file__).resolve().parents[2]


def source_commit(checkout: Path = CHECKOUT) -> str | None:
    """The git commit of this package, with `+changes` where files differ from it; `None` where nobody knows.

    A checkout is asked; a package that pip installed from a repository has it in its metadata.
    """
    if (checkout / ".git").exists():
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
        return f"{commit}+changes" if commit and changed else commit
    try:
        installed = distribution("data2vec").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return json.loads(installed).get("vcs_info", {}).get("commit_id") if installed else None


def hardware() -> dict[str, Any]:
    """Processor and memory of this process's machine, and the accelerators that it sees."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "memory_gib": round(gib, 1), "gpus": gpus}


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
