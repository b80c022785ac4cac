"""Points -> overlapping groups of neighbours around centres that cover the cloud (Point2Vec, arXiv 2303.16570, 3.1).

Plain torch, batched, and without a value that the host has to wait for: the number of centres and the size of a group
are given. Coordinates are `(batch, points, 3)`; `real`, bool `(batch, points)`, is False where a cloud is padded.
"""

import torch
from torch import Tensor


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """`(batch, n, axes)` and `(batch, m, axes)` -> `(batch, n, m)`, without the cancellation of a matrix product."""
    distances = first.new_zeros(first.shape[0], first.shape[1], second.shape[1])
    for axis in range(first.shape[2]):
        distances = distances + (first[:, :, None, axis] - second[:, None, :, axis]).square()
    return distances


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `(batch, points, channels)` at `(batch, ...)` -> `(batch, ..., channels)`."""
    flat = index.flatten(1).unsqueeze(-1).expand(-1, -1, values.shape[2])
    return values.gather(1, flat).view(*index.shape, values.shape[2])


@torch.no_grad()
def farthest_points(points: Tensor, count: int, start: Tensor | None = None, real: Tensor | None = None) -> Tensor:
    """Indices `(batch, count)` of points of which each is as far as possible from all before it.

    Args:
        start: `(batch,)` long, the first one; the first real point if not given.
        real: which points may be chosen. A cloud with fewer of them than `count` gives some of them again.
    """
    points = points.float()
    batch = points.shape[0]
    if start is None:
        start = points.new_zeros(batch, dtype=torch.long) if real is None else real.int().argmax(-1)
    nearest = points.new_full(points.shape[:2], torch.inf)  # (batch, points), distance to what was chosen so far
    if real is not None:
        nearest = nearest.masked_fill(~real, -1.0)  # below every distance
    chosen = [start]
    for _ in range(count - 1):
        last = pick(points, chosen[-1].unsqueeze(1))  # (batch, 1, 3)
        nearest = torch.minimum(nearest, (points - last).square().sum(-1))
        chosen.append(nearest.argmax(-1))
    return torch.stack(chosen, dim=1)


@torch.no_grad()
def nearest_points(centers: Tensor, points: Tensor, count: int, real: Tensor | None = None) -> Tensor:
    """Indices `(batch, centers, count)` of the points nearest to each centre, the nearest first.

    A cloud with fewer real points than `count` gives its nearest one again.
    """
    distances = _distances(centers, points, real)
    return _filled(*distances.topk(count, largest=False), torch.inf)


@torch.no_grad()
def points_within(centers: Tensor, points: Tensor, radius: float, count: int, real: Tensor | None = None) -> Tensor:
    """Indices `(batch, centers, count)` of the first points closer to a centre than `radius`, in the cloud's order.

    Where there are fewer, the first one is repeated. A centre is one of the points, so that there is always one.
    """
    beyond = points.shape[1]
    order = torch.arange(beyond, device=points.device)
    inside = _distances(centers, points, real) < radius**2  # (batch, centers, points)
    index = torch.where(inside, order, beyond).topk(count, largest=False).values
    return _filled(index, index, beyond)


def _distances(centers: Tensor, points: Tensor, real: Tensor | None) -> Tensor:
    distances = squared_distances(centers.float(), points.float())  # (batch, centers, points)
    return distances if real is None else distances.masked_fill(~real.unsqueeze(1), torch.inf)


def _filled(keys: Tensor, index: Tensor, missing: float) -> Tensor:
    """`index` with the first of a group where a key says that there is none."""
    return torch.where(keys == missing, index[..., :1], index)


def interpolate(points: Tensor, centers: Tensor, features: Tensor) -> Tensor:
    """Features of centres `(batch, centers, dim)` at points, `(batch, points, dim)`.

    The mean of the three nearest centres, weighted by the inverse squared distance (PointNet++, equation 2).
    """
    distances, index = squared_distances(points, centers).topk(min(3, centers.shape[1]), largest=False)
    weights = 1 / (distances + torch.finfo(distances.dtype).eps)  # (batch, points, 3)
    weights = weights / weights.sum(-1, keepdim=True)
    return (pick(features, index) * weights.unsqueeze(-1)).sum(2)
