"""The head between the student's (data2vec 1) or the decoder's (2.0) last state and the prediction."""

from torch import nn


def regression_head(
    dim: int, num_layers: int, out_dim: int | None = None, linear: type[nn.Linear] = nn.Linear
) -> nn.Sequential:
    """`num_layers` linear layers with GELU in between, the inner ones 2 * dim wide; 0 predict with the state itself.

    Speech and vision use 1, text 2 (arXiv 2202.03555, sections 4.1-4.3). `out_dim` is `dim` if not given;
    `linear` is the class of the layers.
    """
    widths = [dim] + [2 * dim] * (num_layers - 1) + [dim if out_dim is None else out_dim]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers += [linear(widths[i], widths[i + 1]), nn.GELU()]
    return nn.Sequential(*layers[:-1])
