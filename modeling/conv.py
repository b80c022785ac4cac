"""Convolutions over tokens, channels last: `(rows, time, channels)` goes in and comes out, without transposes between.

The norms and activations around them want that layout, and so do the fast kernels. The results are those of the plain
layout, which [`set_channels_last`] brings back.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .initialization import DefaultConv2d, HeConv2d
from .recompute import recompute_norm


def convolve(
    tokens: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """A 1-D convolution, by the fastest of three ways.

    One channel, the samples of a clip, is a matrix product of windows. In fp32 on a CPU so are many channels, unless
    grouped or padded. In half precision, on GPUs, and in groups the kernel for images is faster, which reads a view
    of the tokens as an image of height 1; a compiled or exported graph, for any length, has it too.

    Args:
        tokens: `(rows, time, in)`.
        weight: `(out, in / groups, kernel)`, as `nn.Conv1d` has it.
        bias: `(out,)`.

    Returns:
        `(rows, time', out)`, channels last in memory too.
    """
    kernel = weight.shape[2]
    if tokens.shape[2] == 1 and padding == 0:
        return F.linear(tokens.squeeze(2).unfold(1, kernel, stride), weight.squeeze(1), bias)
    if groups == 1 and padding == 0 and _in_fp32_on_cpu(tokens) and not torch.compiler.is_compiling():
        product = _WindowProduct.apply(tokens, weight.transpose(1, 2).flatten(1), stride)
        return product if bias is None else product + bias
    planes = tokens.unsqueeze(1).permute(0, 3, 1, 2)  # (rows, in, 1, time)
    planes = F.conv2d(planes, weight.unsqueeze(2), bias, (1, stride), (0, padding), 1, groups)
    return planes.permute(0, 2, 3, 1).squeeze(1)


def _in_fp32_on_cpu(tokens: Tensor) -> bool:
    return tokens.device.type == "cpu" and tokens.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


PIECE = 2048  # windows that are made at a time: few enough to stay in a core's cache


class _WindowProduct(torch.autograd.Function):
    """Windows of tokens times a matrix, piece by piece; backward recomputes the windows, which take much memory."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, matrix: Tensor, stride: int) -> Tensor:
        """`(rows, time, in)` and `(out, kernel * in)` -> `(rows, time', out)`."""
        ctx.save_for_backward(tokens, matrix)
        ctx.kernel, ctx.stride = matrix.shape[1] // tokens.shape[2], stride
        product = tokens.new_empty(len(tokens), (tokens.shape[1] - ctx.kernel) // stride + 1, len(matrix))
        for taps, piece in _pieces(tokens, product, ctx.kernel, stride):
            torch.mm(torch.cat(taps, dim=1), matrix.T, out=piece)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        tokens, matrix = ctx.saved_tensors
        of_matrix, of_tokens = torch.zeros_like(matrix), None
        for taps, piece in _pieces(tokens, gradient, ctx.kernel, ctx.stride):
            of_matrix += piece.T @ torch.cat(taps, dim=1)
        if ctx.needs_input_grad[0]:
            of_tokens = torch.zeros_like(tokens)
            for taps, piece in _pieces(of_tokens, gradient, ctx.kernel, ctx.stride):
                for tap, part in zip(taps, (piece @ matrix).chunk(ctx.kernel, dim=1), strict=True):
                    tap += part
        return of_tokens, of_matrix, None


def _pieces(tokens: Tensor, windows: Tensor, kernel: int, stride: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Views of some windows at a time: what each tap reads, every stride-th token, and what stands for them.

    `(rows, time, in)` and `(rows, time', out)` -> `kernel` times `(piece, in)`, and `(piece, out)`.
    """
    for row, of_row in zip(tokens, windows, strict=True):
        for begin in range(0, len(of_row), PIECE):
            piece = of_row[begin : begin + PIECE]
            first, reach = begin * stride, (len(piece) - 1) * stride + 1
            yield [row[first + tap : first + tap + reach : stride] for tap in range(kernel)], piece


class FrameConv(HeConv2d):
    """A convolution of the front end of data2vec 2.0: `(batch, frames, in)` -> `(batch, frames', out)`, no bias."""

    channels_last = True

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int):
        super().__init__(in_dim, out_dim, (1, kernel), stride=(1, stride), bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        weight, stride = self.weight.squeeze(2), self.stride[1]
        if self.channels_last:
            return convolve(frames, weight, stride=stride)
        return F.conv1d(frames.transpose(1, 2), weight, stride=stride).transpose(1, 2)


class TokenConv(nn.Module):
    """Convolution over a grid of tokens that keeps its size, norm without parameters, GELU.

    The one convolutional layer of data2vec 2.0, in its decoders and in the positions of speech. A sequence is a grid
    of height 1.

    Args:
        axes: 1 for sequences, 2 for images.
    """

    channels_last = True

    def __init__(self, in_dim: int, out_dim: int, kernel: int, groups: int, axes: int):
        super().__init__()
        size = (1, kernel) if axes == 1 else (kernel, kernel)
        padding = (size[0] // 2, size[1] // 2)
        self.conv = DefaultConv2d(in_dim, out_dim, size, padding=padding, groups=groups)
        self.norm = nn.LayerNorm(out_dim, elementwise_affine=False)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """`(rows, time, in_dim)` on a `grid` of (time,) or (height, width) -> `(rows, time, out_dim)`."""
        height, width = (1, *grid)[-2:]
        planes = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # (rows, in_dim, height, width), a view
        planes = self.conv(planes if self.channels_last else planes.contiguous())
        planes = planes[:, :, :height, :width]  # an even kernel gives one more at the end
        return recompute_norm(F.gelu, self.norm, planes.permute(0, 2, 3, 1).flatten(1, 2))


class ChannelsLastConv1d(nn.Conv1d):
    """`nn.Conv1d`, `(rows, channels, time)` on both sides, of which a transpose makes tokens without a copy."""

    def forward(self, input: Tensor) -> Tensor:
        tokens = input.transpose(1, 2)  # (rows, time, in)
        stride, padding = self.stride[0], int(self.padding[0])
        return convolve(tokens, self.weight, self.bias, stride, padding, self.groups).transpose(1, 2)


def set_channels_last(module: nn.Module, enabled: bool) -> None:
    """Choose the layout of all convolutions in `module`: ours, and the `nn.Conv1d` of `transformers`' encoders.

    Parameters, their names and results stay: a stock layer is only given another `forward`. One that [`convolve`]
    does not know (dilated, circular, padded by name) keeps its own.
    """
    before, after = (nn.Conv1d, ChannelsLastConv1d) if enabled else (ChannelsLastConv1d, nn.Conv1d)
    for layer in module.modules():
        if isinstance(layer, FrameConv | TokenConv):
            layer.channels_last = enabled
        elif type(layer) is before and _known(layer):
            layer.__class__ = after


def _known(layer: nn.Conv1d) -> bool:
    return layer.dilation == (1,) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
