"""A batch norm that is part of the classifier's weights in the end."""

import numpy as np
import pytest
import torch
from torch import nn

from data2vec.finetune.audio.folded_norm import NormedClassifier


DIM, LABELS = 5, 3


def batches(sizes, seed=0):
    """Pooled frames as encoders give them: what they have in common is large, what tells them apart is small."""
    rng = np.random.default_rng(seed)
    common = 3 * rng.normal(size=DIM)
    return [common + 0.05 * rng.normal(size=(size, DIM)) for size in sizes]


def trained(sizes):
    torch.manual_seed(0)
    model = NormedClassifier(nn.Linear(DIM, LABELS))
    given = batches(sizes)
    for batch in given:
        model(torch.tensor(batch, dtype=torch.float32))
    return model.eval(), given


def test_in_training_every_batch_is_standardised():
    torch.manual_seed(0)
    model = NormedClassifier(nn.Linear(DIM, LABELS))
    (batch,) = batches([11])
    weight, bias = (p.detach().double().numpy() for p in model.linear.parameters())
    expected = (batch - batch.mean(0)) / np.sqrt(batch.var(0) + model.norm.eps) @ weight.T + bias
    np.testing.assert_allclose(model(torch.tensor(batch, dtype=torch.float32)).detach(), expected, atol=2e-4)


def test_one_linear_layer_with_the_statistics_of_training_is_left():
    model, given = trained([7, 11])  # two batches: the plain mean of theirs
    mean = np.mean([batch.mean(0) for batch in given], axis=0)
    variance = np.mean([batch.var(0, ddof=1) for batch in given], axis=0)
    weight, bias = (p.detach().double().numpy() for p in model.linear.parameters())
    (new,) = batches([13], seed=1)
    expected = (new - mean) / np.sqrt(variance + model.norm.eps) @ weight.T + bias
    folded = model.folded()
    assert type(folded) is nn.Linear
    inputs = torch.tensor(new, dtype=torch.float32)
    np.testing.assert_allclose(folded(inputs).detach(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(folded(inputs), model(inputs), rtol=1e-4, atol=1e-3)


def test_a_short_run_forgets_what_the_statistics_began_with():
    model, given = trained([8] * 5)
    spread = np.mean([batch.var(0, ddof=1) for batch in given], axis=0)
    np.testing.assert_allclose(model.norm.running_var, spread, rtol=1e-3)  # not 1, which is 400 times as much


def test_a_batch_of_one_is_normalised_as_in_evaluation():
    model, given = trained([9])
    one = torch.tensor(given[0][:1], dtype=torch.float32)
    expected, statistics = model(one), model.norm.running_mean.clone()
    torch.testing.assert_close(model.train()(one), expected)
    assert torch.equal(model.norm.running_mean, statistics)


@pytest.mark.parametrize("sizes", [[1], [1, 1]])
def test_batches_of_one_alone_leave_a_linear_layer_too(sizes):
    model, _ = trained(sizes)
    inputs = torch.tensor(batches([4])[0], dtype=torch.float32)
    torch.testing.assert_close(model.folded()(inputs), model.linear(inputs), rtol=1e-4, atol=1e-3)
