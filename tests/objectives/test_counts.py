"""What each operation costs, exactly: the currency in which optimizers are compared."""

from dataclasses import astuple

import pytest
import torch
from problems import LOSSES, make, randn

from newton_krylov.objectives.base import Counts


@pytest.fixture(params=LOSSES, ids=str)
def f(request):
    return make(request.param)


@pytest.fixture
def w(f):
    return randn(f.dim, seed=1)


def cost(f, operation):
    """(function, gradient, hvp, hessian, passes) of one operation."""
    before = astuple(f.counts)[:5]
    operation()
    return tuple(b - a for a, b in zip(before, astuple(f.counts)[:5], strict=True))


def test_a_point_costs_nothing_until_asked(f, w):
    assert cost(f, lambda: f.at(w)) == (0, 0, 0, 0, 0)


def test_value_and_gradient_together_are_one_pass(f, w):
    point = f.at(w)
    assert cost(f, lambda: point.value) == (1, 0, 0, 0, 0.5)
    assert cost(f, lambda: point.grad) == (0, 1, 0, 0, 0.5)
    assert cost(f, lambda: (point.value, point.grad, point.grad_norm)) == (0, 0, 0, 0, 0)


def test_a_gradient_alone_is_one_pass(f, w):
    assert cost(f, lambda: f.at(w).grad) == (0, 1, 0, 0, 1)


def test_curvature_costs_one_pass_a_product(f, w):
    point = f.at(w)
    _ = point.value
    H, G = point.hessian(), point.gauss_newton()
    assert cost(f, point.hessian) == (0, 0, 0, 0, 0)
    assert cost(f, lambda: H @ w) == (0, 0, 1, 0, 1)
    assert cost(f, lambda: G @ w) == (0, 0, 1, 0, 1)
    assert cost(f, lambda: H @ randn(f.dim, 3, seed=2)) == (0, 0, 3, 0, 3)
    assert cost(f, H.dense) == (0, 0, 0, 1, 1)
    assert cost(f, H.diagonal) == (0, 0, 0, 0, 0.5)


def test_a_line_search_is_half_a_pass_however_many_trials(f, w):
    point = f.at(w)
    _ = point.value, point.grad
    rays = []
    assert cost(f, lambda: rays.append(point.ray(w))) == (0, 0, 0, 0, 0.5)
    ray = rays[0]
    trials = [1.0, 0.5, 0.25, 0.125]
    assert cost(f, lambda: [ray.value(a) for a in trials]) == (4, 0, 0, 0, 0)
    assert cost(f, lambda: [ray.derivative(a) for a in trials]) == (0, 0, 0, 0, 0)
    end = ray.point(0.125)
    assert cost(f, lambda: end.grad)[1:] == (1, 0, 0, 0.5)


def test_a_subset_counts_its_share(f, w):
    point = f.at(w)
    _ = point.Z
    quarter = torch.arange(15)
    part = f.subset(quarter)
    assert cost(f, lambda: part.at(w).value) == (0.25, 0, 0, 0, 0.125)
    assert cost(f, lambda: part.at(w).grad) == (0, 0.25, 0, 0, 0.25)
    # The whole's outputs are known, and the part's are among them.
    assert cost(f, lambda: point.subset(quarter).value) == (0.25, 0, 0, 0, 0)
    H = point.subset(quarter).hessian()
    assert cost(f, lambda: H @ w) == (0, 0, 0.25, 0, 0.25)
    assert cost(f, H.dense) == (0, 0, 0, 0.25, 0.25)
    assert cost(f, H.diagonal) == (0, 0, 0, 0, 0.125)
    nested = part.subset(torch.arange(6))
    assert cost(f, lambda: nested.at(w).value) == pytest.approx((0.1, 0, 0, 0, 0.05))
    assert part.counts is f.counts


def test_metrics_count_nothing(f, w):
    def measure():
        with f.counts.paused():
            _ = f.at(w).value, f.at(w).grad, f.at(w).hessian() @ w

    assert cost(f, measure) == (0, 0, 0, 0, 0)
    assert cost(f, lambda: f.at(w).value)[0] == 1


def test_pausing_nests_and_survives_an_exception():
    counts = Counts()
    with pytest.raises(RuntimeError), counts.paused():
        with counts.paused():
            counts.add(hvp=1)
        counts.add(hvp=1)
        raise RuntimeError
    counts.add(hvp=1)
    assert counts.hvp == 1
