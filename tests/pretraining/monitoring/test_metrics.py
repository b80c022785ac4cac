"""Health numbers against numpy, and their sums over ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data2vec.modeling import Data2Vec2VisionConfig, Data2Vec2VisionForPreTraining
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


def output(seed: int, batch: int, time: int, utterance: bool = True) -> SimpleNamespace:
    g = torch.Generator().manual_seed(seed)
    masked = torch.rand(batch, time, generator=g) < 0.5
    targets = torch.randn(batch, time, DIM, generator=g)
    return SimpleNamespace(
        all_targets=targets,
        targets=targets[masked],
        predictions=torch.randn(int(masked.sum()), DIM, generator=g),
        masked=masked,
        real=None,
        tokens=SimpleNamespace(values=torch.randn(batch, time, DIM, generator=g)),
        cls_targets=targets.mean(1) if utterance else None,
        cls_predictions=torch.randn(batch, DIM, generator=g) if utterance else None,
        loss_terms={"regression": torch.rand((), generator=g)} | ({"utterance": torch.rand(())} if utterance else {}),
    )


def test_what_the_local_encoder_makes_of_the_input():
    """Real positions alone; and one that says the same of every input, which the targets do not show."""
    one = output(1, 5, 11)
    one.real = torch.arange(11) < torch.tensor([[11], [11], [7], [7], [3]])
    meter = HealthMeter()
    meter.update(one)
    found = meter.summary(lambda x: x)
    rows = one.tokens.values[one.real]
    expected = Moments.of(rows, products=True)
    assert found["embedding_std"] == pytest.approx(np.sqrt(rows.numpy().var(0, ddof=1) + 1e-6).mean(), rel=1e-5)
    assert found["embedding_rank"] == pytest.approx(expected.effective_rank().item())
    whole, centred = (np.sqrt((x**2).sum(1).mean()) for x in (rows.numpy(), rows.numpy() - rows.numpy().mean(0)))
    assert found["embedding_share"] == pytest.approx(centred / whole, rel=1e-5)
    columns = [one.tokens.values[one.real[:, i], i].numpy().std(0, ddof=1).mean() for i in range(11)]
    assert found["embedding_position_std"] == pytest.approx(np.mean(columns), rel=1e-4)
    one.tokens.values = one.tokens.values[:1].expand(5, -1, -1)
    meter.update(one)
    alike = meter.summary(lambda x: x)
    assert alike["embedding_position_std"] == pytest.approx(1e-3) and alike["embedding_std"] > 0.5
    assert {**alike, **found} == found | {name: alike[name] for name in alike if not name.startswith("embedding")}


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


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_its_terms_as_logged():
    """Of a model, over two micro-batches of which one has far more positions to score; and the utterance's spread."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 2}
    config = Data2Vec2VisionConfig(**sizes, num_prenet_layers=0)
    config.objective = config.objective | {
        "top_k_layers": 2, "views": 3, "cls_loss_weight": 2.5, "loss_beta": 0.5,
        "masking": {"method": "random", "prob": 0.5}, "decoder": {"dim": 16, "layers": 1, "kernel": 3, "groups": 1},
    }  # fmt: skip
    model, g = Data2Vec2VisionForPreTraining(config), torch.Generator().manual_seed(0)
    meter, loss, scored, utterances = HealthMeter(), 0.0, 0, []
    for batch, share in ((2, 0.3), (5, 0.8)):
        masked = torch.rand(batch, 3, 16, generator=g) < share
        out = model(torch.randn(batch, 3, 8, 8, generator=g), masked)
        loss, scored = loss + out.loss.item() * int(masked.sum()), scored + int(masked.sum())
        utterances.append(out.cls_predictions)
        meter.update(out)
    found = meter.summary(lambda x: x)
    assert found["loss_regression"] + 2.5 * found["loss_utterance"] == pytest.approx(loss / scored, rel=1e-5)
    rows = torch.cat(utterances).numpy()
    assert found["utterance_prediction_std"] == pytest.approx(np.sqrt(rows.var(0, ddof=1) + 1e-6).mean(), rel=1e-5)


def test_a_loss_of_one_term_is_logged_once():
    meter = HealthMeter()
    meter.update(output(1, 5, 11, utterance=False))
    assert not [name for name in meter.summary(lambda x: x) if name.startswith(("loss", "utterance"))]


def test_masked_fraction_counts_views_and_spares_padding():
    one = output(1, 2, 5)
    views = one.masked.unsqueeze(1).expand(2, 3, 5)
    one.masked, one.real = views, torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
    meter = HealthMeter()
    meter.update(one)
    assert meter.summary(lambda x: x)["masked_fraction"] == pytest.approx(views.sum().item() / (3 * 7))
    assert meter.summary(lambda x: x) == {}
