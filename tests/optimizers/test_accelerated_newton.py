"""Accelerated approximate Newton: its limits, the rates of its theory, and its guards."""

import math
from itertools import pairwise

import pytest
import torch
from optimizer_parts import a9a, logistic, make_optimizer, minimize, optimum_of, small
from problems import Function, assert_close, make, randn

from newton_krylov.curvature.base import Curvature
from newton_krylov.errors import ConfigError
from newton_krylov.operators import MatrixOperator
from newton_krylov.optimizers.accelerated_newton import _Theory
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Outcome

TIGHT = ("fixed", {"eta": 1e-12})


def accelerated(**options):
    return make_optimizer("accelerated_newton", **{"forcing": TIGHT, **options})


class Fixed(Curvature):
    """The same matrix everywhere."""

    def __init__(self, H):
        self.H = H

    def at(self, point, generator):
        return MatrixOperator(self.H)


def pencil(low, n=9):
    """Return A and H with low H <= A <= H, w -> w'Aw / 2, and the eigenvector of low."""
    values = torch.linspace(low, 1.0, n, dtype=torch.float64)
    root = randn(n, n, seed=0) / math.sqrt(n) + torch.eye(n, dtype=torch.float64)
    A, H = root @ root.T, root @ torch.diag(1 / values) @ root.T
    slowest = torch.linalg.solve(root.T, torch.eye(n, dtype=torch.float64)[0])
    return A, H, Function(lambda w: w @ (A @ w) / 2, n), slowest


def gaps(f, optimizer, epochs, w0=None):
    """f - f* by step, on a quadratic whose minimum is 0."""
    w0 = randn(f.dim, seed=7) if w0 is None else w0
    return [row.loss for row in minimize(f, optimizer, w0, epochs=epochs, grad_norm=None).rows]


# --- degenerate settings are known methods ------------------------------------------------------


@pytest.mark.parametrize("solver", ["exact", "cg", "minres"])
def test_with_all_samples_and_theta_1_it_is_newton_s_method(solver):
    parts = {"solver": solver, "forcing": "superlinear"}
    everything = ("regularized_subsampled", {"fraction": 1.0, "alpha": 0.0})
    ours = minimize(logistic(small()), accelerated(theta=1.0, curvature=everything, **parts))
    newton = minimize(logistic(small()), make_optimizer(**parts))
    assert ours.outcome is newton.outcome is Outcome.CONVERGED
    for key in ("loss", "step_size", "inner_iterations", "hvp_count"):
        a, b = ([getattr(row, key) for row in result.rows[1:]] for result in (ours, newton))
        assert a == b
    assert torch.equal(ours.w, newton.w)


@pytest.mark.parametrize("name", ["regularized_subsampled", "leverage_subsampled", "sketched"])
def test_with_theta_1_it_is_plain_approximate_newton(name):
    f = logistic(small())
    a, b = (
        minimize(f, make_optimizer(which, curvature=(name, {"size": 60}), **theta), seed=3).rows
        for which, theta in (("accelerated_newton", {"theta": 1.0}), ("newton", {}))
    )
    assert [row.loss for row in a] == [row.loss for row in b]


def test_with_the_identity_for_hessian_it_is_nesterov_s_method():
    f = logistic(small())
    L = 1.3 * float(torch.linalg.eigvalsh(f.at(torch.zeros(f.dim).double()).hessian().dense())[-1])
    curvature = Fixed(L * torch.eye(f.dim, dtype=torch.float64))
    theta = math.sqrt(f.convexity / L)
    ours = minimize(
        f,
        accelerated(theta=theta, curvature=curvature, line_search="none", restart="none"),
        epochs=50,
    )
    theirs = minimize(f, make_optimizer("nesterov", step_size=1 / L, restart="none"), epochs=50)
    assert_close(ours.w, theirs.w, 1e-12)


