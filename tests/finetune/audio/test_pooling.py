"""Linear-softmax pooling, against its formula written as a loop, and where that formula loses its digits."""

import numpy as np
import pytest
import torch

from data2vec.finetune.audio.pooling import linear_softmax_logits


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
