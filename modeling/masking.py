"""Which tokens are hidden from the student: one class per published masking strategy; see `masking_base`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite, prod
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from .masking_adaptive import AdaptiveMasking, AttentionMasking, ErrorMasking, VarianceMasking
from .masking_base import Masking, mask_seeds
from .masking_functions import (
    cell_noise,
    dilate,
    draw_rectangles,
    draw_spans,
    real_tokens,
    smallest,
    stochastic_count,
    uniforms,
)


__all__ = [
    "MASKINGS",
    "AdaptiveMasking",
    "BeitBlockMasking",
    "BlockMasking",
    "Masking",
    "NeighbourMasking",
    "RandomMasking",
    "SpanMasking",
    "TokenMasking",
    "mask_seeds",
    "masking_from_dict",
]


@strict
@dataclass(kw_only=True)
class SpanMasking(Masking):
    """Spans of `length` frames that may overlap: data2vec 1 speech (section 4; wav2vec 2.0, section 3.1).

    A row of n frames gets int(prob * n / length + u) spans, u uniform in [0, 1), at distinct starts in
    0..n - length, so prob = 0.65 hides about 49 % of the frames. A row too short for that many starts has its last
    spans cut at its end. In a row of 2 or more frames at least one is hidden and at least one is visible.

    Unlike the original, rows are not equalised to the smallest count of their batch (45 % is left of 49 % in a batch
    of 8): a row must not depend on its neighbours, and a student that keeps all tokens needs no equal counts. Also
    unlike it, the last frame of a row can be hidden (its range of starts is one short).
    """

    method: ClassVar[str] = "span"
    grid_axes: ClassVar[tuple[int, ...]] = (1,)
    prob: float | int = 0.65
    length: int = 10
    min_spans: int = 1

    def __post_init__(self) -> None:
        self._require(0 < self.prob <= 1, "prob", "must be in (0, 1]: it is the expected share of spans * length")
        self._require(self.length >= 1, "length", "must be at least 1 frame")
        self._require(self.min_spans >= 1, "min_spans", "must be at least 1, or a short row has no loss")

    def check(self, grid: tuple[int, ...]) -> None:
        super().check(grid)
        self._require(self.length < prod(grid), "length", f"must be below the {prod(grid)} frames of a row: lower it")
        fits = self.min_spans < prod(grid)
        self._require(fits, "min_spans", f"must be below the {prod(grid)} frames of a row: lower it")

    def hide(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        spans = stochastic_count(seeds, sizes, self.prob / self.length).clamp(min=self.min_spans)
        spans = spans.minimum((sizes - 1).clamp(min=0))
        starts = torch.maximum(sizes - self.length + 1, spans + 1)  # (rows,) how many starts to choose from
        hidden = draw_spans(seeds, sizes, spans, starts, prod(grid), self.length)
        whole = hidden.sum(-1) == sizes  # one frame, at random, is given back to a row that lost them all
        return hidden & ~smallest(cell_noise(seeds, sizes, prod(grid), stream=3), whole.long().minimum(sizes))


@strict
@dataclass(kw_only=True)
class BeitBlockMasking(Masking):
    """Rectangles on an image's patches, as in BEiT (algorithm 1): data2vec 1 vision (section 4).

    Rectangles of uniform area in [min_patches, what is left to hide] and log-uniform aspect in
    [min_aspect, 1 / min_aspect], each with ten attempts to fit, until int(ratio * patches) are hidden or none fits:
    the count varies slightly (115 to 120 of 120). The recipe hides 120 of 196 patches, hence ratio = 0.6125. A first
    rectangle is tried for until it fits, so that no image is without a loss.
    """

    method: ClassVar[str] = "beit_block"
    grid_axes: ClassVar[tuple[int, ...]] = (2,)
    ratio: float = 0.6125
    min_patches: int = 16
    min_aspect: float | int = 0.3
    max_patches: int | None = None

    def __post_init__(self) -> None:
        self._require(0 < self.ratio < 1, "ratio", "must be in (0, 1): it is the share of hidden patches")
        self._require(self.min_patches >= 1, "min_patches", "must be at least 1 patch")
        self._require(0 < self.min_aspect <= 1, "min_aspect", "must be in (0, 1]: the largest aspect is its inverse")
        at_least = self.max_patches is None or self.max_patches >= self.min_patches
        self._require(at_least, "max_patches", f"must be None or at least min_patches={self.min_patches}")

    def check(self, grid: tuple[int, ...]) -> None:
        super().check(grid)
        target = int(self.ratio * prod(grid))
        fix = f"must be at most the {target} patches to hide of a {grid} grid: lower it or raise ratio={self.ratio}"
        self._require(self.min_patches <= target, "min_patches", fix)
        self.sample(grid, mask_seeds(0, 0, range(16), 1))  # raises where no rectangle fits

    def hide(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        target = int(self.ratio * prod(grid))
        largest = target if self.max_patches is None else min(target, self.max_patches)
        return draw_rectangles(seeds, grid, target, self.min_patches, largest, self.min_aspect).flatten(1)


@strict
@dataclass(kw_only=True)
class TokenMasking(Masking):
    """Words, or spans of words: data2vec 1 text (section 4: BERT's 15 % of single tokens, or spans of 4 of 35 %).

    int(prob * n / length + u) spans start at distinct maskable tokens of a row's n, and are cut at the row's end.
    Of the chosen tokens a share `random_prob` is replaced by random ids (`sample_replaced`) and a share `keep_prob`
    is left as it is. Neither counts as hidden: the loss covers only what the student sees as the mask token. As in
    the original, a very short row may have nothing hidden, or all of it.
    """

    method: ClassVar[str] = "token"
    grid_axes: ClassVar[tuple[int, ...]] = (1,)
    prob: float | int = 0.15
    length: int = 1
    keep_prob: float | int = 0.0
    random_prob: float | int = 0.0

    def __post_init__(self) -> None:
        self._require(0 < self.prob <= 1, "prob", "must be in (0, 1]: it is the expected share of spans * length")
        self._require(self.length >= 1, "length", "must be at least 1 token")
        self._require(self.keep_prob >= 0, "keep_prob", "must be 0 or more")
        self._require(self.random_prob >= 0, "random_prob", "must be 0 or more")
        below = self.keep_prob + self.random_prob < 1
        self._require(below, "keep_prob", f"plus random_prob={self.random_prob} must be below 1, or nothing is hidden")

    def check(self, grid: tuple[int, ...]) -> None:
        super().check(grid)
        self._require(self.length < prod(grid), "length", f"must be below the {prod(grid)} tokens of a row: lower it")

    def sample_replaced(
        self, grid: tuple[int, ...], seeds: Tensor, lengths: Tensor | None = None, maskable: Tensor | None = None
    ) -> Tensor:
        """Bool (batch, views, time): what to replace by random ids; same arguments as, and disjoint from, `sample`."""
        return self._in_rows(self._replace, grid, seeds, lengths, maskable)

    def sample_chosen(
        self, grid: tuple[int, ...], seeds: Tensor, lengths: Tensor | None = None, maskable: Tensor | None = None
    ) -> Tensor:
        """Bool (batch, views, time): hidden, replaced or left as it is, all of which BERT predicts; as `sample`."""
        return self._in_rows(lambda *row: self._choose(*row)[0], grid, seeds, lengths, maskable)

    def hide(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        chosen, fate = self._choose(seeds, sizes, grid)
        return chosen & (fate >= self.random_prob + self.keep_prob)

    def _replace(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        chosen, fate = self._choose(seeds, sizes, grid)
        return chosen & (fate < self.random_prob)

    def _choose(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        spans = stochastic_count(seeds, sizes, self.prob / self.length).minimum(sizes)
        chosen = draw_spans(seeds, sizes, spans, sizes, prod(grid), self.length)  # (rows, time)
        return chosen, uniforms(seeds, prod(grid), stream=3)


@strict
@dataclass(kw_only=True)
class BlockMasking(Masking):
    """Blocks of `length` (1-D) or `length` x `length` (2-D) tokens, exact counts: data2vec 2.0's (inverse) blocks.

    With `inverse` the blocks are what stays visible. Let share = prob (inverse: 1 - prob): of a row's n tokens
    int(n * (share + adjust) / length**axes) block centres are drawn with replacement, blocks are cut at the borders,
    then single tokens, uniform over the row, are added or removed until int(n * share) are covered. Image base
    (0.8, 3, 0.07, inverse) keeps 39 and hides 157 of 196; audio (0.5, 5, 0.05) hides half.

    Any rectangular grid will do. The count is exact for each row's own length: padding (in 2-D whole rows of the grid,
    the last ones) is never hidden and rows of different lengths keep different numbers of tokens. At least one token
    of a row of 2 or more is hidden, and at least one visible.
    """

    method: ClassVar[str] = "block"
    exact: ClassVar[bool] = True
    grid_axes: ClassVar[tuple[int, ...]] = (1, 2)
    fits_shorter: ClassVar[bool] = True
    prob: float
    length: int
    adjust: float | int = 0.0
    inverse: bool = False

    def __post_init__(self) -> None:
        self._require(0 < self.prob < 1, "prob", "must be in (0, 1): it is the share of hidden tokens")
        self._require(self.length >= 2, "length", "must be at least 2 tokens; for single tokens use method 'random'")
        blocks = 0 < self._share + self.adjust < math.inf
        self._require(blocks, "adjust", f"must be a number above -{self._share:g}, or there is no block")

    @property
    def _share(self) -> float:
        return 1 - self.prob if self.inverse else self.prob

    def check(self, grid: tuple[int, ...]) -> None:
        super().check(grid)
        self._require(self.length < min(grid), "length", f"must be below the shortest side of a {grid} grid: lower it")
        blocks = int(prod(grid) * ((self._share + self.adjust) / self.length ** len(grid)))
        fix = f"leaves no block in a {grid} grid: lower it or raise adjust={self.adjust}"
        self._require(blocks > 0, "length", fix)

    def hide(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        blocks = (sizes.double() * ((self._share + self.adjust) / self.length ** len(grid))).long()  # (rows,)
        columns = torch.arange(int(blocks.max()), device=seeds.device)
        centres = (uniforms(seeds, len(columns)) * sizes[:, None]).long()  # (rows, blocks)
        centres = torch.where(columns < blocks[:, None], centres, prod(grid))  # a column past the end for no block
        marks = torch.zeros(len(seeds), prod(grid) + 1, dtype=torch.bool, device=seeds.device)
        marks = marks.scatter(1, centres, True)[:, :-1].view(-1, *grid)
        covered = dilate(marks, self.length, before=self.length // 2).flatten(1)  # (rows, time)
        count = (sizes.double() * self._share).long().clamp(min=1).minimum(sizes - 1).clamp(min=0)
        # Covered tokens sort first: too many are thinned at random, too few are filled up at random.
        covered = smallest(cell_noise(seeds, sizes, prod(grid), stream=2) - covered.double(), count)
        if not self.inverse:
            return covered
        return real_tokens(sizes, prod(grid)) & ~covered & (sizes > 1)[:, None]


@strict
@dataclass(kw_only=True)
class RandomMasking(Masking):
    """Single tokens, uniform, exact counts: data2vec 2.0 text, as in MAE.

    int(n * (1 - prob)) of a row's n maskable tokens stay visible. In a row of 2 or more at least one is hidden and
    at least one visible. Unlike in the original, padding is neither hidden nor counted.
    """

    method: ClassVar[str] = "random"
    exact: ClassVar[bool] = True
    grid_axes: ClassVar[tuple[int, ...]] = (1, 2, 3)
    uses_neighbours: ClassVar[bool] = False
    prob: float

    def __post_init__(self) -> None:
        self._require(0 < self.prob < 1, "prob", "must be in (0, 1): it is the share of hidden tokens")

    def check(self, grid: tuple[int, ...]) -> None:
        super().check(grid)
        self._require(prod(grid) > 1, "prob", f"cannot hide a part of a {grid} grid: it needs 2 tokens or more")

    def hide(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        visible = (sizes.double() * (1 - self.prob)).long().clamp(min=1)
        count = (sizes - visible).clamp(min=1).minimum(sizes - 1).clamp(min=0)
        return smallest(cell_noise(seeds, sizes, prod(grid), stream=2), count)


@strict
@dataclass(kw_only=True)
class NeighbourMasking(Masking):
    """A token, uniform, and those nearest to it in space, int(n * prob) of a row's n in all: Point2Vec's blocks.

    In a row of 2 or more at least one is hidden and at least one visible. Of equally near tokens the first are hidden.
    """

    method: ClassVar[str] = "neighbours"
    exact: ClassVar[bool] = True
    grid_axes: ClassVar[tuple[int, ...]] = (1,)
    uses_coordinates: ClassVar[bool] = True
    prob: float

    def __post_init__(self) -> None:
        self._require(0 < self.prob < 1, "prob", "must be in (0, 1): it is the share of hidden tokens")

    def sample(
        self,
        grid: tuple[int, ...],
        seeds: Tensor,
        lengths: Tensor | None = None,
        maskable: Tensor | None = None,
        coordinates: Tensor | None = None,
    ) -> Tensor:
        if coordinates is None or lengths is not None or (maskable is not None and not maskable.all()):
            return super().sample(grid, seeds, lengths, maskable)
        places = coordinates.to(seeds.device).double().repeat_interleave(seeds.shape[1], dim=0)
        return self._in_rows(lambda seeds, sizes, _: self._nearest(seeds, sizes, places), grid, seeds, None, None)

    def hide(self, seeds: Tensor, sizes: Tensor, grid: tuple[int, ...]) -> Tensor:
        raise ValueError(f"masking {self.method!r} needs tokens with coordinates, all of them real, as points have")

    def _nearest(self, seeds: Tensor, sizes: Tensor, places: Tensor) -> Tensor:
        """Bool (rows, time) for `places` (rows, time, axes)."""
        centre = (uniforms(seeds, 1)[:, 0] * sizes).long()  # (rows,)
        distances = (places - places[torch.arange(len(places)), centre].unsqueeze(1)).square().sum(-1)
        rank = distances.argsort(dim=-1, stable=True).argsort(dim=-1)  # (rows, time)
        count = (sizes.double() * self.prob).long().clamp(min=1).minimum(sizes - 1)
        return rank < count.unsqueeze(1)


MASKINGS: dict[str, type[Masking]] = {
    "span": SpanMasking,
    "beit_block": BeitBlockMasking,
    "token": TokenMasking,
    "block": BlockMasking,
    "random": RandomMasking,
    "neighbours": NeighbourMasking,
    "attention": AttentionMasking,
    "variance": VarianceMasking,
    "error": ErrorMasking,
}


def masking_from_dict(numbers: Mapping[str, Any]) -> Masking:
    """{"method": "span", "prob": 0.65, ...} -> strategy; `ValueError` on an unknown method, field, type or value."""
    if not isinstance(numbers, Mapping):
        raise ValueError(f"objective.masking = {numbers!r}: must be {{method: ...}} with the method's numbers.")
    given = dict(numbers)
    method = given.pop("method", None)
    if not isinstance(method, str) or method not in MASKINGS:
        raise ValueError(f"masking method={method!r} is unknown: use one of {', '.join(MASKINGS)}")
    strategy: Any = MASKINGS[method]
    for name, number in given.items():
        if isinstance(number, float) and not isfinite(number):
            raise ValueError(f"objective.masking.{name} = {number!r}: must be a finite number.")
    if isinstance(given.get("of"), Mapping):
        given["of"] = masking_from_dict(given["of"])
    try:
        return strategy(**given)
    except (TypeError, StrictDataclassError) as error:  # an unknown or missing field; a value of a wrong type
        known = ", ".join(field.name for field in fields(strategy))
        raise ValueError(f"masking {method!r} cannot be built from {given}: {error}. Its fields: {known}") from error
