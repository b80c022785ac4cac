"""Linear-softmax pooling against its formula, and a batch norm that ends in a classifier's weights."""

import numpy as np
import pytest
import torch
from torch import nn

from data2vec.finetune.audio.heads import NormedClassifier, linear_softmax_logits


DIM, LABELS = 5, 3


def by_loop(logits, lengths):
    """sum p^2 / sum p over the real frames of every clip and label, in float64: (batch, labels)."""
    batch, _, labels = logits.shape
    pooled = np.zeros((batch, labels))
    for row in range(batch):
        for label in range(labels):
            p = [1 / (1 + np.exp(-logits[row, frame, label])) for frame in range(lengths[row])]
            pooled[row, label] = sum(x * x for x in p) / sum(p)
    return pooled


def test_it_is_the_formula_over_real_frames():
    logits = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)) * 3
    lengths = [7, 2, 5]
    real = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
    expected = by_loop(logits.double().numpy(), lengths)
    np.testing.assert_allclose(linear_softmax_logits(logits, real).sigmoid().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(
        linear_softmax_logits(logits).sigmoid(), by_loop(logits.double().numpy(), [7] * 3), rtol=1e-5
    )


def test_what_is_in_padding_changes_nothing():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    real = torch.arange(5) < torch.tensor([[5], [2]])
    other = torch.where(real.unsqueeze(-1), logits, 37.0)
    torch.testing.assert_close(linear_softmax_logits(logits, real), linear_softmax_logits(other, real), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [-80.0, 0.0, 80.0])
def test_extreme_frames_have_a_finite_loss_and_gradient(dtype, value):
    logits = torch.full((2, 3, 1), value, dtype=dtype, requires_grad=True)
    real = torch.tensor([[True, True, True], [True, False, False]])
    pooled = linear_softmax_logits(logits, real)
    assert pooled.dtype == torch.float32
    # clips of equal frames have their frames' probability
    torch.testing.assert_close(pooled.sigmoid(), torch.full((2, 1), value).sigmoid(), atol=1e-5, rtol=1e-4)
    torch.nn.functional.binary_cross_entropy_with_logits(pooled, torch.ones(2, 1)).backward()
    assert logits.grad.isfinite().all()


def test_one_sure_frame_counts_more_than_in_the_mean():
    p = torch.tensor([0.9, 0.01, 0.01, 0.01]).view(1, 4, 1)
    assert linear_softmax_logits(p.logit()).sigmoid().item() > 0.85 > 3 * p.mean().item()


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
