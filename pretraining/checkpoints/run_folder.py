"""What every run writes into its folder besides weights, and whether a folder may be continued.

recipe.yaml   every field with its overrides applied
run.json      the command, the versions, the commit and the hardware; what it cost (run_cost.py)
"""

import errno
import json
import os
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.trainer_utils import get_last_checkpoint

from ..console.redact import mask_command, mask_secrets
from ..recipe import parse_yaml
from .environment import hardware, source_commit
from .run_cost import KEY
from .storage import write_text


LIBRARIES = ("data2vec", "torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # of an OSError that means EXIT_STORAGE


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
    written = folder / "run.json"
    if last_checkpoint(folder) is not None and written.is_file():  # a run that goes on: what it has cost so far
        before = json.loads(written.read_text(encoding="utf-8"))
        facts |= {KEY: before[KEY]} if KEY in before else {}
    write_text(written, json.dumps(facts, indent=2) + "\n")


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a run folder, `None` where there is none to continue from."""
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def check_same_recipe(
    folder: Path, recipe: Mapping[str, Any], sections: Collection[str], free: Collection[str] = ()
) -> None:
    """Refuse a folder whose recipe differs in one of these sections, in another field than the `free` ones.

    Raises:
        ValueError: names the field, both values and the fix.
    """
    written = folder / "recipe.yaml"
    if not written.is_file():
        return
    before = parse_yaml(written.read_text(encoding="utf-8"))
    for section in sections:
        old, new = before.get(section, {}), recipe.get(section, {})
        names = sorted(name for name in {*old, *new} if name not in free and old.get(name) != new.get(name))
        if names:
            raise ValueError(
                f"{folder} holds a run with another {section}.{names[0]}: {old.get(names[0])!r} there, "
                f"{new.get(names[0])!r} here. Use another training.output_dir, or remove it."
            )
