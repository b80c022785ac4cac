"""Prepares volumes as MedCoSS's pretraining did; it is saved beside the weights and travels with them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchFeature, FeatureExtractionMixin


LOW, HIGH = 0.005, 0.995  # quantiles that stand for the darkest and the brightest where no window is given


class MedCossVolumeFeatureExtractor(FeatureExtractionMixin):
    """Scales what is in a window of intensities to -1 .. 1, and a volume to the encoder's size.

    Args:
        size (`list[int]`): depth, height and width, in voxels.
        window (`list[float]`, *optional*): the darkest and the brightest intensity, such as -1000 and 1000 Hounsfield
            units of CT; quantiles of each volume, if not given, as for MR, whose units mean nothing.
    """

    model_input_names = ["voxel_values"]
    _auto_class = "AutoFeatureExtractor"

    def __init__(
        self, size: Sequence[int] = (16, 192, 192), window: Sequence[float] | None = None, **kwargs: Any
    ) -> None:
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"size = {size}: must be depth, height and width, each 1 or more.")
        if window is not None and not (len(window) == 2 and window[0] < window[1]):
            raise ValueError(f"window = {window}: must be two intensities, the lower one first, or null.")
        self.size, self.window = list(size), None if window is None else list(window)
        super().__init__(**kwargs)

    def normalize(self, volume: Tensor) -> Tensor:
        """`(depth, height, width)` of any intensities -> fp32 in -1 .. 1."""
        volume = volume.float()
        if self.window is None:
            flat = volume.flatten()
            flat = flat[:: max(len(flat) // 1_000_000, 1)]  # a sample is enough, and what torch can sort
            low, high = torch.quantile(flat, torch.tensor([LOW, HIGH])).tolist()
        else:
            low, high = self.window
        return (volume.clamp(low, high) - low) / max(high - low, 1e-12) * 2 - 1

    def resize(self, volume: Tensor) -> Tensor:
        """`(depth, height, width)` -> `(1, *size)`, trilinear."""
        grown = F.interpolate(volume[None, None], size=tuple(self.size), mode="trilinear", align_corners=False)
        return grown[0]

    def __call__(self, volumes: Any, return_tensors: str = "pt") -> BatchFeature:
        """
        Args:
            volumes: one volume `(depth, height, width)`, slices first, or a list of such; arrays or tensors.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `voxel_values` `(batch, 1, depth, height, width)`.

        Raises:
            ValueError: a volume is of another shape, or not finite.
        """
        given = [torch.as_tensor(volume) for volume in ([volumes] if hasattr(volumes, "shape") else volumes)]
        for volume in given:
            if volume.dim() != 3 or not volume.numel() or not volume.float().isfinite().all():
                raise ValueError(
                    f"a volume has the shape {tuple(volume.shape)}: pass (depth, height, width) of finite numbers."
                )
        values = torch.stack([self.resize(self.normalize(volume)) for volume in given])
        return BatchFeature({"voxel_values": values}, tensor_type=return_tensors)
