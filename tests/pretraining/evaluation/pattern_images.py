"""Images of three patterns, a batch of images, and a tiny encoder that reads them."""

import torch
from transformers import Data2VecVisionConfig, Data2VecVisionModel


PATTERNS = torch.tensor([[[1.0, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]])  # stripes, stripes, board


def encoder(seed: int = 0) -> Data2VecVisionModel:
    torch.manual_seed(seed)
    config = Data2VecVisionConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=6, patch_size=2,
        num_channels=1, layer_scale_init_value=1.0, initializer_range=0.15, drop_path_rate=0.0,
    )  # fmt: skip
    return Data2VecVisionModel(config)


def patterns(count: int, seed: int, noise: float = 1.0) -> list[dict]:
    """One pattern an image, of either sign: plain to a network, hidden from a linear classifier on pixels."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(count):
        sign = 2 * torch.randint(2, (), generator=generator) - 1
        image = sign * PATTERNS[i % 3].repeat(3, 3)[None] + noise * torch.randn(1, 6, 6, generator=generator)
        examples.append({"pixel_values": image, "labels": i % 3})
    return examples


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }
