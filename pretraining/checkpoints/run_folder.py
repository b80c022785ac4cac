"""What every run writes into its folder besides weights, and whether a folder may be continued.

recipe.yaml   every field with its overrides applied
run.json      the command, the versions, the commit and the hardware; what it cost (run_cost.py)
"""

import json
import os
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from ..console.redact import mask_command, mask_secrets
from ..recipe import OPTIONAL, Recipe, read_sections
from .environment import hardware, source_commit
from .run_cost import FILE, KEY, read_facts
from .run_files import write_text
from .storage import WRITING, list_checkpoints, read_manifest, step_of


LIBRARIES = ("data2vec", "torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors")


def write_run_files(folder: Path, recipe: Mapping[str, Any]) -> None:
    """What made this run: the resolved recipe, the command and the versions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.yaml", yaml.safe_dump(mask_secrets(recipe), sort_keys=False))
    facts = {
        "command": mask_command(sys.argv),
        "versions": {name: version(name) for name in LIBRARIES},
        "python": sys.version.split()[0],
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {torch.get_num_threads()} threads",
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "commit": source_commit(),
        "hardware": hardware(),
    }
    if list_checkpoints(folder):  # a run that goes on: what it has cost so far
        before = read_facts(folder) or {}
        facts |= {KEY: before[KEY]} if KEY in before else {}
    write_text(folder / FILE, json.dumps(facts, indent=2) + "\n")


def identity_of(recipe: Recipe, sections: Collection[str], free: Collection[str] = ()) -> dict[str, Any]:
    """What must stay the same for a run to continue: these sections without the `free` fields, as JSON, no secrets."""
    kept = {name: {key: value for key, value in recipe[name].items() if key not in free} for name in sections}
    identity: dict[str, Any] = json.loads(json.dumps(mask_secrets(kept), default=str))
    return identity


def check_checkpoints(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder whose checkpoints are another run's, or say that they are of another step; reads manifests only.

    Raises:
        ValueError: names the checkpoint, the field, both values and the fix.
    """
    for checkpoint in list_checkpoints(folder / WRITING) + list_checkpoints(folder):
        try:
            manifest = read_manifest(checkpoint)
        except ValueError:  # damaged: `recover` says so and, where it can, uses another
            continue
        if manifest["step"] != step_of(checkpoint):
            raise ValueError(
                f"{checkpoint} was written as checkpoint-{manifest['step']} and renamed or copied: remove it, or give "
                "it its own name."
            )
        difference = _first_difference(manifest["run"], identity)
        if difference is not None:
            raise ValueError(
                f"{checkpoint} is of a run with another {difference}. Use another training.output_dir, or remove the "
                "checkpoint."
            )


def check_same_recipe(folder: Path, identity: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Refuse a folder whose recipe.yaml is another run's.

    Raises:
        ValueError: names the field, both values and the fix; or the file, where it cannot be read.
    """
    written = folder / "recipe.yaml"
    if not written.is_file():
        return
    before = read_sections(written, tuple(identity), OPTIONAL)
    difference = _first_difference(identity_of(before, tuple(identity), free), identity)
    if difference is not None:
        raise ValueError(
            f"{folder} holds a run with another {difference}. Use another training.output_dir, or remove it."
        )


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """`section.field: ... there, ... here` of the first field that differs, by name."""
    for section, here in now.items():
        there = before.get(section) or {}
        for name in sorted({*there, *here}):
            if there.get(name) != here.get(name):
                return f"{section}.{name}: {there.get(name)!r} there, {here.get(name)!r} here"
    return None
