"""Newton's method where it is hard: bad scales, saddles, loose solves that predict nothing.

Problems and optima are those of Moré, Garbow and Hillstrom, "Testing unconstrained optimization
software" (ACM TOMS 7, 1981), sums of squares without the factor 1/2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimizer_parts import make_optimizer, minimize
from problems import Function, rosenbrock
from torch import Tensor

from newton_krylov import NewtonKrylov
from newton_krylov.optimizers.damping import Marquardt, Trial

SOLVERS = ["exact", "cg", "cr", "gcr", "gmres", "minres", "minres_qlp"]
F64 = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


@dataclass(frozen=True)
class Problem:
    """A function, its standard start, and its local minima that are known."""

    function: Callable[[Tensor], Tensor]
    start: tuple[float, ...]
    optima: tuple[float, ...] = (0.0,)
    gap: float = 1e-12


def powell_badly_scaled(x: Tensor) -> Tensor:
    return (1e4 * x[0] * x[1] - 1) ** 2 + (torch.exp(-x).sum() - 1.0001) ** 2


def brown_badly_scaled(x: Tensor) -> Tensor:
    return (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2) ** 2


def meyer(x: Tensor) -> Tensor:
    y = tensor(
        34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820,
        3307, 2872,
    )  # fmt: skip
    t = 45 + 5 * torch.arange(1, 17, dtype=F64)
    return (x[0] * torch.exp(x[1] / (t + x[2])) - y).square().sum()


def gulf(x: Tensor) -> Tensor:
    t = torch.arange(1, 100, dtype=F64) / 100
    y = 25 + (-50 * torch.log(t)) ** (2 / 3)
    return (torch.exp(-((y - x[1]).abs() ** x[2]) / x[0]) - t).square().sum()


def biggs(x: Tensor) -> Tensor:
    t = torch.arange(1, 14, dtype=F64) / 10
    y = torch.exp(-t) - 5 * torch.exp(-10 * t) + 3 * torch.exp(-4 * t)
    model = x[2] * torch.exp(-t * x[0]) - x[3] * torch.exp(-t * x[1]) + x[5] * torch.exp(-t * x[4])
    return (model - y).square().sum()


PROBLEMS = {
    "powell": Problem(powell_badly_scaled, (0.0, 1.0)),
    "brown": Problem(brown_badly_scaled, (1.0, 1.0)),
    "gulf": Problem(gulf, (5.0, 2.5, 0.15)),
    "biggs": Problem(biggs, (1, 2, 1, 1, 1, 1), (0.0, 5.65565e-3), gap=1e-7),
    "meyer": Problem(meyer, (0.02, 4000.0, 250.0), (87.9458,), gap=1e-4),
}


QUICK = ("exact", "cg")
CASES = [
    pytest.param(name, solver, marks=() if solver in QUICK else pytest.mark.slow)
    for name in PROBLEMS
    for solver in SOLVERS
]


@pytest.mark.parametrize("damping", ["fixed", "marquardt"])
@pytest.mark.parametrize(("name", "solver"), CASES)
def test_every_solver_minimizes_it(name: str, solver: str, damping: str) -> None:
    case = PROBLEMS[name]
    f = Function(case.function, len(case.start))
    optimizer = make_optimizer(solver=solver, damping=damping)
    reached = False
    for optimum in case.optima:
        result = minimize(
            f, optimizer, tensor(*case.start), optimum=optimum, suboptimality=case.gap, epochs=600
        )
        reached = reached or abs(result.rows[-1].suboptimality) <= case.gap
    assert reached, (result.reason, result.rows[-1])


@pytest.mark.parametrize("scale", [1e-100, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e100])
def test_the_unit_of_the_loss_does_not_matter(scale: float) -> None:
    w = tensor(-1.2, 1.0).requires_grad_()
    optimizer = NewtonKrylov([w])
    for _ in range(200):
        optimizer.step(lambda: scale * rosenbrock(w))
    torch.testing.assert_close(w.detach(), tensor(1.0, 1.0), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("first", [1e-8, 1.0, 1e8, 1e30])
def test_the_first_damping_does_not_keep_it_from_moving(first: float) -> None:
    f = Function(rosenbrock, 2)
    optimizer = make_optimizer(solver="cg", damping=("marquardt", {"tau": first}))
    result = minimize(f, optimizer, tensor(-1.2, 1.0), epochs=300)
    assert result.rows[-1].loss < 1e-20


@pytest.mark.parametrize("tau", [0.0, 1e-3, 1.0, 10.0])
@pytest.mark.parametrize("damping", ["fixed", "marquardt"])
@pytest.mark.parametrize("solver", ["exact", "cg", "minres"])
def test_a_saddle_is_left_however_large_the_damping(solver: str, damping: str, tau: float) -> None:
    """x^2 - y^2/4 + y^4 has its minima at y^2 = 1/8, where it is -1/64."""
    f = Function(lambda w: w[0] ** 2 - 0.25 * w[1] ** 2 + w[1] ** 4, 2)
    if damping == "marquardt" and tau == 0.0:
        pytest.skip("an adaptive damping is above 0")
    optimizer = make_optimizer(solver=solver, damping=(damping, {"tau": tau}))
    rows = minimize(f, optimizer, epochs=3000, grad_norm=None, optimum=-1 / 64, suboptimality=1e-6)
    assert rows.rows[1].notes[0] == "left a saddle point"
    assert rows.rows[-1].suboptimality <= 1e-6


def test_a_minimum_is_not_taken_for_a_saddle() -> None:
    f = Function(lambda w: (w**2).sum() + (w**4).sum(), 3)
    result = minimize(f, make_optimizer(solver="cg", damping="marquardt"), grad_norm=None)
    assert result.reason == "the gradient is zero and the curvature is not negative"


@given(st.floats(1e-300, 1e300), st.integers(1, 3000))
def test_a_damping_that_has_fallen_can_rise_again(curvature: float, good: int) -> None:
    damping = Marquardt()
    for _ in range(good):
        assert damping.judge(Trial(-1.0, -1.0, curvature))
    for _ in range(40):
        assert not damping.judge(Trial(1.0, -1.0, curvature))
    assert damping.tau > curvature


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
def test_relaxing_ends_below_the_curvature_and_never_after_a_refusal(
    tau: float, curvature: float
) -> None:
    trial = Trial(0.0, -1e-300, curvature)
    damping = Marquardt(tau)
    assert damping.relax(trial) is (tau > curvature)
    assert damping.tau <= max(curvature, torch.finfo(F64).tiny)
    assert not damping.relax(trial)
    refused = Marquardt(tau)
    refused.judge(Trial(1.0, -1.0, curvature))
    assert not refused.relax(trial)


def test_an_eigenvector_of_negative_curvature_does_not_hide_the_rest_of_the_gradient() -> None:
    """A step from where the curvature is slightly negative along one axis, large along another."""
    f = Function(lambda w: 50 * w[0] ** 2 - 0.01 * w[1] ** 2 + w[1] ** 4, 2)
    optimizer = make_optimizer(solver="exact")
    rows = minimize(f, optimizer, tensor(1.0, 1e-3), epochs=1, grad_norm=None).rows
    assert "negative_curvature" in rows[1].note
    assert rows[1].grad_norm < 0.05 * rows[0].grad_norm
