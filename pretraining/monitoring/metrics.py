"""Is the run healthy? Spread, effective rank and throughput as pure functions of sums, so that ranks add up exactly.

A representation collapses in more than one way, so more than one number is watched:

- `target_std`, `prediction_std`: spread over all positions; near zero when everything is predicted alike;
- `position_std`: spread of targets across samples at the same position; near zero when targets depend on the position
  only, which the first two do not notice;
- `effective_rank`, `prediction_rank`: how many directions the targets and the predictions use; they fall when only
  some channels collapse, the student's first, which also falls until the student has begun to learn;
- `embedding_std`, `embedding_position_std`, `embedding_rank`: the same three of what the local encoder, or the
  embedding, makes of the input, which student and teacher read; `embedding_share` is how much of its size varies, near
  zero when it says the same of every input. The targets may spread all the same, by what is added for the position
  and by their norms (fairseq's issue 5239). In text it holds the positions;
- `utterance_target_std`, `utterance_prediction_std`: the first two of the term of a whole sample, where there is one.

`loss_<term>` is the mean of a term of the loss, without its weight, where there are several. Each batch counts by its
scored positions, as in the loss, which is their weighted sum.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...modeling import Data2VecForPreTrainingOutput


Reduce = Callable[[Tensor], Tensor]  # adds a tensor up over ranks; the identity on one
RANKS = {"target": "effective_rank", "prediction": "prediction_rank", "embedding": "embedding_rank"}
POSITIONS = 2048  # compared at most: a fixed number, so that ranks that saw other lengths add up


@dataclass
class Moments:
    """Sums of rows, of squares and (if wanted) of outer products, in fp64: `(dim,)`, `(dim,)`, `(dim, dim)`."""

    count: Tensor
    total: Tensor
    squares: Tensor
    products: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor, products: bool = False, real: Tensor | None = None) -> "Moments":
        """Moments of `(rows, dim)`, or of those of them that are `real`, bool `(rows,)`."""
        rows = rows.detach().double()
        count = torch.tensor(float(len(rows)), dtype=torch.float64, device=rows.device)
        if real is not None:  # not picked out, for which the device would have to be waited for
            rows, count = rows.masked_fill(~real.unsqueeze(-1), 0), real.sum().double()
        return cls(count, rows.sum(0), rows.square().sum(0), rows.T @ rows if products else None)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def spread(self) -> Tensor:
        """Mean over channels of sqrt(unbiased variance + 1e-6), as [`modeling.loss.spread`]; NaN below two rows."""
        variance = (self.squares - self.total.square() / self.count) / (self.count - 1)
        return (variance.clamp(min=0) + 1e-6).sqrt().mean() if self.count > 1 else self.total.new_full((), torch.nan)

    def varying_share(self) -> Tensor:
        """Root mean square of the centred rows over that of the rows: 0 where all are alike, at most 1."""
        mean = self.total / self.count
        return (1 - self.count * mean.square().sum() / self.squares.sum()).clamp(min=0).sqrt()

    def effective_rank(self) -> Tensor:
        """exp(entropy of the normalised singular values) of the centred rows: 1 to dim (RankMe, arXiv 2210.02885).

        NaN where a row is not finite.
        """
        assert self.products is not None
        mean = self.total / self.count
        scatter = self.products - self.count * torch.outer(mean, mean)
        if not torch.isfinite(scatter).all():  # which the decomposition refuses
            return scatter.new_full((), torch.nan)
        singular = torch.linalg.eigvalsh(scatter).clamp(min=0).sqrt()
        share = singular / singular.sum().clamp(min=1e-12) + 1e-12
        return torch.exp(-(share * share.log()).sum())


def position_moments(targets: Tensor, real: Tensor | None) -> Tensor:
    """Sums across samples at each position: `(time, 2 * dim + 1)` fp64 holding count, sum and sum of squares.

    Args:
        targets: `(batch, time, dim)`.
        real: bool `(batch, time)`, `None` if nothing is padded.
    """
    targets = targets.detach().double()
    weight = targets.new_ones(targets.shape[:2]) if real is None else real.to(targets.dtype)  # (batch, time)
    weighted = targets * weight.unsqueeze(-1)
    return torch.cat((weight.sum(0).unsqueeze(-1), weighted.sum(0), (weighted * targets).sum(0)), dim=-1)


def position_spread(moments: Tensor) -> Tensor:
    """Mean over positions (of two samples and more) and channels of the std across samples; NaN without any."""
    dim = (moments.shape[1] - 1) // 2
    count, total, squares = moments[:, :1], moments[:, 1 : 1 + dim], moments[:, 1 + dim :]
    enough = count[:, 0] > 1
    variance = (squares - total.square() / count.clamp(min=1)) / (count - 1).clamp(min=1)
    return (variance[enough].clamp(min=0) + 1e-6).sqrt().mean() if enough.any() else moments.new_full((), torch.nan)


@dataclass
class HealthMeter:
    """Collects what the model returned over the micro-batches of one update."""

    rows: dict[str, list[Moments]] = field(default_factory=lambda: defaultdict(list))  # of targets and predictions
    terms: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # (mean * scored, scored)
    positions: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # of targets and embeddings
    masked: list[Tensor] = field(default_factory=list)  # (masked, maskable) positions

    def update(self, output: Data2VecForPreTrainingOutput) -> None:
        assert output.tokens is not None  # as every model of this package returns it
        real, embedded = output.real, output.tokens.values
        rows = {"target": output.targets, "prediction": output.predictions}
        if output.cls_targets is not None and output.cls_predictions is not None:
            of_samples = output.cls_targets[:: len(output.cls_targets) // len(output.all_targets)]  # views share them
            rows |= {"utterance_target": of_samples, "utterance_prediction": output.cls_predictions}
        for name, of in rows.items():
            self.rows[name].append(Moments.of(of, products=name in RANKS))
        flat = None if real is None else real.flatten()
        self.rows["embedding"].append(Moments.of(embedded.flatten(0, -2), products=True, real=flat))
        for name, mean in (output.loss_terms or {}).items():
            scored = torch.full_like(mean, len(output.targets), dtype=torch.float64)
            self.terms[name].append(torch.stack((mean * scored, scored)))
        for name, of in (("position_std", output.all_targets), ("embedding_position_std", embedded)):
            self.positions[name].append(position_moments(of, real))
        masked = output.masked
        steps = torch.ones_like(output.all_targets[..., 0]) if real is None else real  # (batch, time)
        views = masked.numel() // steps.numel()
        self.masked.append(torch.stack((masked.sum(), steps.sum() * views)).double())

    def summary(self, reduce: Reduce) -> dict[str, float]:
        """The numbers over all micro-batches and ranks; empties the meter."""
        if not self.rows:
            return {}
        rows = {name: _add(parts, reduce) for name, parts in self.rows.items()}
        masked = reduce(torch.stack(self.masked).sum(0))
        positions = {name: reduce(_add_positions(parts)) for name, parts in self.positions.items()}
        several = self.terms if len(self.terms) > 1 else {}
        terms = {name: reduce(torch.stack(parts).sum(0)) for name, parts in several.items()}
        for kept in (self.rows, self.terms, self.positions, self.masked):
            kept.clear()
        return {
            **{f"loss_{name}": (total / scored).item() for name, (total, scored) in terms.items()},
            **{f"{name}_std": moments.spread().item() for name, moments in rows.items()},
            **{name: position_spread(moments).item() for name, moments in positions.items()},
            "embedding_share": rows["embedding"].varying_share().item(),
            **{name: rows[of].effective_rank().item() for of, name in RANKS.items()},
            "masked_fraction": (masked[0] / masked[1]).item(),
        }


def _add(parts: list[Moments], reduce: Reduce) -> Moments:
    names = parts[0].tensors()
    return Moments(**{name: reduce(torch.stack([vars(part)[name] for part in parts]).sum(0)) for name in names})


def _add_positions(parts: list[Tensor]) -> Tensor:
    total = parts[0].new_zeros(POSITIONS, parts[0].shape[1])
    for part in parts:
        total[: len(part)] += part[:POSITIONS]
    return total
