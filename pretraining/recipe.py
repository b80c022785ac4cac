"""Reading a recipe: a YAML file of sections, each a mapping of fields, and `--field value` on top of it.

What the sections and their fields are is the caller's: pretraining's are in arguments.py, fine-tuning's in finetune/.
"""

import argparse
import copy
import dataclasses
import difflib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from huggingface_hub.dataclasses import type_validator

from .console.help import RECIPE_HELP
from .console.redact import mask_arguments


Recipe = Mapping[str, Any]
MODALITIES = "modalities"  # of a joint run: a name -> the sections of PART, and the numbers of OF_PART
SHARED_FRONT_ENDS = "shared_front_ends"  # in the section model of a joint run, which modalities
PART, OF_PART = ("model", "objective", "data"), ("weight", "batch_size")
STAGES = "stages"  # modality after modality, see stages.py
OPTIONAL = ("report", MODALITIES, STAGES)  # sections that a run can do without
CHECKPOINT = "model_name_or_path"  # of the section `model`, in every recipe
FieldNames = Callable[[str, Recipe], Collection[str]]  # (section, recipe) -> the fields that the section may hold


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 5e-4 as text; here it is the number that everybody means."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, where: str = "recipe") -> Any:
    """The value that a text of YAML stands for. Raises ValueError, with `where` it stands, for what is no YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{where}: this is not YAML that a recipe may hold. {' '.join(str(error).split())}"
        ) from error


def read_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    folder: Path,
    sections: Sequence[str],
    optional: Sequence[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """`RECIPE.yaml [--field value ...]`: the recipe as its file has it, see `read_recipe`, and the words behind it."""
    parser.add_argument("recipe", metavar="RECIPE.yaml", type=Path, help=RECIPE_HELP)
    known, overrides = parser.parse_known_args(argv)
    return read_recipe(known.recipe, folder, sections, optional), overrides


def names_of(cls: type) -> list[str]:
    """The fields of a dataclass that a recipe can set, in their order."""
    return [field.name for field in dataclasses.fields(cls) if field.init]


def read_recipe(path: Path, folder: Path, sections: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """The sections of a YAML file, or of a recipe of that name in `folder`; those that it leaves out are empty.

    `optional` sections are not there unless the file has them.

    Raises:
        ValueError: the file holds something else than sections.
        FileNotFoundError: no such recipe.
    """
    if not path.is_file():
        path = packaged(path, folder) or path
    if not path.is_file():
        raise FileNotFoundError(_no_recipe(path, sorted(p.name for p in folder.glob("*.yaml"))))
    return read_sections(path, sections, optional)


def packaged(name: str | Path, folder: Path) -> Path | None:
    """The recipe of that name in `folder`, with `.yaml` or without; None where there is none."""
    path = folder / Path(name).name
    return next((file for file in (path, path.with_name(f"{path.name}.yaml")) if file.is_file()), None)


def read_sections(path: Path, sections: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """The sections of a YAML file; those that it leaves out are empty, `optional` ones not there.

    Raises:
        ValueError: the file holds something else than sections.
    """
    recipe = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    every = (*sections, *optional)
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold the sections {', '.join(every)}, each with its fields; it is {recipe!r}.")
    for name, section in recipe.items():
        if name not in every:
            raise ValueError(f"{path}: {name!r} is not a section; a recipe has {', '.join(every)}.")
        if not isinstance(section, dict):
            raise ValueError(f"{path}: the section {name} must hold fields, `name: value`; it is {section!r}.")
    return {name: recipe.get(name, {}) for name in every if name in sections or name in recipe}


def _no_recipe(path: Path, names: Sequence[str]) -> str:
    """What to say of a recipe that is not there; the nearest of those that are come first."""
    near = difflib.get_close_matches(path.stem, [Path(name).stem for name in names], n=3, cutoff=0.5)
    if near:
        meant = " or ".join(f"{stem}.yaml" for stem in near)
        return f"There is no recipe {str(path)!r}. Did you mean {meant}? Otherwise give a YAML file; --help lists all."
    return f"There is no recipe {str(path)!r}. Give a YAML file or one of: {', '.join(names)}."


def override(recipe: Recipe, arguments: Sequence[str], field_names: FieldNames) -> dict[str, Any]:
    """`--field value` pairs, or `--field=value`, put into a copy of the recipe."""
    changed = copy.deepcopy(dict(recipe))
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(words) % 2 or not all(name.startswith("--") for name in words[::2]):
        bare = [name for name, value in zip(words, [*words[1:], "--"], strict=True) if name[:2] == value[:2] == "--"]
        if bare:
            raise ValueError(f"{bare[0]} has no value: fields are overridden by --field value pairs.")
        raise ValueError(f"Cannot read {' '.join(mask_arguments(arguments))!r} as --field value pairs.")
    # which model it is decides what fields there are, so that comes first
    pairs = [(name.replace("-", "_").lstrip("_"), value) for name, value in zip(words[::2], words[1::2], strict=True)]
    for name, value in sorted(pairs, key=lambda pair: CHECKPOINT not in pair[0]):
        path = locate(name, changed, field_names)
        if len(path) == 1:  # a whole section
            _replace_section(changed, name, parse_yaml(value, f"--{name}"))
            continue
        target: Any = changed
        for key in path[:-1]:
            if target.setdefault(key, {}) is None or not isinstance(target[key], dict):
                raise ValueError(f"--{name}: {key} holds {target[key]!r}, which has no fields inside.")
            target = target[key]
        parsed = parse_yaml(value, f"--{name}")
        is_name = path[-1] in (CHECKPOINT, "output_dir") and parsed is not None and value[0] not in "'\""
        target[path[-1]] = value if is_name else parsed  # a folder may be called 5 or "run #2", which YAML would cut
    return changed


def _replace_section(recipe: dict[str, Any], name: str, value: Any) -> None:
    if value is None and name in OPTIONAL:
        del recipe[name]
    elif isinstance(value, dict):
        recipe[name] = value
    else:
        none = ", or null to leave it out" if name in OPTIONAL else ""
        raise ValueError(f"--{name} = {value!r} is invalid: it is a section, give a mapping of its fields{none}.")


def as_arguments(fields: Mapping[str, Any], sections: Collection[str]) -> list[str]:
    """Fields as Python has them, `{name: value}`, as what [`override`] takes.

    A mapping under the name of a section sets single fields of it; a mapping under any other name is a field's value.
    """
    words = []
    for name, value in fields.items():
        inside = {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {}
        for field, given in (inside if name in sections and inside else {name: value}).items():
            words += [f"--{field}", json.dumps(given, default=_plain)]
    return words


def _plain(value: Any) -> Any:
    """A path, or a number of NumPy or torch, as JSON holds it."""
    return value.item() if hasattr(value, "item") else str(value)


def check_fields(recipe: Recipe, field_names: FieldNames) -> None:
    """ValueError for a field that its section does not have, with the nearest that it has; of each modality, too."""
    for section in recipe:
        known = field_names(section, recipe)
        for key in recipe[section]:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "see the documentation of the section."
                raise ValueError(f"{section}.{key} is not a field: {hint}")
    for name in recipe.get(MODALITIES, {}):
        own = part_of(recipe, name, field_names)
        try:
            check_fields(own, field_names)
        except ValueError as error:
            raise ValueError(f"{MODALITIES}.{name}.{error}") from error


def part_of(recipe: Recipe, name: str, field_names: FieldNames) -> dict[str, Any]:
    """The recipe of one modality of a joint run, as one that is trained alone has it, but for `training`.

    Raises:
        ValueError: it holds something else, or says again what all modalities share.
    """
    part, where = recipe[MODALITIES][name], f"{MODALITIES}.{name}"
    if not isinstance(part, dict) or not all(isinstance(part.get(section, {}), dict) for section in PART):
        raise ValueError(f"{where} must hold the sections {', '.join(PART)}, each with its fields; it is {part!r}.")
    for key in part:
        if key not in (*PART, *OF_PART):
            raise ValueError(f"{where}.{key} is not a section; a modality has {', '.join((*PART, *OF_PART))}.")
    whole: dict[str, Any] = {}
    differs = (CHECKPOINT, "model_type")  # between the run and a modality
    for section in PART:
        own = part.get(section, {})
        for key in own:
            if key in field_names(section, recipe) and key not in differs:
                raise ValueError(
                    f"{where}.{section}.{key} is shared by all modalities: say it in the section {section}."
                )
        shared = {
            key: value for key, value in recipe.get(section, {}).items() if key not in (*differs, SHARED_FRONT_ENDS)
        }
        whole[section] = shared | own
    return whole


WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}


def typed(where: str, value: Any, expected: Any) -> Any:
    """The value of the field `where`, as a field of type `expected` holds it: 20 is 20.0 where that is a float.

    Raises:
        ValueError: it is of another type, or a number that is not finite.
    """
    if expected in (float, float | None) and type(value) is int:
        value = float(value)
    elif expected in (list[float], list[float] | None) and isinstance(value, list | tuple):
        value = [float(number) if type(number) is int else number for number in value]
    try:
        type_validator(where, value, expected)
    except TypeError as error:
        kinds = get_args(expected) if get_origin(expected) in (Union, UnionType) else (expected,)
        wanted = " or ".join(WORDS.get(kind, f"a value of type {getattr(kind, '__name__', kind)}") for kind in kinds)
        raise ValueError(f"{where} = {value!r} is invalid: give {wanted}.") from error
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{where} = {value!r} is invalid: give a finite number.")
    return value


def locate(name: str, recipe: Recipe, field_names: FieldNames) -> list[str]:
    """The path of an override: with its section, or without where only one section has such a field."""
    path = name.split(".")
    if path[0] in recipe:
        return path
    if path == [CHECKPOINT]:
        return ["model", CHECKPOINT]
    fields = {section: field_names(section, recipe) for section in recipe}
    homes = [section for section, names in fields.items() if path[0] in names]
    if len(homes) == 1:
        return homes + path
    if homes:
        raise ValueError(
            f"--{name} is a field of {' and '.join(homes)}: use --{homes[0]}.{name} or --{homes[1]}.{name}."
        )
    near = difflib.get_close_matches(path[0], [field for names in fields.values() for field in names], n=1)
    hint = f"Did you mean --{near[0]}?" if near else f"Say --SECTION.{name}, of {', '.join(recipe)}."
    raise ValueError(f"--{name} is not a field of this recipe. {hint}")
