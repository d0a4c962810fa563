"""Gradient descent and Nesterov's method: their step, their rates, their optima."""

import math
from itertools import pairwise

import pytest
import torch
from optimizer_parts import a9a, logistic, make_optimizer, minimize, optimum_of, small
from problems import (
    LIPSCHITZ_LOSSES,
    STEEPEST_AT_ZERO,
    Function,
    assert_close,
    make,
    quadratic,
    randn,
)

from newton_krylov.errors import ConfigError
from newton_krylov.optimizers.gd import largest_curvature
from newton_krylov.runs.runner import Outcome


def generator():
    return torch.Generator().manual_seed(0)


def largest_at_zero(f):
    H = f.at(torch.zeros(f.dim, dtype=f.dtype)).hessian().dense()
    return float(torch.linalg.eigvalsh(H)[-1])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", STEEPEST_AT_ZERO, ids=str)
def test_the_step_is_the_inverse_of_the_largest_eigenvalue_without_a_matrix(loss, sparse):
    f = make(loss, sparse=sparse, condition=30.0)
    before = f.counts.hessian
    found = largest_curvature(f, generator())
    assert f.counts.hessian == before
    assert found == pytest.approx(largest_at_zero(f), rel=1e-12)
    row = minimize(f, make_optimizer("gd"), epochs=1).rows[1]
    assert row.step_size == 1 / found


def test_the_largest_eigenvalue_of_a9a_is_the_known_one():
    assert largest_curvature(logistic(a9a()), generator()) == pytest.approx(1.5819, abs=5e-5)


@pytest.mark.parametrize("name", ["gd", "nesterov"])
@pytest.mark.parametrize("loss", LIPSCHITZ_LOSSES, ids=str)
def test_they_reach_the_certified_optimum_of_any_convex_loss(loss, name):
    f = make(loss, l2=0.05)
    result = minimize(f, make_optimizer(name), randn(f.dim, seed=1), epochs=5000, grad_norm=1e-9)
    assert result.outcome is Outcome.CONVERGED
    newton = minimize(f, "newton", grad_norm=1e-11)
    assert result.rows[-1].loss - newton.rows[-1].loss <= 1e-16 / f.l2


def test_gradient_descent_never_goes_up_and_costs_one_pass_a_step():
    f = logistic(small(condition=30.0))
    start = f.counts.passes
    rows = minimize(f, make_optimizer("gd"), epochs=50, grad_norm=None).rows
    assert all(b.loss <= a.loss for a, b in pairwise(rows))
    lanczos = rows[0].data_passes - start
    assert rows[-1].data_passes == lanczos + 50
    assert (rows[-1].function_count, rows[-1].gradient_count) == (51, 51)


def test_gradient_descent_converges_with_the_factor_of_theory():
    """On a quadratic the error's component of eigenvalue mu shrinks by 1 - mu / L each step."""
    eigenvalues = torch.logspace(0, -2, 12, dtype=torch.float64)
    f = quadratic(eigenvalues)
    rows = minimize(f, make_optimizer("gd"), randn(12, seed=2), epochs=1000, grad_norm=1e-9).rows
    ratios = [b.grad_norm / a.grad_norm for a, b in pairwise(rows)]
    assert ratios[-1] == pytest.approx(1 - 0.01, rel=1e-4)


def test_nesterov_s_momentum_gives_the_square_root_of_the_condition_number():
    """Scheme 2.2.11: f - f* falls by 1 - sqrt(mu / L) a step at least."""
    eigenvalues = torch.logspace(0, -4, 20, dtype=torch.float64)
    f = quadratic(eigenvalues)
    f.convexity = 1e-4
    w0 = randn(20, seed=3)
    options = {"momentum": "strongly_convex", "restart": "none"}
    rows = minimize(f, make_optimizer("nesterov", **options), w0, epochs=2000, grad_norm=1e-8).rows
    best = minimize(f, "newton", w0).rows[-1].loss
    gap, start = rows[-1].loss - best, rows[0].loss - best
    steps = rows[-1].iteration
    distance = 2 * start / 1e-4  # |w0 - w*|^2 at most
    assert gap <= (1 - 1e-2) ** steps * (start + 1e-4 / 2 * distance) + f.rounding(best)
    plain = minimize(f, make_optimizer("gd"), w0, epochs=steps, grad_norm=1e-8).rows[-1]
    assert plain.grad_norm > 1e4 * rows[-1].grad_norm


def test_without_strong_convexity_nesterov_keeps_the_bound_of_1983():
    """f_k - f* <= 2 L |w0 - w*|^2 / (k + 1)^2."""
    f = quadratic(torch.logspace(0, -8, 20, dtype=torch.float64))
    w0 = torch.zeros(20, dtype=torch.float64)
    optimum = minimize(f, make_optimizer(forcing=("fixed", {"eta": 1e-12})), w0, epochs=5)
    distance = float(torch.linalg.vector_norm(optimum.w - w0)) ** 2
    best = f.at(optimum.w).value
    for restart in ("none", "gradient"):
        optimizer = make_optimizer("nesterov", momentum="convex", restart=restart)
        for row in minimize(f, optimizer, w0, epochs=300, grad_norm=None).rows[1:]:
            assert row.loss - best <= 2 * distance / (row.iteration + 1) ** 2 * (1 + 1e-9)


