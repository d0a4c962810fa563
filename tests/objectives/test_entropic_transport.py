"""The dual of entropic transport: derivatives, gauge, scaling, overflow, duality, peers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES, assert_close, make_dataset, randn, ulps
from transport_problems import draw, dual, optimum, zeros

from newton_krylov.data.transport import transport
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.objectives.entropic_transport import EntropicTransport
from newton_krylov.objectives.logistic import Logistic
from newton_krylov.optimizers.line_search import armijo

ETA = 30.0


def textbook(eta: float, seed: int = 0):
    """Return w -> f(w) as the paper writes its negative, for autograd."""
    C, r, c = (torch.from_numpy(part) for part in draw(seed=seed))

    def value(w):
        x, y = w[: len(r)], w[len(r) :]
        P = torch.exp(eta * (x[:, None] + y[None, :] - C) - 1)
        return P.sum() / eta - r @ x - c @ y

    return value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_gradient_and_hessian_are_those_of_the_formula(dtype, device):
    f = dual(eta=ETA, dtype=dtype, device=device)
    w = 0.1 * randn(f.dim, seed=1)
    point = f.at(w.to(device, dtype))
    plain = textbook(ETA)
    tolerance = ulps(dtype)
    assert_close(point.value, plain(w), tolerance, "value")
    assert_close(point.grad, torch.func.grad(plain)(w), tolerance, "gradient")
    expected = torch.func.hessian(plain)(w)
    H = point.hessian()
    assert_close(H.dense(), expected, tolerance, "dense")
    assert_close(H.diagonal(), expected.diagonal(), tolerance, "diagonal")
    V = randn(f.dim, 3, seed=2)
    assert_close(H @ V.to(device, dtype), expected @ V, tolerance, "matmat")
    assert_close(H @ V[:, 0].to(device, dtype), expected @ V[:, 0], tolerance, "matvec")


def test_the_largest_entries_are_the_largest_above_the_diagonal():
    f = dual()
    H = f.at(zeros(f)).hessian()
    rows, columns, values = H.largest_off_diagonal(11)
    above = H.dense().triu(1)
    assert torch.equal(above[rows, columns], values)
    assert_close(values.sort().values, above.flatten().sort().values[-11:], 1e-15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-2, 2))
def test_the_gauge_changes_nothing(seed, t):
    f = dual(seed=seed % 7)
    w = 0.2 * randn(f.dim, seed=seed)
    null = torch.cat([torch.ones(9), -torch.ones(7)]).double()
    here, there = f.at(w), f.at(w + t * null)
    assert abs(there.value - here.value) <= f.rounding(here.value) + 1e-12 * abs(here.value)
    assert_close(there.grad, here.grad, 1e-11)
    assert abs(here.grad @ null) <= 1e-13 * here.grad.abs().sum()
    H = here.hessian()
    assert (H @ null).norm() <= 1e-13 * H.diagonal().norm()
    assert torch.linalg.eigvalsh(H.dense())[0] >= -1e-13 * H.diagonal().max()


def test_the_unit_of_the_cost_does_not_matter():
    f, g = dual(), dual(scale=50.0)
    w = 0.1 * randn(f.dim, seed=3)
    assert_close(g.at(50 * w).value, 50 * f.at(w).value, 1e-13)
    assert_close(g.at(50 * w).grad, f.at(w).grad, 1e-12)


def test_overflow_is_an_infinite_value_and_a_line_search_comes_back_from_it():
    f = dual(eta=1200.0)
    far = f.at(torch.full((f.dim,), 10.0).double())
    assert far.value == math.inf
    assert f.suboptimality_bound(far) == math.inf
    start = f.at(zeros(f))
    found = armijo(start.ray(-1000 * start.grad))
    assert found.accepted
    assert found.point.value < start.value


def test_a_value_costs_one_pass_with_its_gradient_and_a_hessian_product_another():
    f = dual()
    point = f.at(zeros(f))
    _ = point.value, point.grad, point.value
    assert (f.counts.function, f.counts.gradient, f.counts.passes) == (1, 1, 1)
    H = point.hessian()
    assert f.counts.passes == 1
    _ = H @ zeros(f), H @ randn(f.dim, 3, seed=0)
    assert (f.counts.hvp, f.counts.passes) == (4, 5)
    ray = point.ray(-point.grad)
    _ = ray.value(0.5), ray.point(0.5).grad
    assert f.counts.passes == 6


def test_the_rounding_covers_the_noise_of_the_value():
    f = EntropicTransport(transport(n=200))
    w = optimum(f)
    noise = [abs(f.at(w + t).value - f.at(w).value) for t in 1e-16 * randn(20, f.dim, seed=1)]
    assert 0 < max(noise) <= f.rounding(f.at(w).value) < 1e-14


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-7, 0.3))
def test_the_bound_covers_the_suboptimality_and_is_tight_near_the_optimum(seed, distance):
    f = dual(seed=seed % 5)
    w = optimum(f)
    point = f.at(w + distance * randn(f.dim, seed=seed))
    gap, bound = point.value - f.at(w).value, f.suboptimality_bound(point)
    noise = 2 * f.rounding(point.value)
    assert gap <= bound + noise
    if distance < 1e-4:
        assert bound <= 1.1 * gap + noise
    assert f.suboptimality_bound(f.at(w)) < 1e-16


def test_strong_duality():
    f = dual()
    cost, r, c = (torch.from_numpy(part) for part in draw())
    point = f.at(optimum(f))
    P = point.plan
    primal = (cost * P).sum() + (P * P.log()).sum() / ETA
    assert_close(-primal, point.value, 1e-12)
    assert_close(P.sum(1), r, 1e-13)
    assert_close(P.sum(0), c, 1e-13)


def test_plan_and_cost_are_those_of_pot_and_approach_the_unregularized_cost():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    cost, r, c = draw(20, 15)
    exact = ot.emd2(r, c, cost)
    costs = []
    for eta in (20.0, 80.0, 320.0):
        f = dual(20, 15, eta=eta)
        P = f.at(optimum(f)).plan.numpy()
        peer = ot.sinkhorn(
            r, c, cost, reg=1 / eta, method="sinkhorn_log", numItermax=10**5, stopThr=1e-14
        )
        assert np.abs(peer - P).max() < 1e-11
        costs.append(float((P * cost).sum()))
        # <C, P> is above the least cost by at most the spread of the entropy over eta.
        assert -1e-12 <= costs[-1] - exact <= math.log(20 * 15) / eta
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] - exact < 1e-4


def test_other_data_and_other_losses_refuse_each_other():
    with pytest.raises(ConfigError, match="needs a transport problem"):
        EntropicTransport(make_dataset("binary"))
    with pytest.raises(ConfigError, match="has a transport problem; choose loss=entropic"):
        Logistic(transport(n=4))
    with pytest.raises(UnsupportedError, match="no samples"):
        dual().subset(torch.tensor([0]))
    with pytest.raises(ValueError, match="shape"):
        dual().at(torch.zeros(3))
