"""Prepares point clouds as Point2Vec's pretraining did; it is saved beside the weights and travels with them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, FeatureExtractionMixin

from .point_groups import farthest_points


SAMPLINGS = ("farthest", "random")
THINNED = 16  # times num_points: a larger cloud is thinned at random first, so that the cost of a huge one is bounded


class Point2VecFeatureExtractor(FeatureExtractionMixin):
    """Samples a cloud, moves its mean to the origin and scales it into the unit sphere (arXiv 2303.16570, section 4).

    Args:
        num_points (`int`): points of a cloud; smaller ones keep all that they have.
        sampling (`str`): how larger ones are reduced: `"farthest"`, each point as far as possible from those before
            it, or `"random"`.
        do_normalize (`bool`): centre and scale; off leaves coordinates as they are.
    """

    model_input_names = ["point_values", "attention_mask"]
    _auto_class = "AutoFeatureExtractor"

    def __init__(
        self, num_points: int = 1024, sampling: str = "farthest", do_normalize: bool = True, **kwargs: Any
    ) -> None:
        if num_points < 1:
            raise ValueError(f"num_points = {num_points}: must be 1 or more.")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling = {sampling!r}: must be one of {', '.join(SAMPLINGS)}.")
        self.num_points, self.sampling, self.do_normalize = num_points, sampling, do_normalize
        super().__init__(**kwargs)

    def sample(self, points: Tensor, seed: int | None = None) -> Tensor:
        """Indices `(sampled,)` of at most `num_points`; farthest sampling starts at point 0 without a seed."""
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        kept = torch.arange(len(points))
        if len(points) <= self.num_points:
            return kept
        if self.sampling == "random":
            return torch.randperm(len(points), generator=generator)[: self.num_points].sort().values
        if len(points) > THINNED * self.num_points:
            kept = torch.randperm(len(points), generator=generator)[: THINNED * self.num_points].sort().values
        start = None if seed is None else torch.randint(len(kept), (1,), generator=generator)
        return kept[farthest_points(points[kept].unsqueeze(0), self.num_points, start)[0]]

    def normalize(self, points: Tensor) -> Tensor:
        """`(points, 3)` with the mean at the origin and the farthest point at a distance of 1."""
        if not self.do_normalize:
            return points
        points = points - points.mean(0)
        return points / points.norm(dim=1).max().clamp(min=torch.finfo(points.dtype).tiny)

    def __call__(self, point_clouds: Any, seed: int | None = None, return_tensors: str = "pt") -> BatchFeature:
        """
        Args:
            point_clouds: one cloud `(points, 3 or more)`, whose first three columns are coordinates, or a list of
                clouds, as arrays, tensors or lists.
            seed: of what is sampled; the same points each time if `None`.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `point_values` `(batch, points, 3)`; where clouds differ in size also `attention_mask` `(batch, points)`,
            1 = real.

        Raises:
            ValueError: a cloud is of another shape, empty, or not finite.
        """
        whole = torch.is_tensor(point_clouds) or hasattr(point_clouds, "__array__")
        single = whole or not len(point_clouds) or not _is_cloud(point_clouds[0])
        clouds = [self._prepare(cloud, seed) for cloud in ([point_clouds] if single else point_clouds)]
        lengths = torch.tensor([len(cloud) for cloud in clouds])
        batch = {"point_values": torch.nn.utils.rnn.pad_sequence(clouds, batch_first=True)}
        if (lengths != lengths.max()).any():
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return BatchFeature(batch, tensor_type=return_tensors)

    def _prepare(self, cloud: Any, seed: int | None) -> Tensor:
        points = torch.as_tensor(cloud, dtype=torch.float32)
        if points.dim() != 2 or points.shape[1] < 3 or not len(points):
            raise ValueError(
                f"a point cloud has the shape {tuple(points.shape)}: pass (points, 3), or a list of such."
            )
        points = points[:, :3]
        if not points.isfinite().all():
            raise ValueError("a point cloud holds NaN or infinite coordinates: remove those points.")
        return self.normalize(points[self.sample(points, seed)])


def _is_cloud(value: Any) -> bool:
    """Whether a member of a list is a cloud, and not the coordinates of one point."""
    return (
        hasattr(value, "shape")
        and len(value.shape) == 2
        or (isinstance(value, Sequence) and isinstance(value[0], Sequence))
    )
