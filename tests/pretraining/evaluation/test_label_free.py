"""Measures without labels, against scipy and naive loops; and of a model of every method."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from data2vec.pretraining.arguments import resolve
from data2vec.pretraining.evaluation import label_free
from data2vec.pretraining.run import build_model, open_data
from tests.pretraining.tiny_runs import MODELS, recipe, write_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def entropy_rank(values: np.ndarray) -> float:
    return float(np.exp(scipy.stats.entropy(values)))


def test_rankme_is_the_entropy_of_the_singular_values_of_features_as_they_are():
    features = normal(31, 7) @ normal(7, 7) + 20  # not centred, they are nearly of rank 1
    singular = np.sqrt(np.linalg.eigvalsh(features.astype(np.float64).T @ features))
    assert label_free.rankme(features) == pytest.approx(entropy_rank(singular), rel=1e-4)
    assert label_free.rankme(features) < label_free.rankme(features - features.mean(0))


def test_ranks_of_known_features():
    assert label_free.rankme(np.tile(np.eye(5), (3, 1))) == pytest.approx(5, rel=1e-4)
    assert label_free.rankme(np.ones((11, 5))) == pytest.approx(1, rel=1e-4)
    assert np.isnan(label_free.rankme(np.zeros((11, 5))))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_the_exponent_of_a_power_law_is_found(exponent):
    axes = np.linalg.qr(normal(53, 13) - normal(53, 13).mean(0))[0]  # orthonormal columns of mean 0
    deviations = np.arange(1, 12) ** (-exponent / 2)
    features = axes[:, :11] * deviations @ np.linalg.qr(normal(13, 13))[0][:11] + 3  # in 2 of 13 directions nothing
    assert label_free.spectrum_exponent(features) == pytest.approx(exponent, abs=1e-6)
    assert label_free.alpha_req(features) == pytest.approx(abs(exponent - 1), abs=1e-6)


def test_the_exponent_is_the_slope_of_a_line_through_all_eigenvalues():
    features = normal(59, 7) @ normal(7, 7)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(features.T.astype(np.float64))))[::-1]
    line = scipy.stats.linregress(np.log(np.arange(1, 8)), np.log(eigenvalues))
    assert label_free.spectrum_exponent(features) == pytest.approx(-line.slope, rel=1e-6)
    assert np.isnan(label_free.alpha_req(np.outer(np.arange(5.0), np.ones(3)))), "one direction is no law"


def test_lidar_is_the_rank_of_the_generalised_eigenvalues():
    views = normal(23, 1, 7) @ normal(7, 7) + 0.3 * normal(23, 5, 7) @ normal(7, 7)  # (samples, views, dim)
    views = views.astype(np.float64)
    between, within = np.zeros((7, 7)), 1e-4 * np.eye(7)
    mean = views.mean((0, 1))
    for sample in views:
        between += np.outer(sample.mean(0) - mean, sample.mean(0) - mean) / 23
        for view in sample:
            within += np.outer(view - sample.mean(0), view - sample.mean(0)) / (23 * 5)
    eigenvalues = scipy.linalg.eigh(between, within, eigvals_only=True)
    assert label_free.lidar(views) == pytest.approx(entropy_rank(eigenvalues), rel=1e-4)


def test_lidar_does_not_count_directions_that_differ_between_views():
    samples, noise = normal(101, 1, 5), normal(101, 11, 5)
    told_apart = np.repeat(samples * np.array([1, 1, 0, 0, 0]), 11, axis=1) + 1e-2 * noise
    rank, noisy = label_free.lidar(told_apart), label_free.lidar(told_apart + noise * np.array([0, 10, 0, 0, 0]))
    assert rank == pytest.approx(2, abs=0.1) and noisy == pytest.approx(1, abs=0.1)
    assert np.isnan(label_free.lidar(np.zeros((3, 2, 5))))


@pytest.mark.parametrize("drops_hidden", [True, False])
def test_a_view_is_the_mean_of_what_was_read(drops_hidden):
    samples, views, time, extra, dim = 3, 2, 7, 2, 5
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(samples, views, time, generator=generator) < 0.4
    real = torch.arange(time) < torch.tensor([7, 4, 6]).unsqueeze(1)  # (samples, time)
    visible = (~masked & real.unsqueeze(1)).flatten(0, 1)  # (rows, time)
    kept = int(visible.sum(1).max()) if drops_hidden else time
    states = torch.randn(samples * views, extra + kept, dim, generator=generator)
    output = SimpleNamespace(masked=masked, real=real, last_hidden_state=states)
    found = label_free.pooled_view(output, drops_hidden=drops_hidden)
    for row in range(samples * views):
        read = states[row, extra : extra + visible[row].sum()]
        if not drops_hidden:
            read = states[row, extra:][real[row // views]]
        torch.testing.assert_close(found[row], read.mean(0))


@pytest.mark.parametrize("system", MODELS)
def test_every_method_is_measured_and_training_is_not_disturbed(system, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(label_free, "CLASSES", 7)
    monkeypatch.setattr(label_free, "EXAMPLES", 13)
    run = resolve(recipe(system, sources, tmp_path / "run"))
    torch.manual_seed(0)
    model, data = build_model(run)[0].train(), open_data(run)
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    found = label_free.label_free_measures(model, data)
    assert found.keys() == label_free.DIRECTIONS.keys()
    assert np.isfinite(list(found.values())).all()
    assert 1 <= found["lidar"] <= 7 and 1 <= found["rankme_student"] <= 13
    assert found == label_free.label_free_measures(model, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes


def test_views_are_those_of_single_forward_passes(sources, tmp_path):
    """Each of a batch alone: no padding, and the masks of its own example, epoch and view."""
    run = resolve(recipe("audio-1", sources, tmp_path / "run"))
    torch.manual_seed(0)
    model, dataset = build_model(run)[0].eval(), open_data(run).train_dataset
    examples = [dataset[i] for i in range(3)]
    found = label_free.masked_views(model, dataset, examples)
    assert found.shape == (3, 8, 16) and len({view.tobytes() for view in found[0]}) > 3
    collate = dataset.modality.collator(model.objective, seed=0)
    with torch.no_grad():
        alone = model(**collate([{**examples[2], "epoch": 5}])).last_hidden_state.mean(1)
    np.testing.assert_allclose(found[2, 5], alone[0], rtol=1e-3, atol=1e-5)


def test_held_out_examples_are_measured_where_there_are_some(sources, tmp_path):
    asked = recipe("vision-1", sources, tmp_path / "run")
    asked["data"]["eval_sources"] = [{"path": "builtin:digits", "split": "test"}]
    run = resolve(asked)
    torch.manual_seed(0)
    model, data = build_model(run)[0], open_data(run)
    images = torch.stack([data.eval_dataset[i]["pixel_values"] for i in range(len(data.eval_dataset))])
    with torch.no_grad():
        features = model.base_model.eval()(pixel_values=images).last_hidden_state[:, 1:].mean(1).numpy()
    assert label_free.label_free_measures(model, data)["rankme_student"] == pytest.approx(
        entropy_rank(np.linalg.svd(features, compute_uv=False)), rel=1e-3
    )
