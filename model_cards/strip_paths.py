"""Folders of the machine that a run was made on are nobody's business: paths are cut to their last part."""

import re


# Absolute, from a home folder, or upwards; not the path of a URL, and not a lone slash between words. A folder's name
# may hold spaces where another one follows, but what comes after a script or a recipe is the next word of a command.
PART = r"[\w.@%+\-]+"
GOES_ON = rf"(?:(?<!\.py)(?<!\.yaml) (?!-){PART})*"
OUTSIDE = re.compile(rf"(?<![\w:/.~<])(?:~|\.\.)?(?:/{PART}{GOES_ON}(?=/))*/{PART}(?=[\s'\",:;)\]}}]|$)")
LEAST_PARTS = 2  # /word alone is no path


def without_places(text: str) -> str:
    """`text` in which /home/me/clips and ../data/clips are clips; relative paths and URLs stay."""

    def last_part(match: re.Match[str]) -> str:
        parts = [part for part in match[0].split("/") if part]
        return parts[-1] if len(parts) >= LEAST_PARTS else match[0]

    return OUTSIDE.sub(last_part, text)
