"""Theorems about the losses, as properties of random problems."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from problems import CONVEX_LOSSES, LOSSES, make, matrix, randn

seeds = st.integers(0, 2**20)
scales = st.floats(-3, 3).map(lambda e: 10**e)


def within(loss, scale):
    """Return a scale at which the loss is a number: an exponential one overflows far away."""
    return min(scale, 0.3) if loss.exponential else scale


def problem(loss, seed, l2=0.1):
    return make(loss, l2=l2, n=20, d=4, n_classes=3, seed=seed)


@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
@given(seed=seeds, scale=scales, a=st.floats(-2, 2), b=st.floats(-2, 2), t=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_strongly_convex_along_every_ray(loss, seed, scale, a, b, t):
    """phi(ta + (1-t)b) <= t phi(a) + (1-t) phi(b) - mu/2 t(1-t) (a-b)^2 |p|^2."""
    f, scale = problem(loss, seed), within(loss, scale)
    w, p = scale * randn(2, f.dim, seed=seed + 1)
    ray = f.at(w).ray(p)
    chord = t * ray.value(a) + (1 - t) * ray.value(b)
    bend = f.convexity / 2 * t * (1 - t) * (a - b) ** 2 * float(p @ p)
    rounding = 20 * f.rounding(abs(ray.value(a)) + abs(ray.value(b)) + f.at(w).value)
    assert ray.value(t * a + (1 - t) * b) <= chord - bend + rounding


@pytest.mark.parametrize("name", ["logistic", "squared_hinge", "least_squares"])
@given(seed=seeds, scale=scales)
@settings(max_examples=60, deadline=None)
def test_the_gradient_is_lipschitz_with_the_top_eigenvalue_at_zero(name, seed, scale):
    """So 1 / lambda_max(H(0)) is a safe step of gradient descent for these three."""
    f = problem(name, seed)
    u, v = scale * randn(2, f.dim, seed=seed + 1)
    L = float(torch.linalg.eigvalsh(f.at(0 * u).hessian().dense())[-1])
    change = (f.at(u).grad - f.at(v).grad).norm()
    assert float(change) <= L * float((u - v).norm()) * (1 + 1e-10)


@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
@given(seed=seeds, scale=scales)
@settings(max_examples=60, deadline=None)
def test_the_gradient_is_monotone(loss, seed, scale):
    """(grad f(u) - grad f(v))'(u - v) >= mu |u - v|^2."""
    f, scale = problem(loss, seed), within(loss, scale)
    u, v = scale * randn(2, f.dim, seed=seed + 1)
    inner = float((f.at(u).grad - f.at(v).grad) @ (u - v))
    assert inner >= f.convexity * float((u - v) @ (u - v)) * (1 - 1e-10)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@given(seed=seeds, scale=scales, alpha=st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_slopes_are_those_of_central_differences(loss, seed, scale, alpha):
    f, scale = problem(loss, seed), within(loss, scale)
    w, p = scale * randn(2, f.dim, seed=seed + 1)
    ray = f.at(w).ray(p)
    h = 1e-5 / scale
    difference = (ray.value(alpha + h) - ray.value(alpha - h)) / (2 * h)
    rounding = f.rounding(ray.value(alpha)) / h
    curved = 1e-4 * (1 + scale) * f.dim * (1 + scale**2)
    assert abs(ray.derivative(alpha) - difference) <= rounding + 1e-5 * curved


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0])
def test_rounding_bounds_the_error_of_a_value(loss, scale):
    """Line searches rely on it: float32 values against the same function in float64."""
    scale = within(loss, scale)
    for seed in range(20):
        single = make(loss, n=500, d=20, dtype=torch.float32, seed=seed)
        w = scale * randn(single.dim, seed=seed, dtype=torch.float32)
        X = single.features.X.double()
        double = make(loss, X=X, y=single.y.double() if single.y.is_floating_point() else single.y)
        value = single.at(w).value
        assert abs(value - double.at(w.double()).value) <= single.rounding(value)


@pytest.mark.parametrize("distance", [10.0**-k for k in range(9)])
def test_rounding_knows_that_the_residuals_of_a_good_fit_cancel(distance):
    """Near an interpolating w the value is far less accurate than its own last bits."""
    for seed in range(20):
        X, w = matrix(500, 20, seed).float(), randn(20, seed=seed, dtype=torch.float32)
        y = X @ w
        single = make("least_squares", l2=0.0, X=X, y=y, dtype=torch.float32)
        double = make("least_squares", l2=0.0, X=X.double(), y=y.double())
        near = w + distance * randn(20, seed=seed + 1, dtype=torch.float32)
        value = single.at(near).value
        assert abs(value - double.at(near.double()).value) <= single.rounding(value)
