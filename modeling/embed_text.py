"""Text: token embeddings and learned positions of data2vec 2.0 (arXiv 2212.07525, section 4.3)."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .ranges import require_indices
from .tokens import Tokens


class TextEmbeddings(nn.Module):
    """Token and position embedding and their norm. As in RoBERTa, positions count from `pad_token_id` + 1."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        dim, padding = config.hidden_size, config.pad_token_id
        self.padding, self.input_numbers = padding, config.vocab_size
        self.word_embeddings = nn.Embedding(config.vocab_size, dim, padding_idx=padding)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, dim, padding_idx=padding)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tokens:
        """Ids or their embeddings -> `(batch, tokens, dim)` on a grid (tokens,).

        Args:
            inputs: `(batch, tokens)` long, or `(batch, tokens, dim)` float in place of the token embeddings.
            attention_mask: `(batch, tokens)`, 1 = real, which embeddings take their positions from: ids say
                themselves what is padding.

        Raises:
            ValueError: other axes, more tokens than positions, or an id outside the vocabulary.
        """
        embedded = inputs.is_floating_point()
        most = self.position_embeddings.num_embeddings - self.padding - 1
        if inputs.dim() != (3 if embedded else 2) or inputs.shape[1] > most:
            name, shape = ("inputs_embeds", "(batch, tokens, dim)") if embedded else ("input_ids", "(batch, tokens)")
            raise ValueError(
                f"{name} has shape {tuple(inputs.shape)}: pass {shape} with at most {most} tokens, which is "
                "max_position_embeddings - pad_token_id - 1."
            )
        if not embedded:
            require_indices("input_ids", inputs, self.word_embeddings.num_embeddings)
            real = inputs.ne(self.padding)
        elif attention_mask is not None:
            real = attention_mask.bool()
        else:
            real = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        positions = real.cumsum(1) * real + self.padding  # (batch, tokens)
        words = inputs if embedded else self.word_embeddings(inputs)
        return Tokens(self.layer_norm(words + self.position_embeddings(positions)), (inputs.shape[1],))

    def input_targets(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The ids that are to be predicted, `(batch, tokens, 1)` long."""
        return inputs.unsqueeze(-1)
