"""Pictures of what a frozen encoder makes of data: `data2vec show MODEL DATA`.

Images get their attention and the principal components of their patches; sounds a spectrogram and the components of
their frames; with `--neighbours`, examples and those whose features are nearest, which for text is a list in words.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...finetune.command_line import source_of
from ...finetune.embed import Frozen, open_frozen
from ...finetune.runner import command
from ...pretraining.evaluation.plots import png_of
from ...pretraining.modalities.image import ImageData
from ...pretraining.modalities.text import TextData
from ...pretraining.recipe import parse_yaml
from ..command_line import show_parser
from .draw import FIGURES, agreement, nearest, neighbours_figure, title_of


AMONG = 1000  # examples that neighbours are sought among; data.max_examples sets another number
SHOWN = 200  # characters of a text


def show(
    model: str,
    source: Mapping[str, Any],
    *,
    output: Path | None = None,
    num: int = 6,
    neighbours: int | None = None,
    layer: Any = "last",
    words: Sequence[str] = (),
) -> tuple[Path, str]:
    """Write the picture of some examples, or the list for text; returns the file, and what there is to say of it.

    Args:
        source: the fields of a source, such as `{"path": ...}`.
        num: examples that are shown.
        neighbours: show that many nearest neighbours of each; for text, 3 by default.
        layer: "last", "average" or a hidden state by number.
        words: `--field value` pairs of a probe's recipe.

    Raises:
        ValueError: the model, the data or a field is refused, or there is no picture of such data.
    """
    if layer == "all":
        raise ValueError("--layer all is invalid: a picture shows one layer, use last, average or a number.")
    data = {"train": dict(source), "max_examples": AMONG if neighbours else max(num, 2)}
    folder = Path() if output is None else output.parent
    frozen = open_frozen(model, data, {"layer": layer}, folder, words, attn_implementation="eager")
    total, is_text = len(frozen.examples), isinstance(frozen.modality, TextData)
    indices = np.unique(np.linspace(0, total - 1, min(num, total)).round().astype(int)).tolist()
    said = ""
    if neighbours is None:
        if is_text:
            raise ValueError("Text is shown by its nearest neighbours: add --neighbours 3.")
        if isinstance(frozen.modality, ImageData) and frozen.run.task.layer in ("average", 0):
            raise ValueError(f"--layer {layer} is invalid: it has no attention, use last or the number of a block.")
        picture = png_of(FIGURES[type(frozen.modality)](frozen, indices))
    else:
        if neighbours >= total:
            raise ValueError(f"--neighbours {neighbours} is invalid: there are {total} examples, use fewer than that.")
        (rows,) = frozen.features(range(total), pooled=True).layers.values()
        found, cosines = nearest(np.stack(rows), neighbours)
        said = _verdict(frozen, found)
        if is_text:
            said = f"{_listed(frozen, indices, found, cosines)}\n{said}".rstrip()
            picture = f"{said}\n".encode()
        else:
            picture = png_of(neighbours_figure(frozen, indices, found, cosines))
    path = output or Path("neighbours.txt" if is_text else "neighbours.png" if neighbours else "picture.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)
    return path, said


def _verdict(frozen: Frozen, found: np.ndarray) -> str:
    """How many neighbours have the label of their query; nothing where there are no labels."""
    if not frozen.classes or frozen.examples.labels is None:
        return ""
    share, chance = agreement(frozen.examples.labels, found)
    return (
        f"Over all {len(found)} examples, {100 * share:.1f} % of the {found.shape[1]} nearest neighbours have the "
        f"label of their query; drawn at random, {100 * chance:.1f} % would."
    )


def _listed(frozen: Frozen, queries: Sequence[int], found: np.ndarray, cosines: np.ndarray) -> str:
    """Texts as the encoder reads them, each with its neighbours."""

    def words(index: int) -> str:
        ids = frozen.examples[index]["input_ids"]
        text = frozen.modality.processor.decode(ids, skip_special_tokens=True)
        label = f"[{title_of(frozen, index)}] " if frozen.examples.labels is not None else ""
        return label + textwrap.shorten(text, SHOWN, placeholder=" …")

    lines = []
    for query in queries:
        lines.append(words(query))
        near = zip(found[query], cosines[query], strict=True)
        lines += [f"    {cosine:.2f}  {words(int(index))}" for index, cosine in near]
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    given, words = show_parser().parse_known_args(argv)

    def write() -> None:
        how = {"output": given.output, "num": given.num, "neighbours": given.neighbours}
        layer = parse_yaml(given.layer, "--layer")
        path, said = show(given.model, source_of(given.data), **how, layer=layer, words=words)
        print(f"{said}\n{path} holds {'them' if path.suffix == '.txt' else 'the picture'}.".strip())

    return command(write)
