"""Damping: the rule itself, and what it does to Newton's steps."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import Function, assert_close, make, quadratic, randn, rosenbrock

from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.errors import ConfigError
from newton_krylov.linear_solvers.exact import exact
from newton_krylov.optimizers.base import Step
from newton_krylov.optimizers.damping import Damping, Fixed, Marquardt, Trial
from newton_krylov.optimizers.forcing import fixed
from newton_krylov.optimizers.line_search import LineSearch, armijo, none
from newton_krylov.optimizers.newton import Newton
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.stochastic_step import StochasticStep
from newton_krylov.preconditioners.none import NoPreconditioner
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Stopping, run


def newton(
    damping: Damping, curvature: Curvature | None = None, search: LineSearch = none, **options: Any
) -> Newton:
    step = NewtonStep(
        exact, curvature or HessianProduct(), search, fixed, NoPreconditioner(), damping, **options
    )
    return Newton(StochasticStep(step))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def one_step(optimizer: Newton, f: Function, w: torch.Tensor) -> Step:
    steps = optimizer.steps(f, w, generator())
    next(steps)
    return next(steps)


@pytest.mark.parametrize(
    ("actual", "predicted", "made", "tau"),
    [
        (-1.0, -1.0, True, 0.5),  # as the model says
        (-0.5, -1.0, True, 1.0),  # between: as it was
        (-0.1, -1.0, True, 2.0),  # poor
        (-1.0, 0.5, True, 2.0),  # good luck, but the model said uphill
        (0.0, -1.0, False, 4.0),
        (0.3, -1.0, False, 4.0),
        (float("nan"), -1.0, False, 4.0),
        (float("inf"), -1.0, False, 4.0),
    ],
)
def test_the_reduction_ratio_moves_tau(
    actual: float, predicted: float, made: bool, tau: float
) -> None:
    damping = Marquardt(1.0)
    assert damping.judge(Trial(actual, predicted)) is made
    assert damping.tau == tau


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 0))),
    st.floats(1e-6, 1e3),
    st.floats(1e-6, 1e3),
)
def test_tau_never_falls_below_its_limit(
    steps: list[tuple[float, float]], tau: float, lowest: float
) -> None:
    damping = Marquardt(tau, lowest=lowest)
    for actual, predicted in steps:
        damping.judge(Trial(actual, predicted))
        assert damping.tau >= lowest


def test_an_adaptive_rule_needs_something_to_multiply() -> None:
    with pytest.raises(ConfigError, match=r"damping\.tau=0 is not valid: it should be greater"):
        entry("damping", "marquardt").build({"tau": 0})


def test_of_a_quadratic_the_model_is_exact_and_tau_falls_with_every_step() -> None:
    f = quadratic(torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64))
    optimizer = newton(Marquardt())
    run(optimizer, f, randn(3, seed=3), Stopping(epochs=5), generator())
    assert optimizer.state_dict()["step"]["damping"]["tau"] == pytest.approx(2.0**-5)


def test_newton_with_damping_solves_the_damped_system() -> None:
    f = make("logistic")
    w = randn(f.dim, seed=5)
    point = f.at(w)
    H = point.hessian().dense()
    step = one_step(newton(Fixed(0.3)), f, w)
    expected = w - torch.linalg.solve(H + 0.3 * torch.eye(f.dim, dtype=w.dtype), point.grad)
    assert_close(step.point.w, expected, 1e-9)


def test_large_damping_makes_the_step_the_gradient_step() -> None:
    """(H + tau I)^-1 g = g / tau (1 + O(|H| / tau))."""
    f = Function(rosenbrock, 4)
    w = randn(4, seed=1)
    g, norm = f.at(w).grad, float(torch.linalg.matrix_norm(f.at(w).hessian().dense(), 2))
    for tau in (1e6, 1e9):
        p = one_step(newton(Fixed(tau)), f, w).point.w - w
        assert_close(p * tau, -g, 1.01 * norm / tau + 1e-6)


def test_a_step_that_raises_the_loss_is_refused() -> None:
    """Newton's full step on sqrt(1 + w^2) overshoots ever further from |w| > 1."""
    f = Function(lambda w: torch.sqrt(1 + w @ w), 1)
    w = torch.tensor([3.0], dtype=torch.float64)
    plain = run(newton(Fixed()), f, w, Stopping(epochs=3), generator())
    assert plain.rows[-1].loss > plain.rows[0].loss
    damped = run(newton(Marquardt(1e-3)), f, w, Stopping(epochs=30), generator())
    losses = [row.loss for row in damped.rows]
    assert all(b <= a for a, b in pairwise(losses))
    refused = [row for row in damped.rows if "step refused" in row.note]
    assert refused and all(row.step_size == 0 for row in refused)
    assert losses[-1] == pytest.approx(1.0, abs=1e-12)


def test_a_refused_step_on_all_samples_does_not_ask_for_the_curvature_again() -> None:
    class Counting(HessianProduct):
        calls = 0

        def at(self, point: Any, generator: torch.Generator) -> Any:
            Counting.calls += 1
            return super().at(point, generator)

    f = Function(lambda w: torch.sqrt(1 + w @ w), 1)
    w = torch.tensor([30.0], dtype=torch.float64)
    optimizer = newton(Marquardt(1e-9), Counting())
    rows = run(optimizer, f, w, Stopping(epochs=8), generator()).rows
    made = ["step refused" not in row.note for row in rows[1:]]
    assert not all(made[:-1])
    assert Counting.calls == 1 + sum(made[:-1])


def test_at_a_minimum_it_ends_and_does_not_refuse_for_ever() -> None:
    f = make("logistic")
    w = torch.zeros(f.dim, dtype=f.dtype)
    optimizer = newton(Marquardt())
    result = run(optimizer, f, w, Stopping(epochs=500), generator())
    assert result.reason == "no step lowers the loss beyond its rounding error"
    assert result.rows[-1].grad_norm < 1e-7


@pytest.mark.parametrize("search", [none, armijo])
def test_levenberg_marquardt_finds_rosenbrock_s_minimum(search: Any) -> None:
    f = Function(rosenbrock, 4)
    w = torch.tensor([-1.2, 1.0, -1.2, 1.0], dtype=torch.float64)
    optimizer = newton(Marquardt(), search=search)
    result = run(optimizer, f, w, Stopping(epochs=300, grad_norm=1e-8), generator())
    assert result.rows[-1].loss < 1e-12 or result.rows[-1].grad_norm < 1e-8


def test_where_curvature_is_negative_ignore_goes_uphill_as_the_paper_does() -> None:
    f = quadratic(torch.tensor([-2.0, -1.0], dtype=torch.float64))
    w = randn(2, seed=4)
    up = one_step(newton(Fixed(), negative_curvature="ignore"), f, w).point
    down = one_step(newton(Fixed(), negative_curvature="follow"), f, w).point
    assert up.value > f.at(w).value > down.value
    assert_close(up.w, w - torch.linalg.solve(f.at(w).hessian().dense(), f.at(w).grad), 1e-9)
