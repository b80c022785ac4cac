"""What a page shows: pictures, curves and passages of text, each with words for those who do not see it."""

import base64
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import matplotlib.image
import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from ...pretraining.evaluation.plots import GRID, INK, finish, png_of
from .inputs import Inputs, Masked


COVER = ((74, 96, 134), (98, 124, 168))  # two blues in stripes: what the student does not see
STRIPE = 6  # pixels
LARGER = 1.3  # a figure grows on a page by this at most, or its letters look loud


@dataclass(frozen=True)
class ReportFigure:
    """One thing to look at.

    Attributes:
        name: of its file beside the page, without an ending.
        caption: what it is, in a line.
        html: an `<img>`, an `<svg>` or a passage of text.
        png: the same as a picture.
        wide: takes the whole width of the page.
    """

    name: str
    caption: str
    html: Markup
    png: bytes
    wide: bool = False


@dataclass(frozen=True)
class Group:
    """Figures that belong together, such as the views of one example; `tiles` are small, `plots` are not."""

    title: str
    figures: list[ReportFigure]
    kind: Literal["tiles", "plots"] = "plots"


class Drawing(Protocol):
    """How a modality is drawn; `DRAWINGS` in page_pictures.py holds one for each."""

    kind: ClassVar[Literal["tiles", "plots"]]  # how its figures are laid out

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        """The example whole, and with what is hidden in each view."""
        ...

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        """Where the encoder looks; `maps` as [`Inputs.attention`] returns them."""
        ...


def picture(name: str, pixels: np.ndarray, caption: str, alt: str, wide: bool = False) -> ReportFigure:
    """A picture of pixels (height, width, 3) uint8."""
    height, width = pixels.shape[:2]
    png = png_of_image(Image.fromarray(pixels))
    data = base64.b64encode(png).decode()
    html = Markup('<img src="data:image/png;base64,{}" alt="{}" width="{}" height="{}">').format(
        data, alt, width, height
    )
    return ReportFigure(name, caption, html, png, wide)


def figure(name: str, drawn: Figure, caption: str, alt: str, wide: bool = False) -> ReportFigure:
    """A figure of matplotlib, as text and lines on the page and as a PNG beside it."""
    png = png_of(drawn)
    return ReportFigure(name, caption, Markup(svg_of(drawn, alt, name)), png, wide)


def svg_of(figure: Figure, label: str, salt: str) -> str:
    """The figure as an `<svg>` element to stand inside a page: scalable, with text as text, in the page's ink.

    Args:
        label: what it shows, for those who do not see it.
        salt: makes the names inside differ from those of the page's other figures.
    """
    buffer = io.StringIO()
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # `savefig` draws twice
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # groups that nothing refers to, alike in every figure
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    widest = round(figure.get_figwidth() * 96 * LARGER)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    quoted = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{quoted}" style="max-width: {widest}px"', 1).strip()


def passage(name: str, pieces: Sequence[Markup], drawn: Image.Image, caption: str, alt: str) -> ReportFigure:
    """Words to read, and the same `drawn`; `alt` says what their marks mean."""
    html = Markup('<p class="passage" role="group" aria-label="{}">{}</p>').format(alt, Markup("").join(pieces))
    return ReportFigure(name, caption, html, png_of_image(drawn))


def png_of_image(image: Image.Image) -> bytes:
    """256 colours are enough, and a third of the size."""
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def contact_sheet(groups: Sequence[Group]) -> bytes:
    """Figures with their captions as one picture: tiles of a group beside each other, plots below each other."""
    rows = [
        row
        for group in groups
        for row in ([group.figures] if group.kind == "tiles" else [[found] for found in group.figures])
    ]
    columns = max(map(len, rows))
    width = 8.0 if columns == 1 else 2.4 * columns  # inches
    pictures = [[matplotlib.image.imread(io.BytesIO(found.png)) for found in row] for row in rows]
    heights = [0.5 + width / columns * max(pixels.shape[0] / pixels.shape[1] for pixels in row) for row in pictures]
    drawn = Figure(figsize=(width, sum(heights)), layout="constrained")
    for axes, row, images in zip(
        drawn.subplots(len(rows), columns, squeeze=False, height_ratios=heights), rows, pictures, strict=True
    ):
        for axis in axes:
            axis.set_axis_off()
        for axis, found, pixels in zip(axes, row, images, strict=False):
            axis.imshow(pixels)
            caption = textwrap.fill(found.caption, 100 if columns == 1 else 32).replace("$", r"\$")
            axis.set_title(caption, fontsize=8, loc="left", color=INK)
    return png_of(drawn)


def covered(pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Pixels (height, width, 3) with stripes where `hidden` (height, width) is True."""
    rows, columns = np.indices(hidden.shape)
    stripes = np.asarray(COVER, np.uint8)[(rows + columns) // STRIPE % 2]  # (height, width, 3)
    return np.where(hidden[..., None], stripes, pixels)


def coloured(values: np.ndarray, name: str = "magma") -> np.ndarray:
    """Values (height, width) from 0 to 1 as pixels (height, width, 3) uint8 of a colour map."""
    colours = np.asarray(colormaps[name](np.clip(values, 0, 1)))
    return (colours[..., :3] * 255).astype(np.uint8)


def received(attention: np.ndarray) -> np.ndarray:
    """How much each token is looked at, (time,): the mean over those that look, in shares of an even look (1)."""
    given = attention.mean(0)
    return given / max(float(given.mean()), 1e-12)


def attention_matrix(name: str, attention: np.ndarray, unit: str, block: str) -> ReportFigure:
    """Who looks at whom: (time, time), in a square; `unit` names the axes."""
    drawn = Figure(figsize=(3.6, 3.4), layout="constrained")
    axes = drawn.add_subplot()
    axes.imshow(attention, cmap="magma", interpolation="none", vmin=0)
    finish(axes, f"Who looks at whom, {block}", f"looked at ({unit})", f"looking ({unit})")
    axes.grid(False)
    return figure(
        name,
        drawn,
        "Brighter: more attention. A diagonal means that neighbours are looked at.",
        f"Attention matrix of the {block}: rows look, columns are looked at, both counted in {unit}.",
    )


def blocks_to_show(count: int) -> dict[int, str]:
    """The first, the middle and the last of so many blocks, and what they are called."""
    named = {0: "first block", count // 2: f"block {count // 2 + 1} of {count}", count - 1: "last block"}
    return dict(sorted(named.items())) if count > 1 else {0: "only block"}


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"
