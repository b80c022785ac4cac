"""The links and anchors of a markdown page, as GitHub reads them."""

import re
from collections.abc import Iterator
from pathlib import Path


FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    """Code blocks and inline code hold no links."""
    return re.sub(r"(`+)(?:(?!\1).)+\1", "", FENCE.sub("", text))


def links_of(page: Path) -> Iterator[str]:
    """Targets of links and pictures, in markdown or HTML."""
    text = without_code(page.read_text(encoding="utf-8"))
    yield from re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    yield from re.findall(r"""(?:href|src)=["']([^"']+)["']""", text)


def anchors_of(page: Path) -> set[str]:
    """What `#...` can name on a page: its headings, and explicit ids."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    seen: dict[str, int] = {}
    anchors = set(re.findall(r"""\b(?:id|name)=["']([^"']+)["']""", text))
    for title in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)  # a link's words
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        anchors.add(slug if count == 0 else f"{slug}-{count}")
    return anchors


def broken_links(page: Path) -> list[str]:
    """What leads nowhere: a file that is not there, an anchor that its page does not have."""
    broken = []
    for link in links_of(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):  # another site, which tests do not visit
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if not target.exists():
            broken.append(f"{link}: no such file")
        elif anchor and (target.suffix != ".md" or anchor not in anchors_of(target)):
            broken.append(f"{link}: no such heading")
    return broken
