"""Times one full training step and says how far it is from what the machine can do.

    python benchmarks/step.py --system audio_v2 --precision bf16
    python benchmarks/step.py --system audio_v2 --arms baseline data2vec "data2vec training.optim=adamw_torch"

A step is: batch and masks from the collator, forward with the teacher, backward, clipping, optimizer, teacher's move.
Every arm trains in a process of its own, through the `Trainer`'s own loop; all of them take one step in turn, in
reversed order every round, and the median counts. An arm is `baseline` (see baseline.py) or `data2vec` (this package),
followed by FIELD=VALUE of the recipe or, in capitals, of the environment. Dropout is 0 in all arms unless --dropout.
Pin the process and set OMP_NUM_THREADS to say how many cores; LD_PRELOAD chooses the allocator for all arms alike.
Where other programs use the same core, --clock processor counts the time that an arm had it: one thread, no GPU.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from flops import Shape, by_part, step, total
from machine import Machine, measure
from systems import SAMPLING_RATE, SYSTEMS, build, parse_arm
from worker import CLOCKS, STAGES


WORKER = Path(__file__).with_name("worker.py")


class Arm:
    """A process that takes a step when told to."""

    def __init__(self, words: str, command: list[str], spec: dict[str, Any], environment: dict[str, str]):
        self.words, self.steps, self.about = words, [], {}
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [*command, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"} | environment,
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"The arm {self.words!r} ended:\n{self._log.read()[-3000:]}")
        return json.loads(line)

    def ask(self, split: bool) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: the answer says why
            self._process.stdin.write("stages\n" if split else "step\n")
            self._process.stdin.flush()

    def step(self, split: bool) -> dict[str, Any]:
        self.ask(split)
        return self.answer()

    def close(self) -> None:
        self._process.communicate("stop\n", timeout=120)

    def kill(self) -> None:
        """End it, in a step too, and wait until its memory is free."""
        self._process.kill()
        self._process.wait()

    @property
    def seconds(self) -> float:
        return statistics.median(one["seconds"] for one in self.steps)

    @property
    def stages(self) -> dict[str, float]:
        """Medians of the stages."""
        names = [name for name in STAGES if any(name in one["stages"] for one in self.steps)]
        return {name: statistics.median(one["stages"].get(name, 0.0) for one in self.steps) for name in names}

    @property
    def peak(self) -> float:
        return max(one["peak_bytes"] for one in self.steps)


def start(words: str, spec: dict[str, Any], folder: str, fairseq: str | None) -> Arm:
    kind, fields, environment = parse_arm(words)
    if kind == "fairseq":
        if fairseq is None:
            raise ValueError("The arm fairseq needs --fairseq FOLDER_OF_A_CHECKOUT.")
        script, more = WORKER.with_name("worker_fairseq.py"), {"fairseq": fairseq}
    elif kind in ("baseline", "data2vec"):
        script, more = WORKER, {"arm": kind, "overrides": fields, "output_dir": folder}
    else:
        raise ValueError(f"{kind!r} is not an arm: use baseline, data2vec or fairseq.")
    return Arm(words, [sys.executable, str(script)], spec | more, environment)


def run(system: str, precision: str, args: argparse.Namespace) -> list[Arm]:
    """Steps of every arm in turn."""
    spec = {"system": system, "precision": precision, "size": args.size, "dropout": args.dropout}
    spec |= {"batch": args.batch, "length": args.length, "views": args.views, "clock": args.clock}
    with tempfile.TemporaryDirectory() as folder:
        arms = []
        for number, words in enumerate(args.arms):
            arms.append(start(words, spec, f"{folder}/{number}", args.fairseq))
            arms[-1].about = arms[-1].answer()  # one after the other: starting at once would disturb nobody but memory
        for round_ in range(-args.warmup, args.rounds):
            for arm in arms if round_ % 2 else arms[::-1]:
                taken = arm.step(split=args.stages)
                if round_ >= 0:
                    arm.steps.append(taken)
        for arm in arms:
            arm.close()
    return arms


def shape_of(system: str, args: argparse.Namespace) -> tuple[Any, Any, Shape]:
    """Encoder, objective and [`Shape`] of the arms' first batch."""
    run_, data = build(
        system, size=args.size, batch=args.batch, length=args.length, views=args.views, dropout=args.dropout
    )
    keys = next(iter(data.batch_sampler or []))
    masked = data.collator([data.train_dataset[key] for key in keys])["masked"]
    second = run_.objective.views is not None
    kept = int((~masked).sum(-1).max()) if second else masked.shape[-1]
    example = next(iter(data.train_dataset[keys[0]].values()))
    return run_.config, run_.objective, Shape(len(keys), example.shape[-1], masked.shape[-1], kept, int(masked.sum()))


