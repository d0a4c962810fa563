"""Newton's method: every combination reaches the certified optimum, and a9a's known figures."""

import math
from itertools import pairwise

import pytest
import torch
from optimizer_parts import a9a, logistic, make_optimizer, minimize, optimum_of, small
from problems import CONVEX_LOSSES, DTYPES, Function, assert_close, make, make_dataset, randn

from newton_krylov.curvature.low_rank_operator import LowRankOperator
from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.exact import exact
from newton_krylov.operators import FunctionOperator
from newton_krylov.optimizers.newton_step import InScale
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Outcome

SOLVERS = ["exact", "cg", "cr", "gcr", "gmres", "minres", "minres_qlp"]
GROWING = ("subsampled", {"fraction": 0.5, "growth": 1.3})
CURVATURES = [
    "exact",
    "hvp",
    "ggn",
    "diagonal",
    ("subsampled", {"fraction": 0.5}),
    GROWING,
    ("regularized_subsampled", {"fraction": 0.5}),
    ("leverage_subsampled", {"fraction": 0.9}),
    ("sketched", {"fraction": 0.9}),
    ("sketched", {"fraction": 0.5, "kind": "gaussian"}),
]
SUPERLINEAR = ["exact", "hvp", "ggn", GROWING]


def certified(f, dataset, loss):
    return optimum_of(dataset, loss, f.l2).value


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_with_any_solver_it_reaches_the_certified_optimum_of_any_convex_loss(solver, loss, sparse):
    dataset = make_dataset(loss.task, n=150, sparse=sparse)
    f = entry("loss", loss.name).build({"l2": 0.01}, dataset=dataset)
    result = minimize(f, make_optimizer(solver=solver), randn(f.dim, seed=3), grad_norm=1e-10)
    assert result.outcome is Outcome.CONVERGED
    gap = result.rows[-1].loss - certified(f, dataset, loss.name)
    assert -f.rounding(1.0) <= gap <= 1e-14
    assert result.rows[-1].iteration <= 30


@pytest.mark.parametrize("curvature", CURVATURES, ids=str)
@pytest.mark.parametrize("solver", ["exact", "cg"])
def test_with_any_curvature_it_reaches_the_certified_optimum(solver, curvature):
    dataset = small()
    f = logistic(dataset)
    optimizer = make_optimizer(solver=solver, curvature=curvature)
    result = minimize(f, optimizer, epochs=2000, grad_norm=1e-9)
    assert result.outcome is Outcome.CONVERGED
    assert result.rows[-1].loss - certified(f, dataset, "logistic") <= 1e-15
    losses = [row.loss for row in result.rows]
    assert all(b <= a + f.rounding(a) for a, b in pairwise(losses))
    assert (result.rows[-1].iteration <= 10) == (curvature in SUPERLINEAR)


@pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe", "none", "fixed"])
@pytest.mark.parametrize("forcing", ["fixed", "superlinear", "eisenstat_walker"])
@pytest.mark.parametrize("preconditioner", ["none", "jacobi", "nystrom", "auto"])
def test_with_any_other_part_too(line_search, forcing, preconditioner):
    dataset = small()
    f = logistic(dataset)
    optimizer = make_optimizer(
        solver="cg", line_search=line_search, forcing=forcing, preconditioner=preconditioner
    )
    result = minimize(f, optimizer, grad_norm=1e-10)
    assert result.outcome is Outcome.CONVERGED
    assert abs(result.rows[-1].loss - certified(f, dataset, "logistic")) <= 1e-15


AUTOMATIC = {
    "solver": "cg",
    "preconditioner": "auto",
    "forcing": ("fixed", {"eta": 0.1}),
    "start": "auto",
}  # method=newton_auto


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge", "least_squares", "multinomial"])
def test_a_start_on_a_sixteenth_counts_by_its_share_and_ends_at_the_certified_optimum(loss):
    task = {"least_squares": "regression", "multinomial": "multiclass"}.get(loss, "binary")
    dataset = make_dataset(task, n=8000, d=5)
    f = entry("loss", loss).build({"l2": 0.01}, dataset=dataset)
    result = minimize(f, make_optimizer(**AUTOMATIC), grad_norm=1e-10)
    assert result.outcome is Outcome.CONVERGED
    assert abs(result.rows[-1].loss - certified(f, dataset, loss)) <= 1e-14
    start, sampled = result.rows[:2]
    assert start.data_passes == 0  # w0 is only recorded
    assert "steps on 500 samples" in sampled.notes[0]
    # Some evaluations and products on a sixteenth, and one evaluation on all.
    assert sampled.data_passes < 1 + 50 / 16
    assert sampled.loss < start.loss
    size = f.sample_gradient_size(f.at(torch.zeros(f.dim, dtype=f.dtype)))
    assert sampled.grad_norm < 2 * size / math.sqrt(500)  # the noise of 500 samples' mean


