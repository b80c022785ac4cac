"""Health numbers against numpy, and their sums over ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data2vec.pretraining.monitoring.metrics import HealthMeter, Moments, position_moments, position_spread


ROWS, DIM = 101, 7


def rows(seed: int = 0) -> torch.Tensor:
    return 5 + torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed)) * torch.arange(1, DIM + 1)


def test_spread_and_effective_rank():
    x = rows()
    moments = Moments.of(x, products=True)
    assert moments.spread().item() == pytest.approx(np.sqrt(x.numpy().var(0, ddof=1) + 1e-6).mean(), rel=1e-5)
    singular = np.linalg.svd(x.double().numpy() - x.double().numpy().mean(0), compute_uv=False)
    share = singular / singular.sum()
    assert moments.effective_rank().item() == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_effective_rank_of_a_line_and_of_a_ball():
    line = torch.randn(ROWS, 1) * torch.ones(DIM)
    assert Moments.of(line, products=True).effective_rank().item() == pytest.approx(1, abs=0.01)
    ball = torch.randn(5003, DIM, generator=torch.Generator().manual_seed(0))
    assert Moments.of(ball, products=True).effective_rank().item() == pytest.approx(DIM, rel=0.01)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_effective_rank_of_a_batch_that_is_not_finite(value):
    x = rows()
    x[3, 2] = value
    assert Moments.of(x, products=True).effective_rank().isnan()


def test_spread_across_samples_at_a_position():
    batch, time = 5, 3
    x = torch.randn(batch, time, DIM, generator=torch.Generator().manual_seed(0))
    real = torch.ones(batch, time, dtype=torch.bool)
    real[1:, 2] = False  # one sample only: has no spread
    real[3:, 1] = False
    expected = np.mean([
        np.sqrt(x[:, 0].numpy().var(0, ddof=1) + 1e-6).mean(),
        np.sqrt(x[:3, 1].numpy().var(0, ddof=1) + 1e-6).mean(),
    ])  # fmt: skip
    assert position_spread(position_moments(x, real)).item() == pytest.approx(expected, rel=1e-5)
    assert position_spread(position_moments(x[:1], None)).isnan()


def output(seed: int, batch: int, time: int) -> SimpleNamespace:
    g = torch.Generator().manual_seed(seed)
    masked = torch.rand(batch, time, generator=g) < 0.5
    targets = torch.randn(batch, time, DIM, generator=g)
    return SimpleNamespace(
        all_targets=targets,
        targets=targets[masked],
        predictions=torch.randn(int(masked.sum()), DIM, generator=g),
        masked=masked,
        real=None,
    )


def test_two_ranks_of_other_lengths_add_up_to_one():
    """What a rank sends is sums, so two ranks give what one with both batches gives."""
    first, second = output(1, 5, 11), output(2, 3, 13)
    together = HealthMeter()
    together.update(first)
    together.update(second)
    expected = together.summary(lambda x: x)

    sent = []
    other = HealthMeter()
    other.update(second)
    other.summary(lambda x: sent.append(x) or x)
    arrivals = iter(sent)
    one = HealthMeter()
    one.update(first)
    assert one.summary(lambda x: x + next(arrivals)) == pytest.approx(expected)


def test_masked_fraction_counts_views_and_spares_padding():
    one = output(1, 2, 5)
    views = one.masked.unsqueeze(1).expand(2, 3, 5)
    one.masked, one.real = views, torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
    meter = HealthMeter()
    meter.update(one)
    assert meter.summary(lambda x: x)["masked_fraction"] == pytest.approx(views.sum().item() / (3 * 7))
    assert meter.summary(lambda x: x) == {}
