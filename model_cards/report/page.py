"""The parts of a page, and the page: plain data in, one self-contained HTML text out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...pretraining.evaluation.report_text import templates
from ..strip_paths import without_places
from .figures import Group
from .verdict import Verdict


HERE = Path(__file__).parent
TEMPLATE = "report.html.jinja"
PATTERNS = re.compile(
    r"(?<![^\s'\"(\[])(?:~|\.\.)?/(?:[^\s/'\",]+/)+([^\s/'\",]*\*[^\s/'\",]*)"
)  # /home/me/clips/*.wav


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its heading; `changed` rows are marked."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    changed: frozenset[int] = frozenset()
    folded: bool = False


@dataclass(frozen=True)
class Column:
    """What a section says of one run; `run` is empty where it speaks of all."""

    run: str = ""
    verdict: Verdict | None = None
    words: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    absent: str = ""  # why there is nothing, and how to get it


@dataclass(frozen=True)
class Section:
    """`key` is its anchor; a section with several columns shows runs beside each other."""

    key: str
    title: str
    intro: str
    columns: list[Column]


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page as HTML. It asks for nothing outside itself; everything in it that came from elsewhere is escaped."""
    environment = templates(HERE, autoescape=True, finalize=_printed)
    context: dict[str, Any] = {"title": title, "subtitle": subtitle, "sections": sections}
    return environment.get_template(TEMPLATE).render(context)


def _printed(value: Any) -> Any:
    """Words without folders of this machine; markup, which is made here or holds the run's own data, as it is."""
    return PATTERNS.sub(r"\1", without_places(value)) if type(value) is str else value
