"""Where the Hessian is not positive definite: every solver, down to a minimum and never up."""

from itertools import pairwise

import pytest
import torch
from optimizer_parts import make_optimizer, minimize
from problems import Function, make, randn, rosenbrock

from newton_krylov.runs.runner import Outcome

SOLVERS = ["exact", "cg", "cr", "gcr", "gmres", "minres", "minres_qlp"]
POLICIES = ["follow", "truncate"]
WITNESSES = [("cg", "follow"), ("cg", "truncate"), ("cr", "follow"), ("cr", "truncate")]
WITNESSES += [("exact", "follow")]
"""Solvers that meet every direction of negative curvature in the gradient's Krylov space."""


def valley(w):
    """Two minima at (0, +-1) with a saddle between them."""
    return w[0] ** 2 / 2 - w[1] ** 2 / 2 + w[1] ** 4 / 4


def many_saddles(n, seed):
    """Return a random indefinite quadratic under a quartic bowl: 0 is a saddle, as are others."""
    A = randn(n, n, seed=seed)
    A = A + A.T
    return Function(lambda w: (w**4).sum() / 4 - w @ (A @ w) / 4, n)


def smallest_eigenvalue(f, w):
    return float(torch.linalg.eigvalsh(f.at(w).hessian().dense())[0])


def assert_never_up(rows, f):
    assert all(b.loss <= a.loss + f.rounding(a.loss) for a, b in pairwise(rows))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_exact_saddle_is_left_along_its_negative_curvature(solver, policy):
    f = Function(valley, 2)
    optimizer = make_optimizer(solver=solver, negative_curvature=policy)
    rows = minimize(f, optimizer, grad_norm=None, epochs=40).rows
    assert rows[0].grad_norm == 0.0
    assert rows[1].note == "left a saddle point"
    assert_never_up(rows, f)
    assert rows[-1].loss == pytest.approx(-0.25, abs=1e-14)


@pytest.mark.parametrize("solver", SOLVERS)
def test_so_is_a_maximum(solver):
    f = Function(lambda w: torch.cos(w).sum(), 3)
    result = minimize(f, make_optimizer(solver=solver), grad_norm=None, epochs=60)
    assert result.rows[-1].loss < 3.0
    assert_never_up(result.rows, f)


def test_a_degenerate_saddle_is_not_told_from_a_minimum():
    """The Hessian of the monkey saddle vanishes at 0: there is no negative curvature to follow."""
    f = Function(lambda w: w[0] ** 3 - 3 * w[0] * w[1] ** 2, 2)
    result = minimize(f, "newton", grad_norm=None)
    assert result.reason == "the gradient is zero and the curvature is not negative"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("solver", "policy"), WITNESSES)
def test_among_many_saddles_a_minimum_is_found(solver, policy, seed):
    f = many_saddles(8, seed)
    optimizer = make_optimizer(solver=solver, negative_curvature=policy)
    result = minimize(f, optimizer, 0.3 * randn(8, seed=seed + 50), grad_norm=1e-8)
    assert result.outcome is Outcome.CONVERGED
    assert any("negative_curvature" in row.note for row in result.rows)
    assert_never_up(result.rows, f)
    assert smallest_eigenvalue(f, result.w) > 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_descends_to_a_stationary_point(solver, seed):
    """Those that do not look at curvature may stop at a saddle, but never go up or crash."""
    f = many_saddles(8, seed)
    optimizer = make_optimizer(solver=solver, negative_curvature="truncate")
    result = minimize(f, optimizer, randn(8, seed=seed + 60), grad_norm=1e-8)
    assert result.outcome is Outcome.CONVERGED
    assert_never_up(result.rows, f)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_rosenbrock_s_valley_is_followed_to_its_end(solver, policy):
    f = Function(rosenbrock, 2)
    w0 = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    optimizer = make_optimizer(solver=solver, negative_curvature=policy)
    result = minimize(f, optimizer, w0, grad_norm=1e-9)
    assert result.outcome is Outcome.CONVERGED
    assert_never_up(result.rows, f)
    assert (result.w - 1).abs().max() < 1e-8


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("solver", ["exact", "cg", "cr"])
def test_rosenbrock_in_ten_dimensions_from_where_it_is_concave(solver, policy):
    f = Function(rosenbrock, 10)
    w0 = torch.linspace(-0.3, 0.3, 10, dtype=torch.float64)
    w0[::2] += 1.5
    assert smallest_eigenvalue(f, w0) < 0
    optimizer = make_optimizer(solver=solver, negative_curvature=policy)
    result = minimize(f, optimizer, w0, grad_norm=1e-8, epochs=300)
    assert result.outcome is Outcome.CONVERGED
    assert_never_up(result.rows, f)
    assert smallest_eigenvalue(f, result.w) > 0


@pytest.mark.parametrize("curvature", ["hvp", "exact", "ggn", "diagonal"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_loss_that_is_not_convex_is_minimized_with_any_curvature(solver, curvature):
    f = make("sigmoid_least_squares", condition=10.0)
    optimizer = make_optimizer(solver=solver, curvature=curvature)
    result = minimize(f, optimizer, 3 * randn(f.dim, seed=2), grad_norm=1e-9, epochs=500)
    assert result.outcome is Outcome.CONVERGED
    assert_never_up(result.rows, f)


def test_an_unbounded_quadratic_is_descended_until_the_run_is_told_to_stop():
    """No step is longer than 1 + |w|: the iterates grow, but do not jump to infinity."""
    f = Function(lambda w: -(w @ w) / 2, 3)
    rows = minimize(f, make_optimizer(solver="cg"), randn(3, seed=1), epochs=20).rows
    assert all(b.loss < a.loss for a, b in pairwise(rows))
    sizes = [(-2 * row.loss) ** 0.5 for row in rows]
    assert all(b <= 2 * a + 1 + 1e-9 for a, b in pairwise(sizes))
