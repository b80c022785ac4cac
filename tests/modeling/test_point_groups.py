"""Groups of points: against naive loops, scipy, and the original's own tables."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial import cKDTree

from data2vec.modeling.point_groups import (
    farthest_points,
    interpolate,
    nearest_points,
    pick,
    points_within,
    squared_distances,
)
from data2vec.tests.reference import GOLDEN


@pytest.fixture(scope="module")
def table():
    return load_file(GOLDEN / "point2vec_misc" / "misc.safetensors")


def clouds(batch=3, points=53, seed=0):
    return torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(seed))


def naive_farthest(points, count, start, allowed):
    chosen = [start]
    while len(chosen) < count:
        nearest = [min(np.sum((points[i] - points[j]) ** 2) for j in chosen) for i in allowed]
        chosen.append(allowed[int(np.argmax(nearest))])
    return chosen


def padded(real):
    """A mask of (batch, points) of which each cloud has another number of real points, not all at the front."""
    return real[:, None] > torch.stack(
        [torch.randperm(53, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    )


def test_groups_are_the_originals(table):
    points, centers = table["group.points"], table["group.knn.centers"]
    chosen = pick(points, farthest_points(points, 12))
    assert torch.equal(chosen, centers)
    near = pick(points, nearest_points(centers, points, 6)) - centers.unsqueeze(2)
    assert torch.equal(in_order(near), in_order(table["group.knn.groups"]))
    ball = (pick(points, points_within(centers, points, 0.3, 6)) - centers.unsqueeze(2)) / 0.3
    torch.testing.assert_close(ball, table["group.ball.groups"], rtol=1e-6, atol=1e-6)


def in_order(groups):
    """The points of each group in one order, which the largest value over them does not see."""
    return groups.gather(2, groups[..., :1].argsort(2).expand_as(groups))


def test_interpolation_is_the_originals(table):
    found = interpolate(table["group.points"], table["group.knn.centers"], table["interp.features"])
    torch.testing.assert_close(found, table["interp.out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_farthest_points_are_those_of_a_naive_loop(masked):
    points, real = clouds(), padded(torch.tensor([53, 29, 17])) if masked else None
    allowed = [list(range(53)) if real is None else real[i].nonzero().flatten().tolist() for i in range(3)]
    start = torch.tensor([of[5] for of in allowed])
    found = farthest_points(points, 13, start, real)
    for i in range(3):
        assert found[i].tolist() == naive_farthest(points[i].numpy(), 13, int(start[i]), allowed[i])
    first = farthest_points(points, 13, real=real)
    assert first[:, 0].tolist() == [of[0] for of in allowed]


def test_a_cloud_with_fewer_points_than_centres_gives_some_again():
    real = padded(torch.tensor([53, 29, 5]))
    found = farthest_points(clouds(), 13, real=real)[2]
    assert set(found.tolist()) == set(real[2].nonzero().flatten().tolist())


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_nearest_points_and_those_within_are_scipys(masked):
    points, real = clouds(), padded(torch.tensor([53, 29, 17])) if masked else None
    centers = pick(points, farthest_points(points, 11, real=real))
    near, within = nearest_points(centers, points, 7, real), points_within(centers, points, 1.1, 7, real)
    for i in range(3):
        kept = np.arange(53) if real is None else real[i].nonzero().flatten().numpy()
        tree = cKDTree(points[i, kept].double().numpy())
        assert np.array_equal(kept[tree.query(centers[i].double().numpy(), 7)[1]], near[i].numpy())
        for found, expected in zip(
            within[i].tolist(), tree.query_ball_point(centers[i].double().numpy(), 1.1), strict=True
        ):
            expected = kept[sorted(expected)][:7].tolist()
            assert found == expected + [expected[0]] * (7 - len(expected))


def test_a_group_of_too_few_points_repeats_the_nearest():
    points, real = clouds(), padded(torch.tensor([53, 29, 5]))
    centers = pick(points, farthest_points(points, 11, real=real))
    found = nearest_points(centers, points, 7, real)[2]
    assert real[2][found].all()
    assert torch.equal(found[:, 5:], found[:, :1].expand(-1, 2))


def test_padding_changes_no_group():
    points = clouds()
    longer = torch.cat((points, torch.full((3, 19, 3), 7.0)), dim=1)
    real = (torch.arange(72) < 53).expand(3, -1)
    centers = farthest_points(points, 11)
    assert torch.equal(farthest_points(longer, 11, real=real), centers)
    at = pick(points, centers)
    assert torch.equal(nearest_points(at, longer, 7, real), nearest_points(at, points, 7))
    assert torch.equal(points_within(at, longer, 1.1, 7, real), points_within(at, points, 1.1, 7))


def test_distances_of_far_clouds_do_not_cancel():
    points = clouds() + 1000
    torch.testing.assert_close(
        squared_distances(points, points),
        torch.cdist(points.double(), points.double()).square().float(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_interpolation_is_the_inverse_distance_mean_of_three():
    points, centers = clouds().double(), clouds(points=11, seed=1).double()
    features = torch.randn(3, 11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    found = interpolate(points, centers, features)
    for i in range(3):
        distances, index = cKDTree(centers[i].numpy()).query(points[i].numpy(), 3)
        weights = 1 / distances**2
        expected = (features[i].detach().numpy()[index] * weights[..., None]).sum(1) / weights.sum(1)[:, None]
        np.testing.assert_allclose(found[i].detach().numpy(), expected, rtol=1e-9)
    assert torch.autograd.gradcheck(lambda of: interpolate(points[:, :7], centers, of), features)
