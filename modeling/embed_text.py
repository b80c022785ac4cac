"""Text: token embeddings and learned positions of data2vec 2.0 (arXiv 2212.07525, section 4.3)."""

from torch import Tensor, nn
from transformers import PreTrainedConfig


class TextEmbeddings(nn.Module):
    """Token and position embedding and their norm. As in RoBERTa, positions count from `pad_token_id` + 1."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        dim, padding = config.hidden_size, config.pad_token_id
        self.padding = padding
        self.word_embeddings = nn.Embedding(config.vocab_size, dim, padding_idx=padding)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, dim, padding_idx=padding)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """`(batch, tokens)` long -> `(batch, tokens, dim)` and the grid (tokens,).

        Raises:
            ValueError: not two axes, or more tokens than positions.
        """
        most = self.position_embeddings.num_embeddings - self.padding - 1
        if input_ids.dim() != 2 or input_ids.shape[1] > most:
            raise ValueError(
                f"input_ids has shape {tuple(input_ids.shape)}: pass (batch, tokens) with at most {most} tokens, "
                "which is max_position_embeddings - pad_token_id - 1."
            )
        real = input_ids.ne(self.padding)
        positions = real.cumsum(1) * real + self.padding  # (batch, tokens)
        tokens = self.layer_norm(self.word_embeddings(input_ids) + self.position_embeddings(positions))
        return tokens, (tokens.shape[1],)
