"""Sinkhorn-Newton-Sparse: its limits are known methods, its steps few, its optimum the optimum."""

from functools import partial
from itertools import islice, pairwise

import pytest
import torch
from problems import assert_close, make
from transport_problems import draw, dual, optimum, zeros

from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.curvature.thresholded_sparse import ThresholdedSparse
from newton_krylov.data.transport import transport
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.objectives.entropic_transport import EntropicTransport
from newton_krylov.optimizers.damping import Fixed
from newton_krylov.optimizers.forcing import fixed, superlinear
from newton_krylov.optimizers.line_search import armijo, none
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.sinkhorn import Sinkhorn
from newton_krylov.optimizers.sinkhorn_newton_sparse import SinkhornNewtonSparse
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Outcome, Stopping, run

NO_CHANCE = torch.Generator()


def sns(kept=100.0, **changes):
    parts = {
        "solver": entry("solver", "cg").build({}),
        "curvature": ThresholdedSparse(kept),
        "line_search": armijo,
        "forcing": superlinear,
        "preconditioner": entry("preconditioner", "jacobi").build({}),
        "damping": Fixed(),
    }
    own = {key: changes.pop(key) for key in set(changes) - set(parts)}
    return SinkhornNewtonSparse(NewtonStep(**{**parts, **changes}), **own)


def solve(f, optimizer, epochs=300, grad_norm=1e-13):
    return run(optimizer, f, zeros(f), Stopping(epochs=epochs, grad_norm=grad_norm), NO_CHANCE)


def test_the_first_phase_is_sinkhorn_s():
    f = dual(eta=200.0)
    ours = islice(sns(sinkhorn_steps=7).steps(f, zeros(f), NO_CHANCE), 8)
    theirs = islice(Sinkhorn().steps(f, zeros(f), NO_CHANCE), 8)
    assert all(torch.equal(a.point.w, b.point.w) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("solver", ["cg", "minres", "cr", "exact"])
@pytest.mark.parametrize(
    "curvature", [HessianProduct(), ThresholdedSparse(1e3)], ids=["hvp", "all"]
)
def test_without_thresholding_a_step_is_newton_s(solver, curvature):
    f = dual(eta=60.0)
    optimizer = sns(
        solver=entry("solver", solver).build({}),
        curvature=curvature,
        line_search=none,
        forcing=partial(fixed, eta=1e-12),
        preconditioner=entry("preconditioner", "none").build({}),
        regularization=0.0,
    )
    before, after = islice(optimizer.steps(f, zeros(f), NO_CHANCE), 20, 22)
    H, g = before.point.hessian().dense(), before.point.grad
    step = -torch.linalg.pinv(H, hermitian=True, rtol=1e-13) @ g
    moved = after.point.w - before.point.w
    # A singular system leaves the gauge open: compare what the gauge does not change.
    assert_close(H @ moved, H @ step, 1e-9)
    assert_close(f.log_plan(*f.potentials(moved)), f.log_plan(*f.potentials(step)), 1e-9)


@pytest.mark.parametrize("kept", [1.0, 3.0, 30.0])
def test_marginals_are_met_and_the_value_is_the_optimum(kept):
    f = dual(30, 25, eta=300.0)
    result = solve(f, sns(kept), epochs=2000)
    assert result.outcome is Outcome.CONVERGED
    point, best = f.at(result.w), f.at(optimum(f))
    assert_close(point.plan.sum(1), f.row_marginal, 1e-11)
    assert_close(point.plan.sum(0), f.column_marginal, 1e-11)
    assert abs(point.value - best.value) <= f.rounding(best.value)


def test_the_plan_is_pot_s_at_a_large_eta_and_its_cost_near_the_least():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    cost, r, c = draw(20, 15)
    f = dual(20, 15, eta=1280.0)
    P = f.at(solve(f, sns()).w).plan.numpy()
    peer = ot.sinkhorn(
        r, c, cost, reg=1 / 1280, method="sinkhorn_log", numItermax=10**5, stopThr=1e-14
    )
    assert abs(P - peer).max() < 1e-11
    assert 0 <= (P * cost).sum() - ot.emd2(r, c, cost) < 1e-4


def test_the_convergence_is_superlinear():
    f = EntropicTransport(transport())
    rows = solve(f, sns(), grad_norm=1e-12).rows[20:]
    orders = [b.grad_norm / a.grad_norm for a, b in pairwise(rows)]
    assert orders[-1] < 1e-2 < orders[0]


@pytest.mark.parametrize(
    ("kept", "steps"), [(15, range(5, 11)), (5, range(8, 14)), (3, range(15, 26)), (2, None)]
)
def test_the_paper_s_assignment_takes_as_many_newton_steps_as_was_measured(kept, steps):
    f = EntropicTransport(transport())  # n = 500, eta = 1200
    optimizer = sns(kept, forcing=partial(fixed, eta=1e-6))
    result = solve(f, optimizer, epochs=80, grad_norm=5e-14)
    if steps is None:
        assert result.outcome is Outcome.LIMIT
    else:
        assert result.rows[-1].iteration - 20 in steps


def test_sinkhorn_is_far_from_the_optimum_after_fifty_times_as_many_iterations():
    f = EntropicTransport(transport(n=100))
    ours = solve(f, sns())
    assert ours.outcome is Outcome.CONVERGED
    last = ours.rows[-1]
    theirs = solve(f, Sinkhorn(), epochs=50 * last.iteration).rows[-1]
    assert theirs.grad_norm > 1e4 * last.grad_norm
    assert theirs.data_passes - last.data_passes > 10 * last.data_passes


@pytest.mark.parametrize("eta", [1280.0, 20_000.0])
def test_a_nearly_singular_problem_is_solved_from_a_poor_start(eta):
    f = dual(20, 15, eta=eta)
    result = solve(f, sns(sinkhorn_steps=0), epochs=1000)
    assert result.outcome is Outcome.CONVERGED
    assert f.suboptimality_bound(f.at(result.w)) < 1e-15


def test_regularization_spares_inner_iterations_where_the_system_is_nearly_singular():
    f = dual(20, 15, eta=1280.0)
    plain, regularized = (solve(f, sns(regularization=value)) for value in (0.0, 1e-3))
    inner = [sum(row.inner_iterations for row in run.rows) for run in (plain, regularized)]
    assert inner[1] < inner[0] / 2


def test_bad_parts_and_parameters_are_refused():
    f = make("logistic")
    with pytest.raises(UnsupportedError, match="sinkhorn_newton_sparse is for optimal transport"):
        next(sns().steps(f, torch.zeros(f.dim).double(), NO_CHANCE))
    for key, value in {"sinkhorn_steps": -1, "regularization": -1.0}.items():
        with pytest.raises(ConfigError, match=f"optimizer.{key}={value} is not valid"):
            entry("optimizer", "sinkhorn_newton_sparse").validate({key: value})
