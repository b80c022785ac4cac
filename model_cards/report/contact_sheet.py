"""Several figures as one picture with their captions, for a model card."""

import io
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .figures import Group, ReportFigure, png_of_image


GAP, LETTERS, LINE = 14, 14, 18  # pixels


def sheet(groups: Sequence[Group]) -> bytes | None:
    """A row a group: small figures beside each other, others below each other. None where there is nothing."""
    rows = []
    for group in groups:
        tiles = [_captioned(figure) for figure in group.figures]
        rows += [tiles] if group.kind == "tiles" else [[tile] for tile in tiles]
    if not rows:
        return None
    widths = [sum(tile.width + GAP for tile in row) + GAP for row in rows]
    heights = [max(tile.height for tile in row) + GAP for row in rows]
    image = Image.new("RGB", (max(widths), sum(heights) + GAP), "white")
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for tile in row:
            image.paste(tile, (left, top))
            left += tile.width + GAP
        top += height
    return png_of_image(image)


def _captioned(figure: ReportFigure) -> Image.Image:
    with Image.open(io.BytesIO(figure.png)) as opened:
        picture = opened.convert("RGB")
    lines = textwrap.wrap(figure.caption, max(12, picture.width * 2 // LETTERS))
    image = Image.new("RGB", (picture.width, picture.height + 6 + LINE * len(lines)), "white")
    image.paste(picture)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        place = (0, picture.height + 4 + LINE * number)
        draw.text(place, line, font=ImageFont.load_default(LETTERS), fill="#59616b")
    return image
