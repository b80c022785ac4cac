"""Which layers an update drops, and the zero gradients of those that it dropped."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data2vec.pretraining.engine.layerdrop import fill_gradients, kept_layers


def test_layers_are_dropped_once_for_a_whole_update():
    """Alike whenever asked; not in every update, and about as often as was said."""
    config = SimpleNamespace(layerdrop=0.3, num_hidden_layers=5, num_prenet_layers=2)
    draws = []
    for step in range(400):
        first, again = kept_layers(config, 7, step), kept_layers(config, 7, step)
        assert first == again and len(first) == 7
        draws.append(first)
    kept = torch.tensor(draws, dtype=torch.float32)
    assert kept.mean().item() == pytest.approx(0.7, abs=0.03) and len({tuple(draw) for draw in draws}) > 20
    assert kept_layers(SimpleNamespace(num_hidden_layers=5), 7, 0) is None


def test_gradients_of_dropped_layers_are_zero_but_a_skipped_step_stays_skipped():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    fill_gradients(optimizer)
    assert all(parameter.grad is None for parameter in model.parameters())
    model[0](torch.ones(1, 3)).sum().backward()
    model[2].requires_grad_(False)  # frozen for a while: no gradient, or its weights would move
    kept = model[0].weight.grad.clone()
    fill_gradients(optimizer)
    assert torch.equal(model[0].weight.grad, kept) and not model[1].weight.grad.any()
    assert model[2].weight.grad is None
