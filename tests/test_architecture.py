"""docs/architecture.md is true: its rooms, what each reads, and where things are changed."""

import re

import pytest

from tests.code_blocks import ROOT
from tests.test_packaging import LAYERS, ROOMS, imports, sources


PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows_of(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    section = PAGE.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def room_of(module: str) -> tuple[str, str]:
    """(layer, room) of a module `data2vec.layer...`; the room of a layer's own files is "."."""
    layer, *rest = module.split(".")[1:]
    return layer, rest[0] if rest and rest[0] in ROOMS[layer] else "."


def rooms_read() -> dict[str, set[str]]:
    read: dict[str, set[str]] = {}
    for layer in LAYERS:
        for path in sources(layer):
            module = ".".join(["data2vec", *path.relative_to(ROOT).with_suffix("").parts])
            room = room_of(module)[1]
            here = read.setdefault(layer if room == "." else f"{layer}/{room}", set())
            used = [room_of(name) for name in imports(path) if name.split(".")[1:2] and name.split(".")[1] in ROOMS]
            here |= {other for owner, other in used if owner == layer and other != room}
    return read


READ = rooms_read()
ROWS = {row[0].strip("`"): row for row in rows_of("Rooms")}


def test_every_room_has_its_row():
    assert list(ROWS) == [f"{layer}/{room}".rstrip("/") for layer in LAYERS for room in in_order(layer)]


def in_order(layer: str) -> list[str]:
    return ["", *(room for room in ROOMS[layer] if room)]


@pytest.mark.parametrize("room", READ)
def test_a_row_says_what_its_room_reads(room):
    layer = room.split("/")[0]
    order = [name or "." for name in in_order(layer)]
    assert ROWS[room][2] == ", ".join(sorted(READ[room], key=order.index)), f"the row of {room}"


def test_where_things_are_changed():
    """Files of a row exist (tests/test_docs.py checks links), and its test reads what the row names."""
    rows = rows_of("Where do I change ...?")
    assert len(rows) >= 15
    for what, file, test in rows:
        assert re.search(r"\]\(", file) and re.search(r"\]\(\.\./tests/", test), what
