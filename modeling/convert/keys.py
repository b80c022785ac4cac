"""What the original calls each tensor, and what we call it: a table of each source, read in both directions.

A row is (original, ours). `{n}` stands for a number that both have, `{n+1}` in the original for one that is larger by
one; a row that ends in a dot stands for a weight and a bias.
"""

import re
from collections.abc import Callable
from functools import cache

from torch import Tensor, cat


Rows = list[tuple[str, str]]


def under(original: str, ours: str, rows: Rows) -> Rows:
    return [(original + theirs, ours + own) for theirs, own in rows]


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for mark, group in (("{n+1}", r"(?P<larger>[1-9][0-9]*)"), ("{n}", r"(?P<n>0|[1-9][0-9]*)"), ("{name}", r"\w+")):
        pattern = pattern.replace(re.escape(mark), group)
    return re.compile(pattern + ("(?P<kind>weight|bias)" if template.endswith(".") else ""))


def translated(name: str, rows: Rows, back: bool = False) -> str | None:
    """Our name of an original's tensor, or with `back` the original's of ours; `None` if no row has it."""
    for row in rows:
        source, target = reversed(row) if back else row
        if found := _pattern(source).fullmatch(name):
            groups = found.groupdict()
            number = int(groups.get("n") or 0) if "larger" not in groups else int(groups["larger"]) - 1
            named = target.replace("{n+1}", str(number + 1)).replace("{n}", str(number))
            return named + (groups.get("kind") or "")
    return None


def split_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The one matrix of vision's query, key and value becomes three."""
    result = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix("qkv.weight")
        if stem.endswith("attention.attention."):
            if tensor.ndim != 2 or len(tensor) % 3:
                raise ValueError(f"{stem}qkv has shape {tuple(tensor.shape)}: it must be three matrices in one.")
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            result.update({f"{stem}{part}.weight": chunk for part, chunk in parts})
        else:
            result[name] = tensor
    return result


def join_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The other way round."""
    result = {}
    for name, tensor in tensors.items():
        stem = re.sub(r"(query|key|value)\.weight$", "", name)
        if stem == name or not stem.endswith("attention.attention."):
            result[name] = tensor
        elif name.endswith("query.weight"):
            parts = [tensors[f"{stem}{part}.weight"] for part in ("query", "key", "value")]
            result[f"{stem}qkv.weight"] = cat(parts)
    return result


Shape = Callable[[str, Tensor], Tensor]  # of our name and a tensor, the tensor in another shape


def to_ours(
    tensors: dict[str, Tensor], rows: Rows, shaped: Shape | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under our names and in our shapes, and those that no row has, under the original's."""
    ours: dict[str, Tensor] = {}
    left = {}
    for name, tensor in tensors.items():
        own = translated(name, rows)
        if own is None:
            left[name] = tensor
        elif own in ours:
            raise ValueError(f"the checkpoint has two tensors in one place, one of them {name}.")
        else:
            ours[own] = tensor if shaped is None else shaped(own, tensor)
    return split_qkv(ours), left


def to_original(tensors: dict[str, Tensor], rows: Rows, shaped: Shape | None) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under the original's names and in its shapes, and our names that the original has nothing for."""
    originals, left = {}, []
    for own, tensor in join_qkv(tensors).items():
        name = translated(own, rows, back=True)
        if name is None:
            left.append(own)
        else:
            originals[name] = tensor if shaped is None else shaped(own, tensor)
    return originals, left
