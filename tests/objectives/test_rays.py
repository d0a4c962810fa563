"""Rays and points of linear models: the same function, with the outputs carried along."""

import pytest
import torch
from problems import DTYPES, LOSSES, assert_close, make, randn, ulps

from newton_krylov.data.dataset import Split


@pytest.fixture(params=LOSSES, ids=str)
def loss(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["dense", "sparse"])
def f(request, loss, dtype, device):
    return make(loss, sparse=request.param, dtype=dtype, device=device)


ALPHAS = [0.0, 1.0, 0.5, 1.0, -0.3, 4.0, 1e-9, 0.0]


def test_a_ray_is_the_function_at_its_points(f):
    w, p = randn(2, f.dim, seed=1, dtype=f.dtype, device=f.device)
    ray = f.at(w).ray(p)
    assert ray.slope == pytest.approx(float(f.at(w).grad @ p), rel=ulps(f.dtype, 100))
    for alpha in ALPHAS:
        there = f.at(w + alpha * p)
        point = ray.point(alpha)
        assert_close(point.w, there.w, ulps(f.dtype, 1), "w")
        assert_close(point.Z, there.Z, ulps(f.dtype, 50), "Z")
        assert ray.value(alpha) == pytest.approx(there.value, rel=ulps(f.dtype, 50))
        assert ray.derivative(alpha) == pytest.approx(
            float(there.grad @ p), rel=ulps(f.dtype), abs=ulps(f.dtype, 50)
        )
        assert_close(point.grad, there.grad, ulps(f.dtype), "gradient")


def test_the_point_at_zero_is_the_origin_and_the_last_point_is_kept(f):
    w, p = randn(2, f.dim, seed=2, dtype=f.dtype, device=f.device)
    origin = f.at(w)
    ray = origin.ray(p)
    assert ray.point(0.0) is origin
    assert ray.point(0.5) is ray.point(0.5)


def test_a_ray_does_not_change_its_origin(f):
    w, p = randn(2, f.dim, seed=3, dtype=f.dtype, device=f.device)
    origin = f.at(w)
    kept = origin.Z.clone(), w.clone(), p.clone()
    ray = origin.ray(p)
    _ = ray.value(1.0), ray.derivative(2.0), ray.point(3.0).grad
    assert all(map(torch.equal, (origin.Z, origin.w, ray.p), kept))


@pytest.mark.parametrize("steps", [10, 200])
def test_outputs_carried_over_many_steps_stay_those_of_w(f, steps):
    """Each step adds a rounding error of the largest outputs met; a refresh forgets them."""
    point = f.at(torch.zeros(f.dim, dtype=f.dtype, device=f.device))
    X = f.features.X.to_dense().double()
    largest = 0.0
    for k in range(steps):
        p = randn(f.dim, seed=k, dtype=f.dtype, device=f.device)
        point = point.ray(p).point(0.3)
        largest = max(largest, float(point.Z.abs().max()))
    exact = X @ point.w.double().reshape(X.shape[1], -1)
    drift = point.Z.double().reshape(exact.shape) - exact
    assert float(drift.abs().max()) <= ulps(f.dtype, 64) * largest


def test_carried_outputs_are_refreshed_once_a_search_whatever_its_trials():
    """Otherwise every trial of the search that happens to refresh would read the data."""
    f = make("logistic")
    point = f.at(torch.zeros(f.dim, dtype=f.dtype))
    refreshed = 0
    for k in range(200):
        before = f.counts.passes
        ray = point.ray(1e-3 * randn(f.dim, seed=k))
        for trial in range(10):
            point = ray.point(0.9**trial)
            _ = point.value
        cost = f.counts.passes - before
        assert cost in (0.5, 1.0)
        refreshed += cost == 1.0
    # The start's own outputs, then one refresh for every 64 updates: before 64, 128 and 192.
    assert refreshed == 4


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_subset_is_the_objective_of_those_rows(f, loss, share):
    index = torch.randperm(f.n_samples, generator=torch.Generator().manual_seed(4))
    index = index[: int(share * f.n_samples)].to(f.device)
    rows = make(
        loss,
        X=f.features.X.to_dense()[index].cpu().double(),
        y=f.y[index].cpu(),
        dtype=f.dtype,
        device=f.device,
    )
    w, v = randn(2, f.dim, seed=5, dtype=f.dtype, device=f.device)
    whole, expected = f.at(w), rows.at(w)
    for point in (f.subset(index).at(w), whole.subset(index)):
        assert point.value == pytest.approx(expected.value, rel=ulps(f.dtype, 50))
        assert_close(point.grad, expected.grad, ulps(f.dtype))
        assert_close(point.hessian() @ v, expected.hessian() @ v, ulps(f.dtype))
        assert_close(point.hessian().dense(), expected.hessian().dense(), ulps(f.dtype))
        assert_close(point.gauss_newton() @ v, expected.gauss_newton() @ v, ulps(f.dtype))


def test_subsets_that_partition_the_samples_average_to_the_whole(f):
    w, v = randn(2, f.dim, seed=6, dtype=f.dtype, device=f.device)
    order = torch.randperm(f.n_samples, generator=torch.Generator().manual_seed(7)).to(f.device)
    parts = [f.at(w).subset(block) for block in order.chunk(4)]
    assert sum(p.value for p in parts) / 4 == pytest.approx(f.at(w).value, rel=ulps(f.dtype, 50))
    assert_close(sum(p.grad for p in parts) / 4, f.at(w).grad, ulps(f.dtype))
    mean = sum(p.hessian() @ v for p in parts) / 4
    assert_close(mean, f.at(w).hessian() @ v, ulps(f.dtype))


def test_a_subset_takes_repeated_samples_and_subsets_of_subsets():
    f = make("logistic")
    w = randn(f.dim, seed=8)
    once, twice = torch.tensor([3, 5]), torch.tensor([3, 3, 5, 5])
    assert f.subset(twice).at(w).value == pytest.approx(f.subset(once).at(w).value, rel=1e-14)
    nested = f.subset(torch.arange(10, 20)).subset(torch.tensor([2, 4]))
    assert_close(nested.at(w).grad, f.subset(torch.tensor([12, 14])).at(w).grad, 1e-13)


def test_another_regularizer_is_the_same_data_and_the_same_counts(loss):
    f = make(loss, l2=0.5)
    g = f.with_l2(0.0)
    w = randn(f.dim, seed=9)
    assert f.at(w).value - g.at(w).value == pytest.approx(0.25 * float(w @ w), rel=1e-12)
    assert_close(f.at(w).grad - g.at(w).grad, 0.5 * w, 1e-12)
    assert f.convexity == (0.5 if loss.convex else None)
    assert g.convexity == (0.0 if loss.convex else None)
    assert f.l2 == 0.5 and g.counts is f.counts


def test_data_loss_is_the_value_on_a_split_without_the_regularizer(loss):
    f, other = make(loss, l2=0.5), make(loss, l2=0.0, n=33, seed=77)
    w = randn(f.dim, seed=10)
    split = Split(other.features.X, other.y)
    assert f.data_loss(w, split) == pytest.approx(other.at(w).value, rel=1e-13)
    assert f.n_samples == 60 and f.at(w).value == make(loss, l2=0.5).at(w).value
