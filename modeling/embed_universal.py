"""Any input as rows of a value and a position: one projection for all (Perceiver, arXiv 2103.03206, section 3.1)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .embed_audio import ConvFrames
from .embed_image import as_pair
from .embed_points import group_offsets
from .initialization import DefaultLinear, MaskToken
from .ranges import require_indices
from .tokens import Tokens


AXES = 3  # of a position


class RowEmbeddings(nn.Module):
    """Rows of numbers, filled up with zeros, through one projection; the modality's learned code is added."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.projection = DefaultLinear(config.row_size, config.hidden_size)
        self.code = MaskToken(config.hidden_size)
        self.input_numbers = config.row_values

    def project(self, values: Tensor) -> Tensor:
        """`(batch, time, numbers)` -> `(batch, time, dim)`."""
        weight = self.projection.weight[:, : values.shape[-1]]  # what zeros are multiplied with adds nothing
        return F.linear(values.to(weight.dtype), weight, self.projection.bias) + self.code(weight.dtype)


class AudioRows(RowEmbeddings):
    """Chunks of samples."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.num_frames = ConvFrames(tuple(config.conv_kernel), tuple(config.conv_stride))

    def forward(self, input_values: Tensor) -> Tokens:
        """`(batch, samples)` -> `(batch, chunks, dim)` on a grid (chunks,).

        Raises:
            ValueError: other axes, or too few samples for a chunk.
        """
        chunk = self.num_frames.kernels[0]
        if input_values.dim() != 2 or input_values.shape[1] < chunk:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}: pass (batch, samples), {chunk} samples or more."
            )
        rows = input_values.unfold(1, chunk, chunk)  # (batch, chunks, samples)
        return Tokens(self.project(rows), (rows.shape[1],))


class ImageRows(RowEmbeddings):
    """Patches, row by row."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.patch_size, self.channels = as_pair(config.patch_size), config.num_channels

    def forward(self, pixel_values: Tensor) -> Tokens:
        """`(batch, channels, height, width)` -> `(batch, patches, dim)` on a grid (height, width) in patches.

        Raises:
            ValueError: other axes or channels, or a size that is not whole patches.
        """
        shape, (high, wide) = tuple(pixel_values.shape), self.patch_size
        if len(shape) != 4 or shape[1] != self.channels or shape[2] % high or shape[3] % wide or 0 in shape:
            raise ValueError(
                f"pixel_values has shape {shape}: pass (batch, {self.channels}, height, width), where height and "
                f"width are multiples of patch_size = ({high}, {wide})."
            )
        grid = (shape[2] // high, shape[3] // wide)
        rows = F.unfold(pixel_values, self.patch_size, stride=self.patch_size).transpose(1, 2)
        return Tokens(self.project(rows), grid)


class TextRows(RowEmbeddings):
    """Ids as one-hot rows, whose projection is a column of the matrix."""

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tokens:
        """`(batch, tokens)` long, or `(batch, tokens, dim)` float in place of what the projection makes of ids.

        Raises:
            ValueError: other axes, or an id outside the vocabulary.
        """
        if inputs.dim() != (3 if inputs.is_floating_point() else 2):
            raise ValueError(f"The input has shape {tuple(inputs.shape)}: pass (batch, tokens) ids or embeddings.")
        if inputs.is_floating_point():
            return Tokens(inputs, (inputs.shape[1],))
        require_indices("input_ids", inputs, self.input_numbers)
        values = F.embedding(inputs, self.projection.weight.t()) + self.projection.bias
        return Tokens(values + self.code(values.dtype), (inputs.shape[1],))


class PointRows(RowEmbeddings):
    """Offsets of groups of points from their centres."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.groups, self.size, self.radius = config.num_groups, config.group_size, config.group_radius

    def forward(
        self, point_values: Tensor, attention_mask: Tensor | None = None, start: Tensor | None = None
    ) -> Tokens:
        """`(batch, points, 3)`, `(batch, points)` with 1 = real, `(batch,)` long -> tokens with their centres."""
        centers, offsets = group_offsets(
            point_values, self.groups, self.size, self.radius, attention_mask, start
        )  # (batch, groups, size, 3)
        return Tokens(self.project(offsets.flatten(2)), (self.groups,), coordinates=centers)


class FourierPositions(nn.Module):
    """Sines and cosines of where a token is, on three axes, mixed by one matrix.

    A grid's places are its indices over `config.max_positions`, from -1 to 1, the same for any size; tokens with
    coordinates have these. Frequencies rise evenly up to the one at which neighbours have opposite signs.
    """

    depends_on_tokens = False

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.places, self.frequencies = config.max_positions, config.num_frequencies
        self.mixer = DefaultLinear(AXES * (2 * config.num_frequencies + 1), config.hidden_size)

    def forward(self, tokens: Tokens) -> Tensor:
        """`(batch or 1, time, dim)`."""
        where = tokens.coordinates
        if where is None:
            axes = [torch.arange(size, device=tokens.values.device) for size in tokens.grid]
            index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)  # (time, axes)
            where = index.unsqueeze(0) / self.places * 2 - 1
        where = F.pad(where.float(), (0, AXES - where.shape[-1]))  # (batch or 1, time, 3)
        bands = torch.linspace(1, self.places / 2, self.frequencies, device=where.device)
        angles = (where.unsqueeze(-1) * bands * math.pi).flatten(-2)  # (batch or 1, time, 3 * frequencies)
        features = torch.cat((where, angles.sin(), angles.cos()), dim=-1)
        return self.mixer(features.to(self.mixer.weight.dtype))
