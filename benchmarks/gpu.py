"""Samples per second, share of the fastest matrix product (MFU) and memory of a step on one GPU, eager and compiled.

    python benchmarks/gpu.py --json gpu.json

Six systems at base size in bf16, each with the batch that its published recipe gives one device. The arms are those of
step.py and take their steps in turn. Both systems of a modality are on the device at once, so that they are compiled
side by side: choose fewer with --system where memory is short. An arm that fails, or has no number after --minutes, is
written with its error; the file is written after every modality. MFU is the operations of flops.py per second, divided
by the rate of the fastest bf16 matrix product, which is measured first.
"""

import argparse
import json
import statistics
import tempfile
import threading
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from flops import step, total
from machine import Machine, measure
from step import Arm, shape_of, start
from systems import SYSTEMS


BATCHES: dict[str, tuple[int, int, int | None]] = {  # samples; seconds, pixels or tokens of each; views
    "audio_v1": (16, 15, None),
    "audio_v2": (4, 15, 8),
    "vision_v1": (128, 224, None),
    "vision_v2": (16, 224, 16),
    "text_v1": (16, 512, None),
    "text_v2": (4, 512, 8),
}
EAGER = "data2vec training.dataloader_num_workers=2"
ARMS = [EAGER, f"{EAGER} training.torch_compile=true"]
WARMUP = 3  # the first compiles, the second has the optimizer's moments

Key = tuple[str, str]  # system, words of the arm


def answers(arms: dict[Key, Arm], failed: dict[Key, str], ask: bool = True) -> dict[Key, dict[str, Any]]:
    """What the arms say to one step that they take at the same time; those that end go to `failed`."""
    running = {key: arm for key, arm in arms.items() if key not in failed}
    if ask:
        for arm in running.values():
            arm.ask(split=False)
    said = {}
    for key, arm in running.items():
        try:
            said[key] = arm.answer()
        except RuntimeError as error:
            failed[key] = str(error)
    return said


def spec_of(system: str, size: str) -> dict[str, Any]:
    batch, length, views = BATCHES[system] if size == "base" else (2, None, SYSTEMS[system].views)
    return {"size": size, "batch": batch, "length": length, "views": views, "dropout": False}


def time_steps(arms: dict[Key, Arm], failed: dict[Key, str], rounds: int) -> dict[Key, dict[str, Any]]:
    """Seconds of the first step and of a median one, and peak memory."""
    first = answers(arms, failed)
    for _ in range(WARMUP - 1):
        answers(arms, failed)
    taken: dict[Key, list[dict[str, Any]]] = {key: [] for key in arms}
    for _ in range(rounds):
        for key, arm in arms.items():
            taken[key] += answers({key: arm}, failed).values()
    return {
        key: {
            "first_step_seconds": first[key]["seconds"],
            "seconds": statistics.median(one["seconds"] for one in steps),
            "peak_bytes": max(one["peak_bytes"] for one in steps),
        }
        for key, steps in taken.items()
        if key not in failed
    }


def report(system: str, found: dict[Key, dict[str, Any]], words: list[str], size: str, machine: Machine) -> list[dict]:
    """A row for each arm, printed and returned."""
    shape = shape_of(system, argparse.Namespace(**spec_of(system, size)))
    flops, rows = total(step(*shape)), []
    for arm in words:
        row = {"system": system, "arm": arm, "samples": shape[-1].batch, "flops": flops, **found[system, arm]}
        shown = row.get("error", "").strip().splitlines()[-1:]
        if not shown:
            row["samples_per_second"] = row["samples"] / row["seconds"]
            row["mfu"] = flops / row["seconds"] / machine.gemm["bf16"]
            shown = [f"{row['samples_per_second']:.1f}", f"{row['mfu']:.1%}", f"{row['peak_bytes'] / 1e9:.1f}"]
        print("|", " | ".join([system, arm, *shown]), "|", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", nargs="+", choices=list(BATCHES), default=list(BATCHES))
    parser.add_argument("--arms", nargs="+", default=ARMS, help="as step.py's")
    parser.add_argument("--size", choices=["base", "tiny"], default="base")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=8, help="what has no number by then is left out")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    tiny = args.size == "tiny"
    if not tiny and not torch.cuda.is_available():
        raise SystemExit("There is no GPU: use step.py, or --size tiny to see whether the script runs.")
    with tempfile.TemporaryDirectory() as folder:
        arms: dict[Key, Arm] = {}
        for system in args.system:
            for words in args.arms:
                spec = {"system": system, "precision": "bf16", "clock": "wall", **spec_of(system, args.size)}
                arms[system, words] = start(words, spec, f"{folder}/{len(arms)}", None)
        end = threading.Timer(60 * args.minutes, lambda: [arm.kill() for arm in arms.values()])
        end.start()
        machine, failed = measure(("bf16",), quick=tiny), dict[Key, str]()
        answers(arms, failed, ask=False)  # all have been built
        print(f"{machine.name}: {machine.gemm['bf16'] / 1e12:.1f} TFLOP/s in its fastest bf16 product\n")
        print("| system | arm | samples/s | MFU | peak GB |\n| --- | --- | --- | --- | --- |")
        rows: list[dict[str, Any]] = []
        for _, group in groupby(args.system, key=lambda system: system.split("_")[0]):
            systems = list(group)
            here = {key: arm for key, arm in arms.items() if key[0] in systems}
            found = time_steps(here, failed, args.rounds)
            for arm in here.values():
                arm.kill()  # and give its memory back
            found |= {key: {"error": error} for key, error in failed.items()}
            rows += [row for system in systems for row in report(system, found, args.arms, args.size, machine)]
            args.json.write_text(json.dumps({"machine": machine.to_dict(), "results": rows}, indent=1))
        end.cancel()


if __name__ == "__main__":
    main()
