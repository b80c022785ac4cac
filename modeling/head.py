"""The head of data2vec 1, between the student's last state and its prediction."""

from torch import nn


def regression_head(dim: int, num_layers: int) -> nn.Sequential:
    """`num_layers` linear layers with GELU in between, the inner ones 2 * dim wide; 0 layers predict with the state itself.

    Speech and vision use 1, text 2 (arXiv 2202.03555, sections 4.1-4.3).
    """
    widths = [dim] + [2 * dim] * (num_layers - 1) + [dim]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.GELU()]
    return nn.Sequential(*layers[:-1])
