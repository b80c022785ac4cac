"""Text: hidden tokens, and which tokens the encoder looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from .figures import ReportFigure, attention_matrix, passage, percent, received
from .inputs import Inputs, Masked


LONGEST = 128  # tokens shown
WIDTH, SIZE, LINE, MARGIN = 720, 18, 28, 14  # pixels of the picture
HEAT = (224, 138, 30)
INVISIBLE = {"\n": "↵", "\t": "⇥", "": "∅"}


class TextDrawing:
    """See [`figures.Drawing`]."""

    kind: ClassVar[Literal["tiles", "plots"]] = "plots"

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        words = _words(inputs, example, "input_ids")
        whole = [_Token(word) for word in words]
        found = [_shown(f"{name}_whole", whole, "what the teacher reads", "The whole text.")]
        read = _words(inputs, example, "student_input_ids") if "student_input_ids" in example.batch else words
        for number, masked in enumerate(example.masked):
            said = f"{masked.sum()} of {masked.size} tokens hidden ({percent(masked.mean())})"
            if "student_input_ids" in example.batch:
                others = (example.batch["student_input_ids"] != example.batch["input_ids"]).sum().item()
                said += f", {others} others replaced by random ones"
            if masked.size > LONGEST:
                said += f"; the first {LONGEST} are shown"
            tokens = [_Token(now, bool(hide), was != now) for was, now, hide in zip(words, read, masked, strict=False)]
            alt = f"The same text, {said}; the hidden tokens are marked."
            found.append(_shown(f"{name}_view{number + 1}", tokens, example.view(number) + said, alt))
        return found

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        share = received(maps[-1])[:LONGEST]
        least, most = float(share.min()), float(share.max())
        heat = (share - least) / max(most - least, 1e-12)
        words = _words(inputs, example, "input_ids")
        tokens = [_Token(word, heat=float(value)) for word, value in zip(words, heat, strict=True)]
        caption = (
            f"last block: the stronger the colour, the more it is looked at, from {least:.2f} to {most:.2f} × even"
        )
        text = _shown(f"{name}_words", tokens, caption, "The text, coloured by the attention that each token gets.")
        return [text, attention_matrix(f"{name}_matrix", maps[-1], "tokens", "last block")]


@dataclass(frozen=True)
class _Token:
    """A word and how it is marked; `heat` is from 0 to 1."""

    word: str
    hidden: bool = False
    replaced: bool = False
    heat: float = 0.0

    def html(self) -> Markup:
        if self.hidden:
            return Markup("<mark>{}</mark>").format(self.word)
        if self.replaced:
            return Markup('<mark class="replaced">{}</mark>').format(self.word)
        if self.heat:
            return Markup('<span class="heat" style="--heat:{}%">{}</span>').format(round(100 * self.heat), self.word)
        return Markup("<span>{}</span>").format(self.word)

    def colours(self) -> tuple[str, str]:
        """Of the paper and of the letters."""
        if self.hidden:
            return "#4a6086", "white"
        paper = tuple(round(255 + (part - 255) * self.heat) for part in HEAT)
        return "#{:02x}{:02x}{:02x}".format(*paper), "#b3261e" if self.replaced else "#1f2328"


def _words(inputs: Inputs, example: Masked, column: str) -> list[str]:
    """The first tokens as a reader sees them."""
    tokenizer = inputs.modality.processor
    decoded = [tokenizer.decode([int(token)]) for token in example.batch[column][0][:LONGEST]]
    return [INVISIBLE.get(word, word) for word in decoded]


def _shown(name: str, tokens: Sequence[_Token], caption: str, alt: str) -> ReportFigure:
    return passage(name, [token.html() for token in tokens], _drawn(tokens), caption, alt)


def _drawn(tokens: Sequence[_Token]) -> Image.Image:
    """The tokens in lines, as a picture."""
    font = ImageFont.load_default(SIZE)
    places, x, y = [], float(MARGIN), float(MARGIN)
    for token in tokens:
        width = font.getlength(token.word)
        if x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LINE
        places.append((x, y, width))
        x += width + 1
    image = Image.new("RGB", (WIDTH, round(y + LINE + MARGIN)), "white")
    draw = ImageDraw.Draw(image)
    for token, (left, top, width) in zip(tokens, places, strict=True):
        paper, ink = token.colours()
        draw.rectangle((left, top, left + width, top + LINE - 4), fill=paper)
        draw.text((left, top + 2), token.word, font=font, fill=ink)
    return image
