"""Embeddings of MedCoSS: reports, images and volumes (arXiv 2311.17597), each with its positions and a norm."""

from typing import Any

import torch
from torch import Tensor, nn

from .configuration_medcoss import MedCossPatchConfig, MedCossTextConfig
from .embed_image import normalized_patches
from .initialization import DefaultConv2d, DefaultConv3d
from .ranges import require_indices
from .tokens import Tokens


EPS = 1e-5  # of the norms behind an embedding


class MedCossTextEmbeddings(nn.Module):
    """Token, position and type, and their norm."""

    def __init__(self, config: MedCossTextConfig):
        super().__init__()
        dim = config.hidden_size
        self.input_numbers = config.vocab_size
        self.word_embeddings = nn.Embedding(config.vocab_size, dim)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, dim)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, dim)
        self.layer_norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None, original: Tensor | None = None) -> Tokens:
        """Ids `(batch, tokens)`, or embeddings of them -> `(batch, tokens, dim)` on a grid (tokens,).

        Args:
            inputs: `(batch, tokens)` long, or `(batch, tokens, dim)` float in place of the token embeddings.
            attention_mask: not read: a text begins at the first position.
            original: the ids before any were replaced, which are not read but predicted.

        Raises:
            ValueError: other axes, more tokens than positions, or an id outside the vocabulary.
        """
        embedded = inputs.is_floating_point()
        most = self.position_embeddings.num_embeddings
        if inputs.dim() != (3 if embedded else 2) or inputs.shape[1] > most:
            name, shape = ("inputs_embeds", "(batch, tokens, dim)") if embedded else ("input_ids", "(batch, tokens)")
            raise ValueError(
                f"{name} has shape {tuple(inputs.shape)}: pass {shape} with at most max_position_embeddings = {most} "
                "tokens."
            )
        for ids in (inputs, original):
            if ids is not None and not ids.is_floating_point():
                require_indices("input_ids", ids, self.input_numbers)
        words = inputs if embedded else self.word_embeddings(inputs)
        places = self.position_embeddings.weight[: inputs.shape[1]] + self.token_type_embeddings.weight[0]
        return Tokens(self.layer_norm(words + places), (inputs.shape[1],))

    def input_targets(
        self, inputs: Tensor, attention_mask: Tensor | None = None, original: Tensor | None = None
    ) -> Tensor:
        """The ids that are to be predicted, `(batch, tokens, 1)` long."""
        return (inputs if original is None else original).unsqueeze(-1)


class MedCossPatchEmbeddings(nn.Module):
    """Pixels or voxels -> patches, row by row, with spatial and temporal positions."""

    def __init__(self, config: MedCossPatchConfig):
        super().__init__()
        dim, channels = config.hidden_size, config.num_channels
        self.patch_size, self.positions = config.sizes("patch_size"), config.num_positions
        self.input_numbers = channels * torch.Size(self.patch_size).numel()
        conv: Any = {2: DefaultConv2d, 3: DefaultConv3d}[config.axes]
        self.projection = conv(channels, dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.spatial_embeddings = nn.Embedding(config.num_positions, dim)
        self.temporal_embeddings = nn.Embedding(config.num_temporal_positions, dim)
        self.layer_norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, values: Tensor, temporal_ids: Tensor | None = None) -> Tokens:
        """`(batch, channels, *size)` -> `(batch, patches, dim)` on a grid of patches.

        Args:
            temporal_ids: `(batch,)` long, the temporal position of each sample; 0 if `None`.

        Raises:
            ValueError: other axes or channels, a size that is not whole patches, or more patches than positions.
        """
        shape, channels, patch = tuple(values.shape), self.projection.in_channels, self.patch_size
        axes = ("depth, height, width" if len(patch) == 3 else "height, width", ", ".join(map(str, patch)))
        whole = len(shape) == 2 + len(patch) and all(
            size and size % by == 0 for size, by in zip(shape[2:], patch, strict=True)
        )
        if not whole or shape[1] != channels:
            raise ValueError(
                f"The input has shape {shape}: pass (batch, {channels}, {axes[0]}), each a multiple of patch_size = "
                f"({axes[1]})."
            )
        planes = self.projection(values.to(self.layer_norm.weight.dtype))  # (batch, dim, *grid)
        patches, grid = planes.flatten(2).transpose(1, 2), tuple(planes.shape[2:])
        if patches.shape[1] > self.positions:
            raise ValueError(f"The input has {patches.shape[1]} patches: at most num_positions = {self.positions}.")
        places = self.spatial_embeddings.weight[: patches.shape[1]]
        if temporal_ids is None:
            when = self.temporal_embeddings.weight[0]
        else:
            when = self.temporal_embeddings(temporal_ids).unsqueeze(1)  # (batch, 1, dim)
        return Tokens(self.layer_norm(patches + (places + when)), grid)

    def input_targets(self, values: Tensor, temporal_ids: Tensor | None = None) -> Tensor:
        """What each token is made of, see [`embed_image.normalized_patches`]."""
        return normalized_patches(values, self.patch_size)
