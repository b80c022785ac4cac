"""Whose code lies in a model folder? Only this package's own may be run or published without a question."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

import data2vec.modeling


MODELING = Path(data2vec.modeling.__file__).parent
PLACE = re.compile(r"(\w+)\.\w+")  # module.Class; with another repository's name in front it is that one's code


def foreign_code(folder: Path) -> list[str]:
    """What `trust_remote_code=True` would run of a folder and is not, byte for byte, this package's."""
    found = set()
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (RecursionError, ValueError):
            found.add(path.name)
            continue
        for named in _named(content) if isinstance(content, dict) else ():
            place = PLACE.fullmatch(named)
            if place is None:
                found.add(f"{named} in {path.name}")
            else:
                found |= {module.name for module in _modules(folder / f"{place[1]}.py") if not is_own(module)}
    return sorted(found)


def _modules(module: Path) -> set[Path]:
    """A module and all that it imports of its folder."""
    return {module, *map(Path, get_relative_import_files(module))} if is_own(module) else {module}


def is_own(path: Path) -> bool:
    own = MODELING / path.name
    return own.is_file() and path.is_file() and own.read_bytes() == path.read_bytes()


def _named(content: dict[str, Any]) -> Iterator[str]:
    """Classes that a configuration of a model, a processor or a pipeline asks for."""
    for places in (content.get("auto_map") or {}).values():
        yield from (str(place) for place in (places if isinstance(places, list) else [places]) if place is not None)
    for pipeline in (content.get("custom_pipelines") or {}).values():
        yield str(pipeline.get("impl") if isinstance(pipeline, dict) else pipeline)
