"""What is kept of a transcript. Nothing here imports torch.

A transcript is normalised before anything else, the reference of a word error rate included:

1. Unicode NFKC, typographic apostrophes as ', upper case (`task.letter_case` says otherwise);
2. every character of `task.removed_characters` becomes a space;
3. white space at the ends is dropped, any other becomes one space.
"""

import unicodedata


APOSTROPHES = str.maketrans("\u2018\u2019\u02bc\u0060\u00b4", "'" * 5)
PUNCTUATION = '.,?!;:"()[]{}<>*_-/\\|\u201c\u201d\u201e\u00ab\u00bb\u2026\u2013\u2014'
CASES = ("upper", "lower", "keep")


def normalise(text: str, letter_case: str = "upper", removed: str = PUNCTUATION) -> str:
    """One transcript as it is trained and scored on; `letter_case` is one of `CASES`."""
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHES)
    text = {"upper": text.upper, "lower": text.lower, "keep": text.__str__}[letter_case]()
    return " ".join(text.translate(dict.fromkeys(map(ord, removed), " ")).split())
