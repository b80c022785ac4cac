"""Learned positions on a line, such as those of a video's frames."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from .initialization import SelfInitialized
from .tokens import Tokens


class LearnedPositions(SelfInitialized):
    """A vector for each of the first `config.max_position_embeddings` places; N(0, 0.02) at the start.

    Args:
        extra, dim: places in front of them, and the width where it is not the configuration's.
    """

    depends_on_tokens = False

    def __init__(self, config: PreTrainedConfig, extra: int = 0, dim: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(extra + config.max_position_embeddings, dim or config.hidden_size))
        self.initialize()

    def initialize(self) -> None:
        init.trunc_normal_(self.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, tokens: Tokens) -> Tensor:
        """`(1, time, dim)`, the same for all rows.

        Raises:
            ValueError: more tokens than places.
        """
        time, most = tokens.values.shape[1], len(self.weight)
        if time > most:
            raise ValueError(f"The input has {time} tokens: at most max_position_embeddings = {most} can be read.")
        return self.weight[:time].to(tokens.values.dtype).unsqueeze(0)
