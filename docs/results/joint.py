"""The claim `joint` of reproduce.py: does one trunk learn speech, images and letters as well as three trunks do?

three runs of one modality each   against   a joint run with as many updates of each modality, three times as many
                                            in all, and one with as many in all, a third as many of each
"""

import json
from pathlib import Path
from typing import Any

from comparisons import Comparison
from experiment import Experiment
from measure import raw
from trunks import SEEDS, SETS, TrunkRun, compare_arms, draw_arms, table_of, together, trained, untrained


CLAIM = "One trunk learns speech, images and letters as well as three trunks do"
PAPER = "data2vec 2.0 names training on all modalities together as what may come next; nobody measured it"
UPDATES = 1000  # of a run of one modality
SINGLE, SAME_EACH, SAME_TOTAL = "three single runs", "joint, as many updates of each", "joint, as many updates in all"
RAW = {"audio": "audio_v2", "image": "vision_v2", "text": "text_v2"}  # systems that read the same data


def evaluate(data: Path, runs: Path, seeds: tuple[int, ...] = SEEDS, **changes: Any) -> dict[str, Any]:
    """Everything that data/joint.json holds; `changes` are fields of every recipe."""
    arms: dict[str, list[Any]] = {}
    for seed in seeds:
        for arm, row in rows(data, runs, seed, changes).items():
            arms.setdefault(arm, []).append({"seed": seed, **row})
            print(f"joint, {arm}, seed {seed}: {json.dumps(row)}", flush=True)
    without = {name: raw(Experiment(system, {}, 0, data, runs)) for name, system in RAW.items()}
    wall = sum(row["wall_seconds"] for of_arm in arms.values() for row in of_arm)
    wall += sum(found.pop("seconds") for found in without.values())
    found = {"claim": CLAIM, "paper": PAPER, "updates": UPDATES, "arms": arms, "raw": without}
    return found | {"wall_seconds": round(wall, 1)}


def rows(data: Path, runs: Path, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """What each arm of a seed scored."""

    def of(updates: int, *names: str) -> TrunkRun:
        fields = {"training.max_steps": updates, **changes}
        return TrunkRun("joint", fields, seed, data, runs, {name: SETS[name] for name in names or SETS})

    return {
        SINGLE: together(trained(of(UPDATES, name)) for name in SETS),
        SAME_EACH: trained(of(UPDATES * len(SETS))),
        SAME_TOTAL: trained(of(UPDATES)),
        "untrained": untrained(of(UPDATES)),
    }


def compared(found: dict[str, Any]) -> list[Comparison]:
    pairs = ((SAME_EACH, SINGLE), (SAME_TOTAL, SINGLE), (SAME_EACH, "untrained"))
    return [row for better, worse in pairs for row in compare_arms(found["arms"], better, worse)]


def table(found: dict[str, Any]) -> str:
    """Markdown: the arms, and the same classifiers on features that need no network."""
    lines = [table_of(found["arms"]), "", "| without a network | linear probe | k-NN | few labels |"]
    lines.append("| --- | --: | --: | --: |")
    for name, kinds in found["raw"].items():
        for kind, of_kind in kinds.items():
            cells = (f"{of_kind[measure]:.1f}" for measure in ("linear", "knn", "few"))
            lines.append(f"| {name}: {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    draw_arms(found["arms"], path)
