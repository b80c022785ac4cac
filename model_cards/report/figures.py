"""What a page shows: pictures, curves and passages of text, each with words for those who do not see it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from .curves import INK, finish, png_of, svg_of
from .inputs import Inputs, Masked


COVER = ((74, 96, 134), (98, 124, 168))  # two blues in stripes: what the student does not see
STRIPE = 6  # pixels


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
    """How a modality is drawn; `DRAWINGS` in page_sections.py holds one for each main input."""

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
    return ReportFigure(name, caption, Markup(svg_of(drawn, alt, name)), png_of(drawn), wide)


def passage(name: str, pieces: Sequence[Markup], drawn: Image.Image, caption: str, alt: str) -> ReportFigure:
    """Words to read, and the same `drawn`; `alt` says what their marks mean."""
    html = Markup('<p class="passage" role="group" aria-label="{}">{}</p>').format(alt, Markup("").join(pieces))
    return ReportFigure(name, caption, html, png_of_image(drawn))


def png_of_image(image: Image.Image) -> bytes:
    """256 colours are enough, and a third of the size."""
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


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
    finish(axes, f"Who looks at whom, {block}")
    axes.grid(False)
    axes.set_xlabel(f"looked at ({unit})", fontsize=9, color=INK)
    axes.set_ylabel(f"looking ({unit})", fontsize=9, color=INK)
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
