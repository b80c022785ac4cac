"""Make a plain folder of each modality of a joint run: `data2vec split RUN OUT`.

    OUT/audio, OUT/text, ...    the encoder and what prepares its inputs; student, teacher and decoder in pretraining/;
                                recipe, log and report, as a run of that modality alone leaves them

Each opens as the folder of such a run does, and is shown and published like one.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..modeling import JointForPreTraining, JointModel
from .checkpoints.hub_push import PROCESSOR, matches
from .checkpoints.run_files import WHOLE, write_text
from .command_line import SECTIONS, field_names, require_joint_run, split_parser
from .console.help import EXIT_REFUSED, end
from .monitoring.logs import logs_of, prefix_of
from .recipe import MODALITIES, OPTIONAL, part_of, read_sections


REPORT = ("report.json", "report.md", "report.png")


def split(folder: Path, out: Path) -> list[Path]:
    """Write a folder for each modality; returns them.

    Raises:
        ValueError: `folder` is no finished joint run, or `out` is not empty.
    """
    require_joint_run(folder, out)
    encoders = JointModel.from_pretrained(folder).encoders
    has_whole = (folder / WHOLE / "config.json").is_file()
    whole = JointForPreTraining.from_pretrained(folder / WHOLE).modalities if has_whole else {}
    for name, encoder in encoders.items():  # all could be read
        encoder.save_pretrained(out / name)
    for name, model in whole.items():
        model.save_pretrained(out / name / WHOLE)
    written = [out / name for name in encoders]
    for path in written:
        for place in (path, path / WHOLE):
            for file in (folder / path.name).glob("*") if place.is_dir() else ():
                if matches(file.name, PROCESSOR) or (place == path and file.name in REPORT):
                    shutil.copy(file, place)
    if (folder / "recipe.yaml").is_file():
        recipe = read_sections(folder / "recipe.yaml", SECTIONS, OPTIONAL)
        for path in written:
            _write_record(folder, path, recipe)
    return written


def _write_record(folder: Path, path: Path, recipe: dict[str, Any]) -> None:
    """The run as one of this modality, from the files of the joint run that are there."""
    name = path.name
    own = {"training": recipe["training"], **part_of(recipe, name, field_names)}
    write_text(path / "recipe.yaml", yaml.safe_dump(own, sort_keys=False))
    others = " and ".join(other for other in recipe[MODALITIES] if other != name)
    limits = f"Its blocks were trained on {others} as well, an update of one at a time: updates and time are of all."
    write_text(path / "card.yaml", yaml.safe_dump({"limits": limits} if others else {}))
    for file in ("run.json", "health.json", "trainer_state.json"):
        if (folder / file).is_file():
            content = json.loads((folder / file).read_text(encoding="utf-8"))
            if "log_history" in content:
                content["log_history"] = [logs_of(row, name) for row in content["log_history"]]
            prefix = prefix_of(name)
            kept = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
            content = {key: value for key, value in content.items() if "/" not in key} | kept
            write_text(path / file, json.dumps(content, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = split_parser().parse_args(argv)
    try:
        written = split(arguments.folder, arguments.out)
    except ValueError as error:
        return end(EXIT_REFUSED, error)
    for path in written:
        print(f"Wrote {path}.")
    return 0