# --- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pi", [0.9, 0.99])
def test_plain_converges_like_pi_and_accelerated_like_1_minus_sqrt_1_minus_pi(pi):
    """In closed form, along the slowest eigenvector of (1 - pi) H <= A <= H.

    Plain errors are pi^k. Accelerated ones obey e_k+1 = pi ((1 + b) e_k - b e_k-1), whose
    characteristic roots coincide: e_k = (1 - theta)^k (1 + k theta).
    """
    _, H, f, slowest = pencil(1 - pi)
    theta, steps = math.sqrt(1 - pi), 40
    parts = {"curvature": Fixed(H), "line_search": "none", "restart": "none"}
    plain = gaps(f, accelerated(theta=1.0, **parts), steps, slowest)
    fast = gaps(f, accelerated(theta=theta, **parts), steps, slowest)
    for k in range(steps + 1):
        assert plain[k] / plain[0] == pytest.approx(pi ** (2 * k), rel=1e-6)
        error = (1 - theta) ** k * (1 + k * theta)
        assert fast[k] / fast[0] == pytest.approx(error**2, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_from_anywhere_the_gap_obeys_the_theorem_s_bound(seed):
    """f_k - f* <= (1 - sqrt(1 - pi))^k (f_0 - f* + (1 - pi) / 2 |w_0 - w*|_H^2)."""
    pi = 0.99
    _, H, f, _ = pencil(1 - pi)
    w0 = randn(9, seed=seed)
    optimizer = accelerated(theta=0.1, curvature=Fixed(H), line_search="none", restart="none")
    values = gaps(f, optimizer, 200, w0)
    potential = values[0] + (1 - pi) / 2 * float(w0 @ (H @ w0))
    assert all(gap <= 0.9**k * potential * (1 + 1e-9) for k, gap in enumerate(values))


def test_exactly_approximated_no_acceleration_is_needed():
    """pi = 0: theta = 1, and one step is enough."""
    A, _, f, _ = pencil(0.5)
    assert gaps(f, accelerated(theta="theory", curvature=Fixed(A)), 1)[-1] < 1e-24


@pytest.mark.parametrize("scale", [1.0, 4.0, 50.0])
def test_theory_s_theta_is_that_of_the_pencil_however_h_is_scaled(scale):
    """Where H is too small for A <= H, scale H is taken in its place."""
    _, H, f, _ = pencil(0.04)
    theory = _Theory(entry("solver", "exact").build({}), 10, torch.Generator().manual_seed(0))
    used = theory.observe(f.at(randn(9, seed=1)), MatrixOperator(H / scale))
    assert theory.theta == pytest.approx(math.sqrt(0.04), rel=1e-6)
    assert_close(used.dense(), H, 1e-6)


def test_theory_s_theta_gives_theory_s_rate():
    _, H, f, _ = pencil(0.01)
    known = gaps(f, accelerated(theta=0.1, curvature=Fixed(H)), 150)
    estimated = gaps(f, accelerated(theta="theory", curvature=Fixed(H / 3)), 150)
    assert known[-1] < 1e-9 * known[0]
    assert estimated[-1] < 1e-9 * known[0]


def test_theory_looks_at_steps_0_4_16_64():
    f = logistic(small())
    optimizer = accelerated(theta="theory", curvature=("regularized_subsampled", {"alpha": 0.1}))
    rows = minimize(f, optimizer, epochs=20, grad_norm=None).rows
    products = [b.hvp_count - a.hvp_count for a, b in pairwise(rows)]
    assert [k for k, amount in enumerate(products) if amount >= 10] == [0, 4, 16]


@pytest.mark.parametrize("theta", ["adaptive", "theory", 0.3])
def test_acceleration_wins_and_most_where_the_hessian_is_a_poor_approximation(theta):
    """The paper's claim, in steps to 1e-9: a larger alpha is a poorer H."""
    dataset = small(n=400, d=20)
    f, optimum = logistic(dataset), optimum_of(dataset).value
    ratios = []
    for alpha in (0.01, 0.1, 1.0):
        curvature = ("regularized_subsampled", {"fraction": 0.5, "alpha": alpha})
        plain, fast = (
            minimize(
                f, accelerated(theta=value, curvature=curvature), optimum=optimum, epochs=3000,
                suboptimality=1e-9, grad_norm=None,
            ).rows[-1].iteration
            for value in (1.0, theta)
        )  # fmt: skip
        ratios.append(plain / fast)
    assert ratios[0] > 0.7
    assert ratios[1] > 1.4
    assert ratios[2] > 2.0
    assert ratios == sorted(ratios) or theta == 0.3


# --- guards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.003, 0.03])
def test_a_wrong_theta_loses_and_the_restarts_guard_it(theta):
    """pi = 0.5 asks for theta = 0.7; momentum near 1 makes waves that shrink by sqrt(pi) a step."""
    _, H, f, _ = pencil(0.5)

    def steps(theta, restart):
        optimizer = accelerated(theta=theta, curvature=Fixed(H), restart=restart)
        values = gaps(f, optimizer, 150)
        return next((k for k, gap in enumerate(values) if gap < 1e-25), 150)

    plain, right = steps(1.0, "none"), steps(math.sqrt(0.5), "none")
    assert right < plain
    assert steps(theta, "none") > 1.6 * plain
    for restart in ("both", "gradient"):
        assert steps(theta, restart) < 1.3 * plain


@pytest.mark.parametrize("theta", ["adaptive", 0.1])
@pytest.mark.parametrize("restart", ["both", "function"])
def test_the_loss_never_rises_though_the_hessian_be_a_gamble(restart, theta):
    """Three samples for twelve parameters: H bounds nothing, and changes with every step."""
    dataset = small()
    f, optimum = logistic(dataset, 1e-3), optimum_of(dataset, l2=1e-3).value
    curvature = ("regularized_subsampled", {"size": 3, "alpha": 1e-3})

    def run(restart):
        optimizer = accelerated(theta=theta, curvature=curvature, restart=restart)
        return minimize(f, optimizer, optimum=optimum, epochs=300, grad_norm=None).rows

    guarded, alone = run(restart), run("none")
    assert all(b.loss <= a.loss + f.rounding(a.loss) for a, b in pairwise(guarded))
    refused = [row for row in guarded if row.step_size == 0]
    assert refused and all("momentum dropped" in row.note for row in refused)
    assert not any(a.step_size == b.step_size == 0 for a, b in pairwise(guarded))
    assert guarded[-1].suboptimality < 0.1 * guarded[0].suboptimality
    assert alone[-1].suboptimality > 10 * guarded[-1].suboptimality


def test_from_a_refused_step_the_next_one_is_plain_and_starts_where_the_method_stood():
    f = logistic(small(), 1e-3)
    curvature = ("regularized_subsampled", {"size": 3, "alpha": 1e-3})
    rows = minimize(f, accelerated(theta=0.05, curvature=curvature), epochs=100).rows
    k = next(k for k, row in enumerate(rows) if row.step_size == 0)
    assert rows[k].loss == rows[k - 1].loss
    assert rows[k + 1].loss < rows[k].loss


# --- together with the other parts --------------------------------------------------------------


@pytest.mark.parametrize("solver", ["exact", "cg", "cr", "gcr", "gmres", "minres", "minres_qlp"])
@pytest.mark.parametrize(
    "curvature",
    [
        ("regularized_subsampled", {"fraction": 0.3, "alpha": 0.05}),
        ("leverage_subsampled", {"fraction": 0.3, "alpha": 0.05}),
        ("sketched", {"fraction": 0.3, "alpha": 0.05}),
        ("sketched", {"fraction": 0.3, "alpha": 0.05, "kind": "gaussian"}),
    ],
    ids=str,
)
def test_with_any_sampled_curvature_and_solver_it_reaches_the_certified_optimum(curvature, solver):
    dataset = small()
    optimizer = accelerated(curvature=curvature, solver=solver, forcing="superlinear")
    result = minimize(logistic(dataset), optimizer, epochs=1000, grad_norm=1e-9)
    assert result.outcome is Outcome.CONVERGED
    assert result.rows[-1].loss - optimum_of(dataset).value <= 1e-15


@pytest.mark.parametrize("theta", ["adaptive", "theory", 0.2])
def test_on_a9a_it_needs_fewer_steps_than_plain_with_a_large_alpha(theta):
    """As measured: 71 plain steps to 1e-10, about 30 accelerated ones."""
    f, optimum = logistic(a9a(bias=True)), optimum_of(a9a(bias=True)).value
    curvature = ("regularized_subsampled", {"fraction": 0.02, "alpha": 0.1})
    plain, fast = (
        minimize(
            f, accelerated(theta=value, curvature=curvature, solver="cg", forcing="fixed"),
            optimum=optimum, suboptimality=1e-10, grad_norm=None, epochs=200,
        ).rows[-1].iteration
        for value in (1.0, theta)
    )  # fmt: skip
    assert fast < 0.55 * plain


def test_a_step_costs_a_value_a_gradient_and_the_sample_s_products():
    """The extrapolation itself reads no data: outputs are linear in w."""
    f = logistic(small())
    curvature = ("regularized_subsampled", {"size": 20})
    optimizer = accelerated(curvature=curvature, solver=("cg", {"maxiter": 5}), theta=0.3)
    rows = minimize(f, optimizer, epochs=8, grad_norm=None).rows
    for a, b in pairwise(rows[1:]):
        products = b.hvp_count - a.hvp_count
        assert b.data_passes - a.data_passes == pytest.approx(1 + products)
        assert b.gradient_count - a.gradient_count == 1


def test_the_seed_decides_and_the_same_optimizer_may_be_run_twice():
    f = logistic(small())
    optimizer = accelerated(curvature=("regularized_subsampled", {"size": 30}))

    def losses(seed):
        return [row.loss for row in minimize(f, optimizer, seed=seed, epochs=12).rows]

    assert losses(1) == losses(1) != losses(2)


def test_it_ends_where_no_direction_of_descent_is_left():
    f = make("logistic")
    result = minimize(f, accelerated(curvature="hvp"), grad_norm=None, epochs=200)
    assert result.outcome in (Outcome.ENDED, Outcome.LIMIT)
    assert result.rows[-1].grad_norm < 1e-14
    g = Function(lambda w: (w @ w) / 2, 3, convexity=1.0)
    ended = minimize(g, accelerated(curvature="hvp"), randn(3, seed=1), grad_norm=None)
    assert ended.outcome is Outcome.ENDED


def test_bad_parameters_are_refused():
    for key, value in [("theta", 0.0), ("theta", 1.5), ("products", 0)]:
        with pytest.raises(ConfigError, match=f"optimizer.{key}={value} is not valid"):
            entry("optimizer", "accelerated_newton").validate({key: value})
    for key in ("theta", "restart"):
        with pytest.raises(ConfigError, match=f"optimizer.{key}='magic' is not valid"):
            entry("optimizer", "accelerated_newton").validate({key: "magic"})
