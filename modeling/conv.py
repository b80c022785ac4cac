"""The one convolutional layer of data2vec 2.0, in its decoders and in the positions of speech."""

from torch import Tensor, nn
from torch.nn import functional as F

from .initial_laws import DefaultConv2d


class TokenConv(nn.Module):
    """Convolution over a grid of tokens that keeps its size, norm without parameters, GELU.

    A sequence is a grid of height 1. Tokens stay channels-last from end to end: the convolution reads a view of them
    and the norm needs no transpose.

    Args:
        axes: 1 for sequences, 2 for images.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel: int, groups: int, axes: int):
        super().__init__()
        size = (1, kernel) if axes == 1 else (kernel, kernel)
        padding = (size[0] // 2, size[1] // 2)
        self.conv = DefaultConv2d(in_dim, out_dim, size, padding=padding, groups=groups)
        self.norm = nn.LayerNorm(out_dim, elementwise_affine=False)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """`(rows, time, in_dim)` on a `grid` of (time,) or (height, width) -> `(rows, time, out_dim)`."""
        height, width = (1, *grid)[-2:]
        planes = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # (rows, in_dim, height, width)
        planes = self.conv(planes)[:, :, :height, :width]  # an even kernel gives one more at the end
        return F.gelu(self.norm(planes.permute(0, 2, 3, 1).flatten(1, 2)))
