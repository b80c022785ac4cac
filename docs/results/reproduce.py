"""Reproduce a row of the table: `python docs/results/reproduce.py CLAIM --data DATA --runs RUNS`.

    claims/CLAIM.yaml  ->  runs in RUNS  ->  data/CLAIM.json  ->  pictures/CLAIM.png, tables of CLAIM.md and README.md

Trains every system, arm and seed of the claim that RUNS does not hold yet, as many at once as there are cores, probes
each encoder and writes the numbers. DATA holds the data sets by folder. A run that was stopped starts over, a finished
one is found again, also by other claims. `--draw` only draws again from the numbers that are there.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import emotion
import forgetting
import guard
import joint
import knows
import label_free
import phones
import sweep
import text
import torch
import universal
import yaml
from experiment import HERE, SYSTEMS, Experiment, wall_seconds
from measure import health, measured, raw, seconds
from pictures import draw, draw_effects
from tables import all_claims, write_tables

from data2vec.pretraining.checkpoints.environment import hardware, source_commit


# claims that compare something else than arms of systems
OWN: dict[str, Any] = {
    "emotion": emotion,
    "forgetting": forgetting,
    "guard": guard,
    "joint": joint,
    "knows": knows,
    "label_free": label_free,
    "phones": phones,
    "sweep": sweep,
    "text": text,
    "universal": universal,
}
LIBRARIES = ("torch", "transformers", "datasets", "scikit-learn")


@dataclass(frozen=True)
class Claim:
    """A file of `claims/`.

    Args:
        title: the claim, in one sentence.
        paper: what the paper found, and where.
        arms: what each arm changes, `{"K = 1": {"objective.top_k_layers": 1}}`; `systems` without arms have one.
        systems: names of `experiment.SYSTEMS`, or a dict from a name to the arms that it has.
        seeds: how many.
        layers, fine_tune: what is measured, see `measure.measured`.
        curves: also keep what was logged during training.
        picture: how it is drawn, see `pictures.draw`.
        headline: what is compared, the main pair first: `system`, and `ARM/ENCODER/MEASURE` that should be
            `better` and `worse`.
    """

    name: str
    title: str
    paper: str
    systems: dict[str, list[str]]
    arms: dict[str, dict[str, Any]]
    picture: dict[str, Any]
    headline: list[dict[str, str]]
    seeds: int = 3
    layers: str = "last"
    fine_tune: bool = False
    curves: bool = False

    @classmethod
    def read(cls, name: str) -> "Claim":
        path = HERE / "claims" / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(path.stem for path in path.parent.glob("*.yaml")))
            raise SystemExit(f"{name!r} is not a claim: use one of {known}.")
        values = yaml.safe_load(path.read_text())
        values.setdefault("arms", {"as it is": {}})
        systems = values.pop("systems")
        if not isinstance(systems, dict):
            systems = dict.fromkeys(systems, list(values["arms"]))
        return cls(name=name, systems=systems, **values)


def reproduce(claim: Claim, data: Path, runs: Path, workers: int) -> dict[str, Any]:
    """Everything that `data/CLAIM.json` holds; trained and measured by so many processes, of one thread each."""
    rows = [(claim, system, seed, data, runs) for seed in range(claim.seeds) for system in claim.systems]
    for _, system, *_ in rows:
        Experiment(system, {}, 0, data, runs).prepared  # noqa: B018  # before two processes write it
    if workers == 1:
        for row in rows:
            all_arms(*row)
    else:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes: torch, NumPy and scikit-learn read it when they start
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(all_arms, *zip(*rows, strict=True)))  # the list raises what a process raised
    return {
        "claim": claim.title,
        "paper": claim.paper,
        "headline": claim.headline,
        "systems": {
            system: {
                "title": SYSTEMS[system].title,
                **_raw(Experiment(system, {}, 0, data, runs)),
                "arms": {
                    arm: {
                        "fields": claim.arms[arm] or {},
                        "seeds": [
                            one_run(claim, Experiment(system, claim.arms[arm] or {}, seed, data, runs))
                            for seed in range(claim.seeds)
                        ],
                    }
                    for arm in arms
                },
            }
            for system, arms in claim.systems.items()
        },
    }


def all_arms(claim: Claim, system: str, seed: int, data: Path, runs: Path) -> None:
    """Train and measure the arms of a seed one after the other: they share the untrained network."""
    for arm in claim.systems[system]:
        began = time.monotonic()
        experiment = Experiment(system, claim.arms[arm] or {}, seed, data, runs)
        experiment.pretrain()
        measured(experiment, layers=claim.layers, fine_tune=claim.fine_tune)
        print(f"{claim.name}: {system}, {arm}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)


def _raw(experiment: Experiment) -> dict[str, Any]:
    scores = raw(experiment)
    return {"data": SYSTEMS[experiment.system].data, "raw_seconds": scores.pop("seconds"), "raw": scores}


def one_run(claim: Claim, experiment: Experiment) -> dict[str, Any]:
    logged = health(experiment)
    found = {
        "seed": experiment.seed,
        "updates": logged["step"][-1],
        "seconds": round(seconds(experiment), 1),
        "wall_seconds": wall_seconds(experiment.folder),
        "health": logged if claim.curves else {name: column[-1] for name, column in logged.items()},
        **measured(experiment, layers=claim.layers, fine_tune=claim.fine_tune),
    }
    probes = [row for row in experiment.log() if "probe/knn_student" in row]
    if probes:
        found["probe"] = {
            "step": [row["step"] for row in probes],
            "seconds": [round(row["training_seconds"], 2) for row in probes],
            "student": [round(100 * row["probe/knn_student"], 2) for row in probes],
            "teacher": [round(100 * row["probe/knn_teacher"], 2) for row in probes],
        }
    return found


def about(name: str, threads: int) -> dict[str, Any]:
    """How the numbers of a claim were made."""
    return {
        "command": f"python docs/results/reproduce.py {name} --data DATA --runs RUNS",
        "commit": source_commit(),
        "hardware": hardware() | {"threads": threads},
        "versions": {library: version(library) for library in LIBRARIES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="+", metavar="CLAIM", help="names of files in claims/")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--runs", type=Path, help="where the runs go")
    parser.add_argument("--draw", action="store_true", help="only draw and write the tables again")
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="processes (default: %(default)s, one a core)")
    given = parser.parse_args()
    if not given.draw and not (given.data and given.runs):
        parser.error("--data and --runs are needed, unless it is --draw")
    for name in given.claims:
        file, picture = HERE / "data" / f"{name}.json", HERE / "pictures" / f"{name}.png"
        own, claim = OWN.get(name), None if name in OWN else Claim.read(name)
        if not given.draw:
            threads = torch.get_num_threads() if own or given.workers == 1 else 1
            if claim is None:
                found = own.evaluate(given.data, given.runs)
            else:
                found = reproduce(claim, given.data, given.runs, given.workers)
            file.write_text(json.dumps(found | about(name, threads), indent=1) + "\n")
        found = json.loads(file.read_text())
        own.draw(found, picture) if claim is None else draw(found, claim.picture, picture)
    write_tables(HERE)
    draw_effects(all_claims(HERE / "data"), HERE / "pictures" / "effects.png")


if __name__ == "__main__":
    main()