def test_a_small_or_nonconvex_problem_begins_with_all_samples():
    for f in (make("logistic", n=1000), make("sigmoid_least_squares", n=9000)):
        result = minimize(f, make_optimizer(**AUTOMATIC), epochs=1)
        assert not any("steps on" in note for row in result.rows for note in row.notes)
        assert result.rows[0].data_passes == 1


def test_a_sample_is_refused_where_there_are_none():
    f = Function(lambda w: (w * w).sum(), 3)
    with pytest.raises(UnsupportedError, match="needs the loss of a linear model"):
        minimize(f, make_optimizer(start="sample"), torch.ones(3, dtype=torch.float64))
    with pytest.raises(UnsupportedError, match="batch_size"):
        minimize(make("logistic"), make_optimizer(start="sample", batch_size=10))


def test_the_automatic_choice_takes_the_fewest_passes_over_a9a_whatever_lambda_is():
    """Measured: 11 to 51 passes against 38 to 2,533 of plain CG; see docs/performance.md."""
    dataset = a9a()
    for l2, most in ((1e-2, 16), (1e-5, 50)):
        f = entry("loss", "logistic").build({"l2": l2}, dataset=dataset)
        optimum = optimum_of(dataset, "logistic", l2).value
        result = minimize(
            f, make_optimizer(**AUTOMATIC), torch.zeros(f.dim, dtype=f.dtype),
            optimum=optimum, suboptimality=1e-12,
        )  # fmt: skip
        assert result.outcome is Outcome.CONVERGED
        assert result.rows[-1].data_passes <= most


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_either_precision_it_ends_at_the_rounding_error(dtype):
    dataset = small(dtype=dtype)
    result = minimize(logistic(dataset), grad_norm=None, epochs=50)
    assert result.outcome is Outcome.ENDED or result.outcome is Outcome.LIMIT
    optimum = optimum_of(small()).value
    assert abs(result.rows[-1].loss - optimum) <= 20 * torch.finfo(dtype).eps


def test_one_step_on_a_quadratic_solves_it():
    f = make("least_squares", condition=30.0)
    result = minimize(f, make_optimizer(line_search="none", forcing=("fixed", {"eta": 1e-14})))
    assert result.rows[1].grad_norm < 1e-13
    start = f.at(torch.zeros(f.dim, dtype=f.dtype))
    assert_close(result.w, -torch.linalg.solve(start.hessian().dense(), start.grad), 1e-12)


def test_the_same_seed_gives_the_same_trace_and_another_one_another():
    f = logistic(small())

    def losses(seed):
        optimizer = make_optimizer(curvature=("subsampled", {"fraction": 0.2}))
        return [row.loss for row in minimize(f, optimizer, seed=seed, epochs=10).rows]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_an_optimizer_may_be_run_twice():
    f = logistic(small())
    optimizer = make_optimizer(solver="cg", forcing="eisenstat_walker")
    first, second = ([row.loss for row in minimize(f, optimizer).rows] for _ in range(2))
    assert first == second


def test_at_the_optimum_it_ends_and_says_why():
    f = Function(lambda w: (w @ w) / 2, 3, convexity=1.0)
    result = minimize(f, "newton", grad_norm=None)
    assert result.outcome is Outcome.ENDED
    assert result.reason == "the gradient is zero and the curvature is not negative"


def test_a_loss_that_falls_without_end_is_followed_until_it_overflows():
    f = Function(lambda w: -(w**4).sum(), 2)
    w0 = torch.full((2,), 1.0, dtype=torch.float64)
    result = minimize(f, "newton", w0, epochs=2000)
    assert result.outcome in (Outcome.DIVERGED, Outcome.ENDED)
    assert torch.isfinite(result.w).all()


def test_from_a_start_that_is_not_finite_the_run_diverges_at_once():
    f = logistic(small())
    w0 = torch.full((f.dim,), math.inf, dtype=torch.float64)
    result = minimize(f, "newton", w0)
    assert result.outcome is Outcome.DIVERGED
    assert result.rows[-1].iteration == 0


