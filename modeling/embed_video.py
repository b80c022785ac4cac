"""Frames of a video -> a token each: a 3-D convolution over five frames, then a ResNet-18 (AV-HuBERT's front end)."""

from collections import OrderedDict

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from .initialization import HeConv2d, HeConv3d, SelfInitialized


class PReLU(SelfInitialized, nn.PReLU):
    """A slope per channel for what is negative, 0.25 at the start."""

    def initialize(self) -> None:
        init.constant_(self.weight, 0.25)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: `(frames, inside, height, width)` -> `(frames, outside, ...)`."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = HeConv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1, self.activation1 = nn.BatchNorm2d(outside), PReLU(outside)
        self.conv2 = HeConv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2, self.activation2 = nn.BatchNorm2d(outside), PReLU(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            conv = HeConv2d(inside, outside, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outside)))

    def forward(self, planes: Tensor) -> Tensor:
        branch = self.activation1(self.norm1(self.conv1(planes)))
        return self.activation2(self.norm2(self.conv2(branch)) + self.shortcut(planes))


class VideoEmbeddings(nn.Module):
    """`config.num_channels` of a frame -> `config.resnet_width` planes -> eight times as many -> the encoder's width.

    Batch norms count every frame of a batch, padding too, as in the original.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width = config.resnet_width
        self.conv = HeConv3d(config.num_channels, width, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.norm, self.activation = nn.BatchNorm3d(width), PReLU(width)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ResidualBlock(inside, outside, stride), ResidualBlock(outside, outside, 1))
                for inside, outside, stride in zip(widths[:-1], widths[1:], (1, 2, 2, 2), strict=True)
            ]
        )
        self.projection = nn.Linear(8 * width, config.hidden_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(batch, frames, channels, height, width)` -> `(batch, frames, dim)`.

        Raises:
            ValueError: other axes or channels.
        """
        channels = self.conv.in_channels
        if pixel_values.dim() != 5 or pixel_values.shape[2] != channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}: pass (batch, frames, {channels}, height, width)."
            )
        planes = pixel_values.to(self.conv.weight.dtype).transpose(1, 2)
        planes = self.pool(self.activation(self.norm(self.conv(planes))))  # (batch, width, frames, height, width)
        batch, _, frames = planes.shape[:3]
        planes = planes.transpose(1, 2).flatten(0, 1)
        for stage in self.stages:
            planes = stage(planes)
        return self.projection(planes.mean((2, 3)).view(batch, frames, -1))
