"""The documentation as a whole: links, names of files and of code, citation, changelog, and the site."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import data2vec
from tests.code_blocks import ROOT, blocks_of
from tests.markdown_links import anchors_of, broken_links


DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "model_cards").rglob("*.md")])
# Templates hold links of the pages that they become.
LINKED = [page for page in PAGES if page != ROOT / "model_cards" / "card" / "template.md"]
# Pages whose commands no test runs, and why.
NOT_RUN = {
    "scaling.md": "several machines or GPUs",
    "converting.md": "checkpoints of the original, which tests/modeling/convert/test_command.py converts",
    "performance.md": "benchmarks of minutes; tests/benchmarks runs their parts",
}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_and_anchors_lead_somewhere(page):
    assert broken_links(page) == []


def test_the_link_check_finds_what_is_broken(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`, *three*\n\n## Same\n\n## Same\n\n[a](none.md) [b](#one-two-three) [c](#same-1) [d](#same-2)\n"
        "[e](https://example.org/none) `[f](none)` ![g](none.png)\n\n```\n[h](none)\n# no heading\n```\n"
    )
    assert anchors_of(page) == {"one-two-three", "same", "same-1"}
    assert broken_links(page) == ["none.md: no such file", "#same-2: no such heading", "none.png: no such file"]


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name)
def test_a_page_is_short(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 150, "split it, or move the details to docs/runs"


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_files_that_are_named_are_there(page):
    """`folder/file.py` in the text, from the root or from the page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = re.findall(
        r"`(?:python |accelerate launch )?((?:modeling|pretraining|finetune|model_cards|tests|benchmarks|docs)"
        r"/[\w/.-]+\.(?:py|md|yaml))\b",
        text,
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", NOT_RUN)
def test_commands_that_are_not_run_name_what_is_there(page):
    """Scripts, configurations and modules of the commands, and nothing is listed without need."""
    code = "\n".join(code for language, code in blocks_of(DOCS / page) if language == "bash")
    assert code
    for path in re.findall(r"\b(?:pretraining|finetune|benchmarks|tests)/[\w/]+\.(?:py|yaml)\b", code):
        assert (ROOT / path).is_file()
    for module in re.findall(r"-m (data2vec\.[\w.]+)", code):
        assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), *(DOCS / "tasks").glob("*.md")]), ids=name)
def test_code_of_a_page_is_run_by_a_test(page):
    code = [language for language, _ in blocks_of(page) if language in ("bash", "python")]
    if not code or page.name in NOT_RUN:
        return
    stem = "getting_started" if page.stem.startswith("getting_started_") else page.stem
    stem = "tasks" if page.parent.name == "tasks" else stem
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert any(stem in text and "run_block" in text for text in tests), "no test runs its blocks"


def equations() -> list[tuple[str, str]]:
    """(equation, the text up to the next one) of docs/method.md."""
    parts = re.split(r"((?:^    \S.*\n)+)", (DOCS / "method.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def resolve(reference: str) -> object:
    """`module.Class.method` of modeling/."""
    module, *names = reference.split(".")
    found: object = importlib.import_module(f"data2vec.modeling.{module}")
    for part in names:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("equation", "text"), equations(), ids=lambda text: " ".join(text.split())[:30])
def test_every_equation_says_where_it_is_in_the_code(equation, text):
    reference = re.match(r"\nin `([\w.]+)`", text)
    assert reference, f"behind {equation!r} comes `in ...`, the code"
    assert callable(resolve(reference[1]))


def test_code_that_the_method_names_is_there():
    named = re.findall(r"`(\w+\.\w[\w.]*)`", (DOCS / "method.md").read_text(encoding="utf-8"))
    assert len(named) >= 15
    for reference in named:
        resolve(reference)


def test_the_schedule_on_the_page_is_the_code():
    """tau_n as the page writes it, beside `decay_at`."""
    objective = data2vec.modeling.Data2Vec2AudioConfig().objective
    objective = data2vec.modeling.ObjectiveConfig.from_dict({**objective, "ema_anneal_steps": 11})
    (line,) = [line for equation, _ in equations() for line in equation.splitlines() if "tau_n =" in line]
    for n in (1, 5, 10, 11, 12, 97):
        numbers = {name: getattr(objective, name) for name in ("ema_decay", "ema_end_decay", "ema_anneal_steps")}
        assert eval(line.split("=", 1)[1], {"max": max, "n": n, **numbers}) == pytest.approx(objective.decay_at(n))


# What cffconvert's schema asks for, of version 1.2.0
CFF_KEYS = {
    "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords",
    "license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact",
    "repository-code", "title", "type", "url", "version",
}  # fmt: skip


def test_the_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation) <= CFF_KEYS
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == data2vec.__version__ and citation["license"] == "Apache-2.0"
    for work in (citation["preferred-citation"], *citation["references"]):
        assert {"type", "title", "authors", "year"} <= set(work) and work["type"] == "conference-paper"
        assert all({"family-names", "given-names"} == set(author) for author in work["authors"])
        (identifier,) = work["identifiers"]
        assert set(identifier) == {"type", "value", "description"} and identifier["type"] == "other"
        assert work["url"] == f"https://arxiv.org/abs/{identifier['value'].removeprefix('arXiv:')}"


def test_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased" and versions[1] == data2vec.__version__
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    numbers = [tuple(map(int, version.split("."))) for version in versions[1:]]
    assert numbers == sorted(numbers, reverse=True)


def test_every_page_is_in_the_site(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    from mkdocs.config import load_config

    settings = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    listed = re.findall(r"[\w/]+\.md", str(settings["nav"]))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    inner = {page for page in pages if page.startswith(("runs/", "results/"))}  # reached from their README
    assert pages - inner | {"runs/README.md", "results/README.md"} == set(listed)


@pytest.mark.slow  # .ci/run builds it as strictly, by `make docs`
def test_the_site_is_built_without_a_warning(tmp_path):
    """Strictly: links, anchors, the navigation, and every module of the reference."""
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    pytest.importorskip("mkdocstrings", reason="needs the extra `docs`")
    pytest.importorskip("material", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "reference" / "modeling.html").read_text(encoding="utf-8")
    assert "data2vec.modeling.targets.normalize" in page and "top_k_layers" in page
    assert (tmp_path / "site" / "repository" / "pretraining" / "modalities" / "build.py.html").is_file(), (
        "linked sources are in it"
    )
    external = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?://[^"]+)"', page)
    assert external == [], "nothing is fetched from elsewhere"
