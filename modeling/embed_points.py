"""A point cloud -> tokens: groups of neighbours, each read by a small PointNet (arXiv 2303.16570, section 3.1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .initialization import DefaultLinear
from .point_groups import farthest_points, nearest_points, pick, points_within
from .ranges import require_indices
from .tokens import Tokens


INNER = (128, 256, 512)  # widths of the small PointNet
POSITION_DIM = 128  # width inside the network that makes positions of coordinates


def group_offsets(
    point_values: Tensor,
    groups: int,
    size: int,
    radius: float | None,
    attention_mask: Tensor | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Centres of groups `(batch, groups, 3)`, and the offsets of their points from them `(batch, groups, size, 3)`.

    Raises:
        ValueError: an input has another shape, a cloud fewer points than a group, or `start` is no real point.
    """
    if point_values.dim() != 3 or point_values.shape[2] != 3 or point_values.shape[1] < size:
        raise ValueError(
            f"point_values is {tuple(point_values.shape)}: pass (batch, points, 3), of group_size = {size} "
            "points or more."
        )
    if attention_mask is not None and attention_mask.shape != point_values.shape[:2]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: must be {tuple(point_values.shape[:2])}, a "
            "number for each point."
        )
    if start is not None and (start.shape != point_values.shape[:1] or start.dtype != torch.long):
        raise ValueError(
            f"start has shape {tuple(start.shape)} and type {start.dtype}: must be ({len(point_values)},) long, "
            "the number of a real point of each cloud."
        )
    real = None if attention_mask is None else attention_mask.bool()
    if start is not None:
        require_indices("start", start, point_values.shape[1], allowed=real)
    points = point_values.float()
    centers = pick(points, farthest_points(points, groups, start, real))  # (batch, groups, 3)
    if radius is None:
        index = nearest_points(centers, points, size, real)  # (batch, groups, size)
    else:
        index = points_within(centers, points, radius, size, real)
    offsets = (pick(points, index) - centers.unsqueeze(2)) / (radius or 1.0)  # (batch, groups, size, 3)
    return centers, offsets


class PointEmbeddings(nn.Module):
    """Groups of `config.group_size` points around `config.num_groups` centres -> tokens.

    The offsets of a group's points from its centre, over `config.group_radius` where there is one, go through two
    small networks, each followed by the largest value over the points. Batch norm counts all points of all groups:
    what is hidden is hidden afterwards.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.groups, self.size, self.radius = config.num_groups, config.group_size, config.group_radius
        narrow, middle, wide = INNER
        self.first = DefaultLinear(3, narrow, bias=False)
        self.first_norm = nn.BatchNorm1d(narrow)
        self.second = DefaultLinear(narrow, middle)
        self.third = DefaultLinear(2 * middle, wide, bias=False)  # reads the group's largest values, then the point's
        self.third_norm = nn.BatchNorm1d(wide)
        self.projection = DefaultLinear(wide, config.hidden_size)

    def forward(
        self, point_values: Tensor, attention_mask: Tensor | None = None, start: Tensor | None = None
    ) -> Tokens:
        """`(batch, points, 3)`, `(batch, points)` with 1 = real, `(batch,)` long -> tokens with their centres.

        Raises:
            ValueError: one of them has another shape, a cloud fewer points than a group, or `start` is no real point.
        """
        centers, offsets = group_offsets(
            point_values, self.groups, self.size, self.radius, attention_mask, start
        )  # (batch, groups, 3), (batch, groups, size, 3)
        tokens = self._describe(offsets.flatten(0, 1).to(self.first.weight.dtype))  # (batch * groups, dim)
        return Tokens(tokens.unflatten(0, centers.shape[:2]), (self.groups,), coordinates=centers)

    def _describe(self, offsets: Tensor) -> Tensor:
        """`(groups, size, 3)` -> `(groups, dim)`."""
        groups, size, _ = offsets.shape
        local = self.second(F.relu(self.first_norm(self.first(offsets.flatten(0, 1))))).view(groups, size, -1)
        # the group's part of a matrix product is the same for all of its points
        whole, own = self.third.weight.chunk(2, dim=1)
        both = F.linear(local, own) + F.linear(local.amax(1), whole).unsqueeze(1)  # (groups, size, wide)
        both = F.relu(self.third_norm(both.flatten(0, 1)))
        return self.projection(both).view(groups, size, -1).amax(1)


class CoordinatePositions(nn.Module):
    """Positions of tokens from their coordinates, by a network of two layers."""

    depends_on_tokens = False

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.inner = DefaultLinear(3, POSITION_DIM)
        self.output = DefaultLinear(POSITION_DIM, config.hidden_size)

    def forward(self, tokens: Tokens) -> Tensor:
        """`(batch, time, dim)`."""
        assert tokens.coordinates is not None
        return self.output(F.gelu(self.inner(tokens.coordinates.to(self.inner.weight.dtype))))
