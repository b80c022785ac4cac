"""What mkdocs does besides: pages link into the repository, and the site has to stand alone.

A link that leads out of docs/ leads, in the site, to a page with that file or the list of that folder. The package is
laid out for mkdocstrings under the name that it is imported by.
"""

import re
from os.path import relpath
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File


ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LAYERS = ("modeling", "pretraining", "finetune", "model_cards")
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
PICTURES = (".png", ".svg", ".jpg")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml", ".sh": "bash"}
ORIGINS: dict[str, Path] = {}  # page of the site -> the file of the repository that it shows


def on_startup(command: str, dirty: bool) -> None:
    package = ROOT / "build" / "docs" / "data2vec"
    package.mkdir(parents=True, exist_ok=True)
    for name in ("__init__.py", *LAYERS):
        link = package / name
        if not link.is_symlink():
            link.symlink_to(ROOT / name)


def on_files(files: Any, config: Any) -> Any:
    """Add a page for every file of the repository that a page links to."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for target in targets(page):
            name = site_page(target)
            if name is None or name in ORIGINS:
                continue
            ORIGINS[name] = target
            if target.suffix in PICTURES:
                files.append(File.generated(config, name, abs_src_path=str(target)))
                continue
            files.append(File.generated(config, name, content=page_of(target)))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    source = ORIGINS.get(page.file.src_uri, DOCS / page.file.src_uri)
    here = PurePosixPath(page.file.src_uri).parent

    def led(found: re.Match[str]) -> str:
        before, link, anchor, after = found.groups()
        target = resolved(source, link)
        if target is None:
            return found[0]
        name = site_page(target) or target.relative_to(DOCS).as_posix()
        return f"{before}{relpath(name, here)}{anchor or ''}{after}"

    return LINK.sub(led, markdown) if source.suffix == ".md" else markdown


def targets(page: Path) -> list[Path]:
    """The files and folders of the repository that a markdown file links to."""
    text = page.read_text(encoding="utf-8") if page.suffix == ".md" and page.is_file() else ""
    found = (resolved(page, match[2]) for match in LINK.finditer(text))
    return [target for target in found if target is not None]


def resolved(page: Path, link: str) -> Path | None:
    """What a relative link leads to, if it is there."""
    if "://" in link or link.startswith("mailto:"):
        return None
    target = (page.parent / link).resolve()
    return target if target.exists() and target.is_relative_to(ROOT) else None


def site_page(target: Path) -> str | None:
    """The page of the site for a file or folder outside docs/, or for a folder inside; None for other files inside."""
    if target.is_relative_to(DOCS) and target.is_file():
        return None
    if target == ROOT or target.is_dir() and (target / "README.md").is_file() and target.is_relative_to(DOCS):
        return None if target != ROOT else "repository/index.md"
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir():
        return f"repository/{name}/list.md"
    return f"repository/{name}" if target.suffix in (".md", *PICTURES) else f"repository/{name}.md"


def page_of(target: Path) -> str:
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir():
        rows = [f"- `{path.name}`" for path in sorted(target.iterdir()) if path.is_file()]
        return "\n".join([f"# {name}", "", *rows, ""])
    text = target.read_text(encoding="utf-8")
    if target.suffix == ".md":
        return text
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"# {name}\n\n{fence}{LANGUAGES.get(target.suffix, '')}\n{text}\n{fence}\n"