def test_restarts_repair_a_momentum_that_is_too_strong():
    """mu is unknown to the convex sequence, whose momentum grows to 1 and makes waves."""
    f = logistic(small(condition=10.0), l2=0.1)
    steps = {}
    for restart in ("none", "gradient"):
        optimizer = make_optimizer("nesterov", momentum="convex", restart=restart)
        steps[restart] = minimize(f, optimizer, epochs=5000, grad_norm=1e-10).rows[-1].iteration
    assert steps["gradient"] < 0.5 * steps["none"]


def test_auto_takes_the_strongly_convex_momentum_where_mu_is_known():
    f = logistic(small())

    def losses(momentum):
        optimizer = make_optimizer("nesterov", momentum=momentum)
        return [row.loss for row in minimize(f, optimizer, epochs=30).rows]

    assert losses("auto") == losses("strongly_convex") != losses("convex")
    g = Function(lambda w: torch.cosh(w).sum(), 3)
    w0 = randn(3, seed=1)
    auto, convex = (
        minimize(g, make_optimizer("nesterov", momentum=m), w0, epochs=20).w
        for m in ("auto", "convex")
    )
    assert torch.equal(auto, convex)


@pytest.mark.parametrize("name", ["gd", "nesterov"])
def test_a_given_step_is_taken(name):
    f = logistic(small())
    w0 = randn(f.dim, seed=1)
    result = minimize(f, make_optimizer(name, step_size=0.3), w0, epochs=1)
    assert result.rows[1].step_size == 0.3
    assert_close(result.w, w0 - 0.3 * f.at(w0).grad, 1e-14)


@pytest.mark.parametrize("name", ["gd", "nesterov", "lbfgs"])
def test_where_the_gradient_is_zero_they_end_and_say_so(name):
    f = Function(lambda w: (w @ w) / 2, 3, convexity=1.0)
    result = minimize(f, make_optimizer(name), grad_norm=None)
    assert (result.outcome, result.reason) == (Outcome.ENDED, "the gradient is zero")


@pytest.mark.parametrize("name", ["gd", "nesterov"])
def test_a_step_that_is_too_long_diverges_and_the_run_says_so(name):
    f = logistic(small(), l2=10.0)
    result = minimize(f, make_optimizer(name, step_size=5.0, **no_restart(name)), epochs=2000)
    assert result.outcome is Outcome.DIVERGED
    assert torch.isfinite(result.w).all()


def no_restart(name):
    return {"restart": "none"} if name == "nesterov" else {}


@pytest.mark.slow
def test_to_the_paper_s_threshold_gradient_descent_takes_as_many_steps_as_was_measured():
    """On a9a with a bias column: about 1,700 steps, and 1e-14 above the optimum."""
    f, optimum = logistic(a9a(bias=True)), optimum_of(a9a(bias=True)).value
    result = minimize(
        f, make_optimizer("gd"), optimum=optimum, epochs=None, grad_norm=None, loss_change=1e-16
    )
    assert result.outcome is Outcome.CONVERGED
    assert 1000 < result.rows[-1].iteration < 2500
    assert 0 <= result.rows[-1].suboptimality < 1e-13
    assert math.isfinite(result.rows[-1].seconds)


def test_nesterov_shortens_its_step_where_the_curvature_grows_on_the_way():
    """At the minimum of (w1 w2 w3 - 27)^2 the curvature is nine times that of the start."""
    f = Function(lambda w: (w.prod() - 27) ** 2, 3)
    w0 = torch.full((3,), 0.5, dtype=torch.float64)
    first = float(torch.linalg.eigvalsh(f.at(w0).hessian().dense()).abs().max())
    found = minimize(f, make_optimizer("nesterov"), w0, epochs=200, grad_norm=1e-6)
    assert found.outcome is Outcome.CONVERGED
    assert found.rows[-1].step_size < 0.5 / first
    fixed = make_optimizer("nesterov", step_size=1 / first)
    assert minimize(f, fixed, w0, epochs=200, grad_norm=1e-6).outcome is not Outcome.CONVERGED


@pytest.mark.parametrize("name", ["gd", "nesterov"])
def test_the_step_is_positive_where_all_curvature_is_negative(name):
    """log(1 + |w|^2) at (3, 0): its eigenvalues are -16/100 and 1/5; along a line -16/100 alone."""
    for dim, curvature in ((1, 0.16), (2, 0.2)):
        f = Function(lambda w: torch.log1p(w.square().sum()), dim)
        w0 = 3 * torch.eye(dim, dtype=torch.float64)[0]
        found = minimize(f, make_optimizer(name), w0, epochs=100)
        assert found.rows[1].step_size == pytest.approx(1 / curvature)
        assert found.rows[1].loss < found.rows[0].loss


@pytest.mark.parametrize("name", ["gd", "nesterov"])
def test_a_start_without_curvature_asks_for_a_step_size(name):
    f = Function(lambda w: (w**4).sum(), 3)
    with pytest.raises(ConfigError, match=r"set optimizer\.step_size"):
        minimize(f, make_optimizer(name), torch.zeros(3, dtype=torch.float64), epochs=3)
