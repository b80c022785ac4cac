"""Input that needs no download: `builtin:digits`, `builtin:python-docs`, `builtin:print`, `builtin:espeak-digits`,
`builtin:shapes`, `builtin:figures`.

Each is a `datasets.DatasetDict` with the splits train, validation and test, so that it goes the way of any other
source. What takes seconds to make is kept in `$DATA2VEC_CACHE` (default: ~/.cache/data2vec).
"""

import ast
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics

import datasets
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from ..console.libraries import save_to_disk
from . import builtin_figures, builtin_print, builtin_shapes


def load_builtin(name: str, config: str | None = None, split: str = "train") -> datasets.Dataset:
    """One split of `builtin:name`, or several joined by "+". Raises ValueError for an unknown name or split."""
    if name not in BUILTIN:
        raise ValueError(
            f"There is no builtin:{name}: use one of {', '.join('builtin:' + known for known in BUILTIN)}."
        )
    splits = BUILTIN[name].splits(config)
    wanted = split.split("+")
    for part in wanted:
        if part not in splits:
            raise ValueError(f"builtin:{name} has no split {part!r}: use one of {', '.join(splits)}.")
    return datasets.concatenate_datasets([splits[part] for part in wanted])


def digits(config: str | None) -> datasets.DatasetDict:
    """scikit-learn's handwritten digits (UCI Optdigits, test part): 8x8 grey images of 0 to 9, 17 levels as 0 to 255.

    1000 for training, 200 for validation, the last 597 for testing.
    """
    _no_config("digits", config)
    everything = _digits()
    parts = {"train": range(1000), "validation": range(1000, 1200), "test": range(1200, len(everything))}
    return datasets.DatasetDict({name: everything.select(part) for name, part in parts.items()})


