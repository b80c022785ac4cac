"""Kill tiny runs at random moments, continue them with the same command, compare with runs that nobody disturbed.

    OMP_NUM_THREADS=1 python tests/pretraining/kill_matrix.py [--kills 20] [--systems text-2 ...] [--steps 60]

Every system of tiny_runs.py, each in four ways to run; the kills are dealt out to these, at moments
of a run's processor time, so that they do not depend on what else the machine does; with few updates that is mostly a
run's start. A run counts as exact where weights, teacher, optimizer, schedule, random states and every logged number
but timings are the same to the last bit. Prints a table; exit code 1 where one is not. The tests use the same
functions.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from data2vec.tests.pretraining.tiny_runs import JOINT, MODELS, write_recipe, write_sources


COUNTS = ("kills", "before the first", "in a write", "exact")  # the first and the write: of a checkpoint
TIMINGS = ("_per_second", "_runtime", "_seconds")
WAYS: dict[str, dict[str, Any]] = {
    "1 process": {},
    "2 workers, accumulation 2": {"dataloader_num_workers": 2, "gradient_accumulation_steps": 2},
    "stream, 2 workers": {"streaming": True, "dataloader_num_workers": 2},
    "2 processes, accumulation 2": {"gradient_accumulation_steps": 2, "processes": 2},
}
# ---- running ----


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")  # imports once; every run is then a new process of it
    context.set_forkserver_preload(["data2vec.pretraining.run"])
    return context


def _main(
    argv: list[str], environment: Mapping[str, str], log: str, at: tuple[int, int, int] | None, limit: int
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= environment
    multiprocessing.set_start_method("fork", force=True)  # for loader workers: here it would be this process's own way
    from data2vec.pretraining.run import main

    if at is not None:
        signal_in_checkpoint(*at)
    if limit:
        limit_files_of_checkpoints(limit)
    sys.argv = ["run.py", *argv]
    sys.exit(main(argv))


def signal_in_checkpoint(number: int, operation: int, which: int) -> None:
    """A signal to this process while it makes its so-manieth checkpoint visible: at a fsync or rename of that."""
    from data2vec.pretraining.checkpoints import resume as trainer_resume

    publish, published, done = trainer_resume.publish, 0, 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += published == number
            if (published, done) == (number, operation):
                os.kill(os.getpid(), which)
            return function(*args, **kwargs)

        return call

    def publish_and_count(*args: Any) -> None:
        nonlocal published
        published += 1
        publish(*args)

    trainer_resume.publish = publish_and_count
    for name in ("fsync", "rename"):
        setattr(os, name, counted(getattr(os, name)))


def limit_files_of_checkpoints(size: int) -> None:
    """From the first checkpoint on no file of this process may grow beyond `size` bytes: the system refuses."""
    from data2vec.pretraining.checkpoints.resume import ResumableTrainer

    save = ResumableTrainer._save_checkpoint

    def limited(self: Any, *args: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        save(self, *args)

    ResumableTrainer._save_checkpoint = limited  # type: ignore[method-assign]


@dataclass
class Started:
    """A run's processes, one a rank; `computed`: seconds of processor time of rank 0, as of the last look."""

    ranks: list[Any]
    log: Path
    computed: float = 0.0

    def send(self, number: int) -> None:
        for rank in self.ranks:
            if rank.is_alive():
                os.kill(rank.pid, number)

    def wait(self, until: float = math.inf) -> int | None:
        """The first exit code that is not 0, or 0; None once rank 0 has computed for `until` seconds.

        The other ranks end where one was killed.
        """
        while any(rank.is_alive() for rank in self.ranks):
            self.computed = max(self.computed, self._computed())
            if self.computed >= until:
                return None
            if any(rank.exitcode not in (None, 0, 4) for rank in self.ranks):
                for rank in self.ranks:
                    rank.join(10)  # it ends by itself, with its own code; else as a launcher ends it
                self.send(signal.SIGKILL)
            time.sleep(0.005)
        return next((rank.exitcode for rank in self.ranks if rank.exitcode), 0)

    def _computed(self) -> float:
        """Seconds of processor time of rank 0, so that a moment does not depend on what else the machine does."""
        try:
            fields = Path(f"/proc/{self.ranks[0].pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0  # it has just ended
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(
    path: Path,
    *,
    processes: int = 1,
    overrides: Sequence[str] = (),
    signal_at: tuple[int, int, int] | None = None,
    file_limit: int = 0,
) -> Started:
    """Start a recipe file; with several processes on gloo, as a launcher would.

    Args:
        signal_at: (checkpoint, operation, signal) for rank 0, see `signal_in_checkpoint`.
        file_limit: bytes that no file may exceed from the first checkpoint on, as on a full disk; 0 is none.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log, ranks = path.with_suffix(".log"), []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} if processes > 1 else {}
        args = ([str(path), *overrides], own, str(log), signal_at if rank == 0 else None, file_limit)
        ranks.append(_context().Process(target=_main, args=args))
        ranks[-1].start()
    return Started(ranks, log)


def finish(path: Path, **how: Any) -> float:
    """Run to the end; returns the seconds that rank 0 computed. Raises RuntimeError with the output where it fails."""
    started = start(path, **how)
    code = started.wait()
    if code != 0:
        raise RuntimeError(f"exit code {code}: {started.log.read_text()[-3000:]}")
    return started.computed


# ---- comparing ----


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same, to the last bit, in two run folders: names of files and logged numbers."""
    found = []
    last = max(one.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])).name
    for place in (".", "pretraining", last):
        a, b = (load_file(folder / place / "model.safetensors") for folder in (one, other))
        same = {name for name in a.keys() & b.keys() if torch.equal(a[name], b[name])}
        found += [f"{place}/model.safetensors: {name}" for name in sorted((a.keys() | b.keys()) - same)]
    for path in sorted((one / last).glob("*.p*t*")):
        if path.suffix in (".pt", ".pth"):
            with safe_globals():
                a, b = (torch.load(f / last / path.name, weights_only=True) for f in (one, other))
            if not _same(a, b):
                found.append(f"{last}/{path.name}")
    for place in ("", last):
        a, b = (logged(folder / place) for folder in (one, other))
        if a != b:
            found.append(f"{place or '.'}/trainer_state.json: {a} {b}")
    return found


