"""Speech: convolutional front end and convolutional positions of data2vec 2.0 (arXiv 2212.07525, section 4.2)."""

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .conv import FrameConv, TokenConv
from .initialization import DefaultLinear, HeLinear
from .recompute import recompute_norm
from .tokens import Tokens


Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True)
class ConvFrames:
    """Frames that a stack of unpadded convolutions makes of so many samples, an int or a long tensor.

    0 or less where there are too few samples for one.
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, samples: Count) -> Count:
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def samples_for(self, frames: int) -> int:
        """The fewest samples that make so many frames."""
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            frames = (frames - 1) * stride + kernel
        return frames


class AudioEmbeddings(nn.Module):
    """Samples -> frames: convolutions, each with layer norm and GELU, then layer norm and a projection.

    Frames stay channels-last from end to end, so that neither convolution nor norm needs a transpose. The first
    convolution reads one channel, which makes it a matrix product of windows of samples.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.num_frames = ConvFrames(tuple(config.conv_kernel), tuple(config.conv_stride))
        dims, kernels, strides = config.conv_dim, self.num_frames.kernels, self.num_frames.strides
        self.first_conv = HeLinear(kernels[0], dims[0], bias=False)
        self.convs = nn.ModuleList(
            [FrameConv(dims[i - 1], dims[i], kernels[i], strides[i]) for i in range(1, len(dims))]
        )
        self.conv_norms = nn.ModuleList([nn.LayerNorm(dim) for dim in dims])
        self.layer_norm = nn.LayerNorm(dims[-1])
        self.projection = DefaultLinear(dims[-1], config.hidden_size)

    def forward(self, input_values: Tensor) -> Tokens:
        """`(batch, samples)` -> `(batch, time, dim)` on a grid (time,).

        Raises:
            ValueError: not two axes, or too few samples for one frame.
        """
        if input_values.dim() != 2 or self.num_frames(input_values.shape[1]) < 1:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}: pass (batch, samples) with enough samples for "
                "one frame of the convolutions."
            )
        kernel, stride = self.num_frames.kernels[0], self.num_frames.strides[0]
        # copied here, not in the product: an exported graph would guess how from strides, which a batch of one lacks
        windows = input_values.to(self.first_conv.weight.dtype).unfold(1, kernel, stride).contiguous()
        frames = recompute_norm(F.gelu, self.conv_norms[0], self.first_conv(windows))  # (batch, frames, conv dim)
        for conv, norm in zip(self.convs, self.conv_norms[1:], strict=True):
            frames = recompute_norm(F.gelu, norm, conv(frames))
        return Tokens(self.projection(self.layer_norm(frames)), (frames.shape[1],))


class ConvolutionalPositions(nn.Module):
    """Positions as stacked convolutions read them off the frames; they are added to the frames."""

    depends_on_tokens = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        dim = config.hidden_size
        self.layers = nn.ModuleList(
            [
                TokenConv(dim, dim, config.conv_pos_kernel_size, config.num_conv_pos_embedding_groups, axes=1)
                for _ in range(config.num_conv_pos_embeddings)
            ]
        )
        # the original convolves over padding; ours keeps it zero, or it would leak into the last real frames
        self.padding_is_real = config.objective["original_padding"]

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens, zero where hidden -> `(rows, time, dim)`."""
        values = tokens.values
        for layer in self.layers:
            if tokens.real is not None and not self.padding_is_real:
                values = values.masked_fill(~tokens.real.unsqueeze(-1), 0)
            values = layer(values, tokens.grid)
        return values