# --- a9a: figures measured once and for all -------------------------------------------------------

MEASURED = [6.5, 5.0, 1.8, 1.0, 0.56, 0.11, 7.9e-3, 9.2e-5, 5.0e-8, 2.3e-14]
"""Suboptimality after 0, 1, ... epochs of Newton with Armijo's rule from one w0 ~ U(0,1)^124."""

TO_RANK_10 = {"solver": ("gmres", {"maxiter": 10}), "forcing": ("fixed", {"eta": 1e-12})}
TO_RANK_3 = {"solver": ("gmres", {"maxiter": 3}), "forcing": ("fixed", {"eta": 1e-12})}


def from_uniform(seed, **parts):
    """Return the suboptimality by epoch of Newton's method from U(0,1)^124."""
    f, optimum = logistic(a9a(bias=True)), optimum_of(a9a(bias=True)).value
    w0 = torch.rand(f.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    optimizer = make_optimizer(**parts)
    result = minimize(f, optimizer, w0, epochs=11, grad_norm=None, optimum=optimum)
    return [row.suboptimality for row in result.rows]


def quadratic_constants(values):
    """Return e+ / e^2 where both are within the region of quadratic convergence."""
    pairs = pairwise(values)
    return [b / a**2 for a, b in pairs if 1e-7 < a < 1e-2 and b > 1e-15]


@pytest.mark.parametrize(
    ("bias", "value"), [(False, 0.3727237468639262), (True, 0.3722017183991679)]
)
def test_the_certified_optimum_of_a9a_is_the_known_one(bias, value):
    optimum = optimum_of(a9a(bias=bias))
    assert optimum.value == pytest.approx(value, abs=2e-16)
    assert optimum.met and optimum.gap_bound < 1e-20


@pytest.mark.parametrize("seed", range(4))
def test_from_a_uniform_start_newton_descends_as_was_measured(seed):
    """The far phase depends on the start, the constant of the quadratic phase does not."""
    values = from_uniform(seed)
    assert 4.5 < values[0] < 7.0
    assert all(b < a for a, b in pairwise(values) if a > 1e-14)
    assert abs(values[-1]) < 1e-15
    known = quadratic_constants(MEASURED)
    assert all(min(known) / 3 < c < 2 * max(known) for c in quadratic_constants(values))
    # From 0.56 the known run takes five steps to 2.3e-14.
    first = next(k for k, value in enumerate(values) if value < 0.56)
    assert values[first + 6] < 1e-13


def test_ten_inner_iterations_give_the_same_figures_as_a_direct_solve():
    exact, gmres = from_uniform(0, curvature="exact"), from_uniform(0, **TO_RANK_10)
    assert gmres == pytest.approx(exact, rel=0.02, abs=1e-14)


def test_three_inner_iterations_are_too_few_for_quadratic_convergence():
    values = from_uniform(0, **TO_RANK_3)
    assert 1e-9 < values[10] < 1e-5  # measured: 1.9e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_reaches_a9a_s_optimum_from_zero(solver):
    optimum = optimum_of(a9a()).value
    optimizer = make_optimizer(solver=solver)
    result = minimize(logistic(a9a()), optimizer, optimum=optimum, grad_norm=1e-10)
    assert result.outcome is Outcome.CONVERGED
    assert abs(result.rows[-1].suboptimality) < 2e-16
    assert result.rows[-1].iteration <= 9


def test_in_the_curvature_s_scale_a_closed_form_still_needs_no_matrix():
    """A hundred thousand weights, whose matrix would take 80 GB."""
    n = 100_000
    vectors = torch.linalg.qr(randn(n, 3, seed=1))[0]
    A = LowRankOperator(vectors, torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    s = 1 + randn(n, seed=2).abs()
    scaled = InScale(A.affine(shift=0.5), s)
    b = randn(n, seed=3)
    found = exact(scaled, b, rtol=1e-12)
    assert found.converged
    assert_close(s * (A @ (s * found.x) + 0.5 * s * found.x), b, 1e-12)
    plain = InScale(FunctionOperator(lambda v: v, 4, b.dtype, b.device), s[:4])
    assert not plain.has_solve
    small = LowRankOperator(vectors[:5], torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    later = InScale(small, s[:5], shifted=True).affine(shift=0.1)
    found = exact(later, b[:5], rtol=1e-12)
    assert_close(later @ found.x, b[:5], 1e-12)
