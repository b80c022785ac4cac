"""See a run: `data2vec report RUN_FOLDER [OTHER_RUN_FOLDER] [-o report.html]`.

Writes one HTML page that needs nothing outside itself, and its pictures as PNG files in a folder beside it: is the run
healthy, its curves, what it learned, what its masks hide of its own data, a map of its features, where it looks, what
each layer knows; of a fine-tuned model, what it takes for what. Two folders are shown side by side. What a folder does
not hold is named, with how to get it.

Start it where the run was started: a recipe's relative paths begin there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data2vec.model_cards.command_line import MapMethod, report_parser, require_method
from data2vec.model_cards.folder import Folder, open_folder
from data2vec.model_cards.report import page_facts, page_fine_tuned
from data2vec.model_cards.report.figures import contact_sheet
from data2vec.model_cards.report.page import Section, render
from data2vec.model_cards.report.page_pictures import picture_sections
from data2vec.pretraining.console.help import EXIT_REFUSED, end


ONE_PICTURE = ("masks", "attention")  # sections whose figures are also in one picture, for the card


def main(argv: Sequence[str] | None = None) -> int:
    args = report_parser().parse_args(argv)
    folders = [args.run] if args.other is None else [args.run, args.other]
    try:
        page = write_page(folders, args.output, method=args.method, compute_layers=args.layers)
    except (ValueError, OSError) as error:
        return end(EXIT_REFUSED, error)
    print(f"The report is {page}, its pictures are in {pictures_folder(page)}.")
    return 0


def write_page(
    runs: Sequence[str | Path],
    output: Path | None = None,
    *,
    method: MapMethod = "pca",
    compute_layers: bool = False,
) -> Path:
    """Write the page about one run, or two side by side, and its pictures; returns where the page is.

    Raises:
        ValueError: a folder is none of a run, or the map's method is not installed; the message says the fix.
    """
    require_method(method)
    folders = _named([open_folder(path) for path in runs])
    page = Path(output) if output is not None else Path(runs[0]) / "report.html"
    sections = [
        page_facts.health(folders),
        page_facts.curves(folders),
        page_facts.results(folders),
        *_seen(folders, method, compute_layers),
        page_facts.facts(folders),
        page_facts.recipes(folders),
    ]
    absent = page_facts.absences(folders)
    if absent is not None:
        sections.append(absent)
    title = " and ".join(folders)
    subtitle = "What two data2vec runs did, side by side" if len(folders) > 1 else "What a data2vec run did"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(title, subtitle, sections), encoding="utf-8")
    pictures = pictures_folder(page)
    pictures.mkdir(exist_ok=True)
    for name, png in _pictures(sections):
        (pictures / f"{name}.png").write_bytes(png)
    return page


def _seen(folders: dict[str, Folder], method: MapMethod, compute_layers: bool) -> list[Section]:
    """Of pretraining, what was hidden and what came of it; of fine-tuning, which hides nothing, what it predicts."""
    sections = []
    if not all(folder.pretrains for folder in folders.values()):
        sections.append(page_fine_tuned.predictions(folders))
    if any(folder.pretrains for folder in folders.values()):
        return sections + picture_sections(folders, method, compute_layers)
    if any(folder.probe for folder in folders.values()):  # the folder of a probe
        return sections + picture_sections(folders, method, compute_layers, ["layers"])
    return sections


def pictures_folder(page: Path) -> Path:
    """Where the pictures of a page are: `report_pictures` beside `report.html`."""
    return page.with_name(f"{page.stem}_pictures")


def _named(folders: Sequence[Folder]) -> dict[str, Folder]:
    """Folders by a name that tells them apart: the folder's own, with its parents' where those are alike."""
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.path.resolve().parent.name}/{folder.name}" for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder.path.resolve()) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"{names[0]!r} is given twice: name two runs, or one.")
    return dict(zip(names, folders, strict=True))


def _pictures(sections: Sequence[Section]) -> Iterator[tuple[str, bytes]]:
    """Every figure, and of one run those of some sections in one."""
    for section in sections:
        for column in section.columns:
            for group in column.groups:
                for figure in group.figures:
                    yield figure.name, figure.png
        if section.key in ONE_PICTURE and len(section.columns) == 1:
            groups = [group for group in section.columns[0].groups if group.figures]
            if groups:
                yield section.key, contact_sheet(groups)
