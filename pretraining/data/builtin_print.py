"""Text as images: lines in the fixed-width font that comes with Pillow, dark on light, a cell for each character."""

import datasets
from PIL import Image, ImageDraw, ImageFont


FONT = ImageFont.load_default_imagefont()
LINE = 24  # characters
CELL = (11, 6)  # pixels, height and width, of a character


def printed(texts: datasets.DatasetDict) -> datasets.DatasetDict:
    """A line for each row that has a label; without labels, whole lines of each row's running text.

    Columns image and, where there are labels, label.
    """
    return datasets.DatasetDict({name: _printed_split(split) for name, split in texts.items()})


def _printed_split(split: datasets.Dataset) -> datasets.Dataset:
    features = {"image": datasets.Image(mode="L")}  # kept in black and white, which takes half the time to write
    if "label" in split.features:
        columns = {"image": [_line(text) for text in split["text"]], "label": split["label"][:]}
        features["label"] = split.features["label"]
    else:
        columns = {"image": [_line(line) for text in split["text"] for line in _lines(text)]}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _lines(text: str) -> list[str]:
    running = " ".join(text.split())
    return [running[start : start + LINE] for start in range(0, len(running) - LINE + 1, LINE)]


def _line(text: str) -> Image.Image:
    image = Image.new("1", (LINE * CELL[1], CELL[0]), color=1)
    # The font has Latin-1; what else there is becomes a question mark.
    in_font = text.encode("latin-1", errors="replace").decode("latin-1")
    ImageDraw.Draw(image).text((0, 0), in_font, font=FONT, fill=0)
    return image