def report(system: str, precision: str, args: argparse.Namespace, machine: Machine) -> dict[str, Any]:
    config, objective, shape = shape_of(system, args)
    parts = step(config, objective, shape)
    flops = total(parts)
    arms = run(system, precision, args)
    first = arms[0]
    unit = {"audio": f"{shape.length / SAMPLING_RATE:g} s", "vision": f"{shape.length} pixels"}
    length = unit.get(system.split("_")[0], f"{shape.length} tokens")
    views = "" if objective.views is None else f", {objective.views} views"
    print(f"\n## {system} {precision}, {args.size}: {shape.batch} x {length}{views}\n")
    split = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in by_part(parts).items())
    print(f"{flops / 1e9:.1f} GFLOP a step ({split})\n")
    print(f"| arm | step s | {first.words} / it | GFLOP/s | of GEMM peak | of the floor | peak MB | / {first.words} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for arm in arms:
        floor = machine.floor(flops, precision, arm.about["trained"], arm.about["teacher"])
        rate = flops / arm.seconds
        print(
            f"| {arm.words} | {arm.seconds:.3f} | {first.seconds / arm.seconds:.2f}x | {rate / 1e9:.0f} | "
            f"{rate / machine.gemm[precision]:.0%} | {floor / arm.seconds:.0%} | {arm.peak / 1e6:.0f} | "
            f"{arm.peak / first.peak:.2f} |"
        )
    if args.stages:
        names = [name for name in STAGES if any(name in arm.stages for arm in arms)]
        print(f"\n| stage, ms | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
        for arm in arms:
            print(f"| {arm.words} | {' | '.join(f'{1000 * arm.stages.get(name, 0):.0f}' for name in names)} |")
    sys.stdout.flush()
    rows = [
        {"arm": arm.words, "seconds": arm.seconds, "peak_bytes": arm.peak, "stages": arm.stages, **arm.about}
        | {"every": [one["seconds"] for one in arm.steps]}
        for arm in arms
    ]
    return {"system": system, "precision": precision, "size": args.size, "flops": flops, "arms": rows} | vars(shape)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--system", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    made.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["bf16", "fp32"])
    made.add_argument("--arms", nargs="+", default=["baseline", "data2vec"])
    made.add_argument("--size", choices=["base", "tiny"], default="base")
    made.add_argument("--batch", type=int, help="samples of a step (default: the system's)")
    made.add_argument("--length", type=int, help="seconds, pixels of a side, or tokens (default: the system's)")
    made.add_argument("--views", type=int, help="masks per sample, data2vec 2.0 only (default: the system's)")
    made.add_argument("--dropout", action="store_true", help="the recipe's dropouts instead of none")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--warmup", type=int, default=2)
    made.add_argument("--stages", action=argparse.BooleanOptionalAction, default=True, help="a GPU waits at each")
    made.add_argument("--clock", choices=list(CLOCKS), default="wall", help="what seconds are read off")
    made.add_argument("--fairseq", help="folder of a fairseq checkout, for the arm fairseq")
    made.add_argument("--json", type=Path, help="write every number there")
    return made


def main() -> None:
    args = parser().parse_args()
    if args.clock == "processor" and (torch.cuda.is_available() or torch.get_num_threads() > 1):
        raise SystemExit("--clock processor is for one thread on a CPU: set OMP_NUM_THREADS=1.")
    machine = measure(tuple(args.precision), quick=args.size == "tiny", now=CLOCKS[args.clock])
    gemm = ", ".join(f"{precision} {rate / 1e9:.0f} GFLOP/s" for precision, rate in machine.gemm.items())
    print(f"{machine.name}; {machine.threads} threads; {machine.allocator}; {machine.versions}")
    print(f"Fastest matrix product: {gemm}; memory {machine.bandwidth / 1e9:.1f} GB/s")
    results = [report(system, precision, args, machine) for system in args.system for precision in args.precision]
    if args.json is not None:
        args.json.write_text(json.dumps({"machine": machine.to_dict(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