def logged(folder: Path) -> list[dict[str, float]]:
    """The log of a run or a checkpoint without what depends on the clock."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in log.items() if not k.endswith(TIMINGS)} for log in history]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


# ---- the matrix ----


def matrix(folder: Path, systems: Sequence[str], kills: int, seed: int, steps: int) -> list[dict[str, Any]]:
    """A row for each system: {system, kills, before the first, in a write, exact, wrong}."""
    sources = folder / "sources"
    write_sources(sources)
    rows = []
    for system in systems:
        rng = random.Random(f"{seed} {system}")
        row: dict[str, Any] = {"system": system, **dict.fromkeys(COUNTS, 0), "wrong": []}
        for number, (way, fields) in enumerate(WAYS.items()):
            fields = fields | {"max_steps": steps}
            how = {"processes": fields.pop("processes", 1)}
            undisturbed = write_recipe(folder, f"{system}-{number}", system, sources, **fields)
            seconds = finish(undisturbed, **how)
            for kill in range(number, kills, len(WAYS)):
                path = write_recipe(folder, f"{system}-{number}-{kill}", system, sources, **fields)
                run_folder, moment = path.with_suffix(""), rng.uniform(0.0, seconds)
                started = start(path, **how)
                started.wait(until=moment)
                started.send(signal.SIGKILL)
                started.wait()
                row["kills"] += 1
                row["in a write"] += (run_folder / "_writing").exists()
                row["before the first"] += not list(run_folder.glob("checkpoint-*"))
                finish(path, **how)
                wrong = differences(undisturbed.with_suffix(""), run_folder)
                row["exact"] += not wrong
                said = f"{way}, killed after {moment:.2f} s of {seconds:.2f}: {wrong[:3] or 'exact'}"
                row["wrong"] += [said] if wrong else []
                print(f"{system}, {said}", file=sys.stderr, flush=True)
        rows.append(row)
        print(_line(row), flush=True)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return "| " + " | ".join(str(row[name]) for name in ("system", *COUNTS)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each system")
    parser.add_argument("--systems", nargs="*", default=list(MODELS), choices=[*MODELS, JOINT])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60, help="updates of a run; every second one is saved")
    args = parser.parse_args()
    print("| system | kills | before the first checkpoint | in a write | exact |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        rows = matrix(Path(folder), args.systems, args.kills, args.seed, args.steps)
    for row in rows:
        for wrong in row["wrong"]:
            print(f"{row['system']}: {wrong}")
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
