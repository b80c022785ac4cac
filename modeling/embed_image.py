"""Images: patches and fixed positions of data2vec 2.0 (arXiv 2212.07525, section 4.1)."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .initialization import XavierConv2d
from .tokens import Tokens


EPS = 1e-6  # of the variance of a patch, as in MAE


def as_pair(size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a size that may be one number."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def normalized_patches(values: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """What MAE predicts of each patch: its numbers, channels last, with zero mean and unit (unbiased) variance.

    Pixels or voxels `(batch, channels, *size)` -> `(batch, patches, numbers)` fp32.
    """
    axes = len(patch_size)
    for axis, patch in enumerate(patch_size):
        values = values.unflatten(2 + 2 * axis, (-1, patch))  # (batch, channels, height, patch, width, patch)
    order = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
    patches = values.permute(order).flatten(1 + axes).flatten(1, axes).float()
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * torch.rsqrt(variance + EPS)


class ImageEmbeddings(nn.Module):
    """Pixels -> patches, row by row."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.patch_size = as_pair(config.patch_size)
        self.input_numbers = config.num_channels * self.patch_size[0] * self.patch_size[1]
        self.projection = XavierConv2d(
            config.num_channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size
        )

    def forward(self, pixel_values: Tensor) -> Tokens:
        """`(batch, channels, height, width)` -> `(batch, patches, dim)` on a grid (height, width) in patches.

        Raises:
            ValueError: other axes or channels, or a size that is not whole patches.
        """
        channels, (high, wide) = self.projection.in_channels, self.patch_size
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or shape[1] != channels or shape[2] % high or shape[3] % wide or 0 in shape:
            raise ValueError(
                f"pixel_values has shape {shape}: pass (batch, {channels}, height, width), where height and width are "
                f"multiples of patch_size = ({high}, {wide})."
            )
        planes = self.projection(pixel_values.to(self.projection.weight.dtype))  # (batch, dim, height, width)
        return Tokens(planes.flatten(2).transpose(1, 2), tuple(planes.shape[2:]))

    def input_targets(self, pixel_values: Tensor) -> Tensor:
        """What each token is made of, see [`normalized_patches`]."""
        return normalized_patches(pixel_values, self.patch_size)


class SinCosPositions(nn.Module):
    """Fixed 2-D sine-cosine positions; they are added to the patches.

    Another grid than that of `config.image_size` is laid over the same field, so that a patch's position says where
    in the image it is: positions are evaluated between those that were learned with, not extrapolated.
    """

    depends_on_tokens = False
    table: Tensor

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        sizes = zip(as_pair(config.image_size), as_pair(config.patch_size), strict=True)
        self.grid = tuple(size // patch for size, patch in sizes)  # (height, width) in patches
        self.dim = config.hidden_size
        self.register_buffer("table", self.make_table(), persistent=False)  # (1, patches, dim)

    def make_table(self, grid: tuple[int, ...] | None = None) -> Tensor:
        """Positions `(1, patches, dim)` fp32 on the CPU of a `grid` over the field of `self.grid`."""

        def coordinates(patches: int, trained: int) -> Tensor:
            steps = torch.arange(patches, dtype=torch.float64, device="cpu")
            return (steps + 0.5) * trained / patches - 0.5

        (height, width), (rows, columns) = self.grid, grid or self.grid
        return sincos_positions(coordinates(rows, height), coordinates(columns, width), self.dim).unsqueeze(0)

    def forward(self, tokens: Tokens) -> Tensor:
        """`(1, patches, dim)`, the same for all images."""
        table = self.table if tokens.grid == self.grid else self.make_table(tokens.grid)
        return table.to(tokens.values.device, tokens.values.dtype)


def sincos_positions(rows: Tensor, columns: Tensor, dim: int) -> Tensor:
    """Positions `(rows * columns, dim)` fp32 of a grid with such coordinates.

    The first half of the channels encodes the column, the second the row; of each half the first half are sines and
    the second cosines, at dim/4 frequencies from 1 down to 1/10000 (exclusive).
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64, device=rows.device) / (dim // 4))
    vertical, horizontal = torch.meshgrid(rows.double(), columns.double(), indexing="ij")
    angles = [torch.outer(axis.flatten(), frequencies) for axis in (horizontal, vertical)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()