@cache  # a run opens three splits
def _digits() -> datasets.Dataset:
    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)  # (images, 8, 8)
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": data.target.tolist()}
    names = [str(digit) for digit in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict(rows, features=features)


def python_docs(config: str | None) -> datasets.DatasetDict:
    """The English prose of CPython's own documentation: its help topics, and the docstrings of the standard library.

    Columns text and origin, a document per topic and module; code, tables and grammar are taken out. Every 20th
    document is for validation, every 20th for testing.

    With name "spelling", labelled phrases from the same splits, for probes: columns text (lower-case words, at most 22
    characters) and label, "spelled" as in the prose or, in half of them, "scrambled": the letters of each word in
    another order. Counts of letters and words' lengths tell nothing about the label. 2000 phrases to train, 1000 to
    validate, 2000 to test; no phrase occurs in two splits.
    """
    if config not in (None, "spelling"):
        raise ValueError(
            f"builtin:python-docs has no name {config!r}: use spelling (labelled phrases) or none (the prose)."
        )

    def make(folder: Path) -> None:
        documents = [{"origin": origin, "text": text} for origin, text in _documents() if text]
        place = np.arange(len(documents)) % 20
        parts = {"train": (place != 0) & (place != 10), "validation": place == 10, "test": place == 0}
        everything = datasets.Dataset.from_list(documents)
        splits = {name: everything.select(np.flatnonzero(part)) for name, part in parts.items()}
        save_to_disk(datasets.DatasetDict(splits), str(folder))

    of_version = f"1-{platform.python_version()}"
    prose = _cached(f"python-docs-{of_version}", make)
    if config is None:
        return prose
    return _cached(f"python-docs-spelling-{of_version}", lambda folder: save_to_disk(_spelling(prose), str(folder)))


def printed_lines(config: str | None) -> datasets.DatasetDict:
    """What `python_docs` holds, printed: a grey image of 11 x 144 pixels per line of 24 characters (`builtin_print`).

    With name "spelling" its labelled phrases, printed; without, lines of its prose, in the same splits.
    """
    texts = python_docs(config)
    made_by = hashlib.sha256(Path(builtin_print.__file__).read_bytes()).hexdigest()[:8]
    name = f"print-{config or 'prose'}-{made_by}-{platform.python_version()}"
    return _cached(name, lambda folder: save_to_disk(builtin_print.printed(texts), str(folder)))


def espeak_digits(config: str | None) -> datasets.DatasetDict:
    """Spoken English digits by the speech synthesiser eSpeak NG: many voices, accents, speeds and noise levels.

    Audio is 16 kHz FLAC; columns audio, label (the digit), word and voice. Voices are disjoint: 8 to train, 2 to
    validate, 4 to test, with 15 takes of each digit. With name "words", the training voices also say 69 other words
    twice each, all without labels. Needs the optional wheel espeakng-loader. Synthetic and easy: no evidence about
    human speech.
    """
    if config not in (None, "digits", "words"):
        raise ValueError(
            f"builtin:espeak-digits has no name {config!r}: use digits (labelled) or words (more, unlabelled)."
        )
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ValueError(
            "builtin:espeak-digits needs the speech synthesiser eSpeak NG: pip install 'data2vec[speech-demo]' "
            "(or pip install espeakng-loader)."
        )

    script = Path(__file__).with_name("synthesize_digits.py")

    def make(folder: Path) -> None:
        # The synthesiser's noise depends on all that one process said before: a fresh process repeats it exactly.
        done = subprocess.run([sys.executable, "-P", str(script), str(folder)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"eSpeak NG failed ({done.returncode}): {done.stderr.strip()[-1000:]}")

    made_by = hashlib.sha256(script.read_bytes()).hexdigest()[:8]
    spoken = _cached(f"espeak-digits-{made_by}-{version('espeakng-loader')}", make)
    if config == "words":
        return datasets.DatasetDict({name: part.remove_columns("label") for name, part in spoken.items()})
    return datasets.DatasetDict({name: part.select(_labelled(part)) for name, part in spoken.items()})


def solids(config: str | None) -> datasets.DatasetDict:
    """Made-up point clouds, see `builtin_shapes`: no evidence about scanned objects."""
    _no_config("shapes", config)

    def make(folder: Path) -> None:
        save_to_disk(builtin_shapes.shapes(), str(folder))

    made_by = hashlib.sha256(Path(builtin_shapes.__file__).read_bytes()).hexdigest()[:8]
    return _cached(f"shapes-{made_by}", make)


def stick_figures(config: str | None) -> datasets.DatasetDict:
    """Drawn clips with their skeletons, see `builtin_figures`: no evidence about films of people."""
    _no_config("figures", config)
    made_by = hashlib.sha256(Path(builtin_figures.__file__).read_bytes()).hexdigest()[:8]
    return _cached(f"figures-{made_by}", lambda folder: save_to_disk(builtin_figures.figures(), str(folder)))


@dataclass(frozen=True)
class Builtin:
    """
    Attributes:
        splits: made for the `name` of a source, or for `None`.
        license: as the card of a model states it.
    """

    splits: Callable[[str | None], datasets.DatasetDict]
    license: str


# builtin:NAME; other packages add theirs.
BUILTIN = {
    "digits": Builtin(digits, "cc-by-4.0 (UCI, as scikit-learn has it)"),
    "python-docs": Builtin(python_docs, "PSF licence (documentation of Python)"),
    "print": Builtin(printed_lines, "PSF licence (documentation of Python), in Pillow's font"),
    "espeak-digits": Builtin(espeak_digits, "synthesised with eSpeak NG"),
    "shapes": Builtin(solids, "made by the data2vec package"),
    "figures": Builtin(stick_figures, "made by the data2vec package"),
}


def cache_folder() -> Path:
    return Path(os.environ.get("DATA2VEC_CACHE", Path.home() / ".cache" / "data2vec"))


def _cached(name: str, make: Callable[[Path], None]) -> datasets.DatasetDict:
    """What `make` wrote; written aside and moved, so that neither a crash nor another rank leaves half of it."""
    folder = cache_folder() / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            make(aside)
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return datasets.load_from_disk(str(folder))


def _no_config(name: str, config: str | None) -> None:
    if config is not None:
        raise ValueError(f"builtin:{name} has no configurations: drop name = {config!r}.")


def _labelled(part: datasets.Dataset) -> np.ndarray:
    return np.flatnonzero(np.asarray(part["label"][:]) >= 0)


# --- The prose of CPython -------------------------------------------------------------------------------------------

NOT_PROSE = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages", "pydoc_data"}


def _documents() -> Iterator[tuple[str, str]]:
    """(origin, prose) of every help topic and every module of the standard library, in one order."""
    for topic in sorted(topics):
        yield f"topic {topic}", _prose(topics[topic])
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not NOT_PROSE.intersection(parts):
            yield f"module {'.'.join(parts)}", "\n\n".join(filter(None, map(_prose, _docstrings(path))))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a file kept to be wrong, or of another version
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _prose(text: str) -> str:
    """The paragraphs that read as English sentences, a line each."""
    paragraphs = (" ".join(lines.split()) for lines in re.split(r"\n\s*\n", text) if not lines.startswith("    "))
    return "\n".join(paragraph for paragraph in paragraphs if _is_prose(paragraph))


def _is_prose(paragraph: str) -> bool:
    words = re.findall(r"\b[a-z]{2,}\b", paragraph)
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    code = re.search(r">>>|::=|\*\*\*\*|====|----|^\s*[@#]", paragraph)
    return len(words) >= 6 and letters > 0.85 * len(paragraph) and code is None and paragraph[-1] in ".:!?)"


# --- Spelled or scrambled? ------------------------------------------------------------------------------------------

PHRASE = 22  # characters at most, 24 tokens of single bytes with the special ones
PHRASES = {"train": 2000, "validation": 1000, "test": 2000}


def _spelling(prose: datasets.DatasetDict) -> datasets.DatasetDict:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["spelled", "scrambled"])}
    )
    rng = np.random.default_rng(0)
    splits, taken = {}, set[str]()
    for name, count in PHRASES.items():
        # sorted: sets of text have another order in every process
        phrases = sorted({phrase for text in prose[name]["text"] for phrase in _phrases(text)} - taken)
        taken.update(phrases)
        texts = [phrases[i] for i in rng.choice(len(phrases), count, replace=False)]
        texts[1::2] = [" ".join(_scrambled(word, rng) for word in text.split()) for text in texts[1::2]]
        rows = {"text": texts, "label": [i % 2 for i in range(count)]}
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(splits)


def _phrases(text: str) -> Iterator[str]:
    """Consecutive words of a line, as many as fit; lower-case letters only."""
    for line in text.split("\n"):
        phrase = ""
        for word in filter(None, (re.sub("[^a-z]", "", word) for word in line.lower().split())):
            longer = f"{phrase} {word}".lstrip()
            if len(longer) <= PHRASE:
                phrase = longer
                continue
            if len(phrase) >= PHRASE - 6:
                yield phrase
            phrase = word if len(word) <= PHRASE else ""


def _scrambled(word: str, rng: np.random.Generator) -> str:
    """Its letters in another order, where there is one."""
    other = word
    while other == word and len(set(word)) > 1:
        other = "".join(rng.permutation(list(word)))
    return other
