"""The claim `universal` of reproduce.py: what do front ends of each modality's own gain in the same time?

    joint's runs (convolutions, patches, embeddings of letters)   against   rows of numbers through one projection

Updates of the encoders without front ends are as many as fit into the seconds that the others take; those were timed
once, alternately on one core.
"""

import json
from pathlib import Path
from typing import Any

import joint
from comparisons import Comparison
from trunks import SEEDS, SETS, TrunkRun, compare_arms, draw_arms, table_of, together, trained, untrained


CLAIM = "Front ends of a modality's own learn more in the same time than one projection for all"
PAPER = "Perceiver and Perceiver IO read any input so, at full size; data2vec was not trained on it"
UPDATES = {"audio": 1550, "image": 1000, "text": 1000}  # in the time of joint.UPDATES with a front end
SIZES = {"row_size": 320, "num_frequencies": 32, "max_positions": 64}
MODELS: dict[str, dict[str, Any]] = {
    "audio": {"model_type": "universal-audio", "conv_kernel": [320], "conv_stride": [320]},
    "image": {"model_type": "universal-vision", "image_size": 28, "patch_size": 4, "num_channels": 1},
    "text": {"model_type": "universal-text", "vocab_size": 261, "max_position_embeddings": 26},
}
FIELDS = {f"modalities.{name}.model": model | SIZES for name, model in MODELS.items()}
WITHOUT, WITHOUT_JOINT = "no front ends, three single runs", "no front ends, joint"
WITH, WITH_JOINT = "front ends, three single runs", "front ends, joint"


def evaluate(data: Path, runs: Path, seeds: tuple[int, ...] = SEEDS, **changes: Any) -> dict[str, Any]:
    """Everything that data/universal.json holds; `changes` are fields of every recipe."""
    arms: dict[str, list[Any]] = {}
    for seed in seeds:
        specialised = joint.rows(data, runs, seed, changes)
        rows = {WITH: specialised[joint.SINGLE], WITH_JOINT: specialised[joint.SAME_EACH]}
        rows |= without(data, runs, seed, changes)
        for arm, row in rows.items():
            arms.setdefault(arm, []).append({"seed": seed, **row})
            print(f"universal, {arm}, seed {seed}: {json.dumps(row)}", flush=True)
    wall = sum(row["wall_seconds"] for of_arm in arms.values() for row in of_arm)
    found = {"claim": CLAIM, "paper": PAPER, "updates": {"with": joint.UPDATES, "without": UPDATES}}
    return found | {"arms": arms, "wall_seconds": round(wall, 1)}


def without(data: Path, runs: Path, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """What the arms without front ends scored."""

    def of(updates: int, *names: str) -> TrunkRun:
        weights = {f"modalities.{name}.weight": float(number) for name, number in UPDATES.items()}
        fields = {**FIELDS, **weights, "training.max_steps": updates, **changes}
        return TrunkRun("joint", fields, seed, data, runs, {name: SETS[name] for name in names or SETS})

    return {
        WITHOUT: together(trained(of(updates, name)) for name, updates in UPDATES.items()),
        WITHOUT_JOINT: trained(of(sum(UPDATES.values()))),
        "no front ends, untrained": untrained(of(1)),
    }


def compared(found: dict[str, Any]) -> list[Comparison]:
    pairs = ((WITH, WITHOUT), (WITH_JOINT, WITHOUT_JOINT), (WITHOUT_JOINT, WITHOUT))
    return [row for better, worse in pairs for row in compare_arms(found["arms"], better, worse)]


def table(found: dict[str, Any]) -> str:
    return table_of(found["arms"])


def draw(found: dict[str, Any], path: Path) -> None:
    draw_arms(found["arms"], path)
