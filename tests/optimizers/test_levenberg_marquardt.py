"""Levenberg-Marquardt: Nielsen's rule, its routes, acceleration, scaling, resuming, and minima."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from newton_krylov.curvature.ggn import GaussNewton
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.residual.objective import ResidualObjective
from newton_krylov.operators import FunctionOperator, MatrixOperator
from newton_krylov.optimizers.damping import LevenbergMarquardt as Rule
from newton_krylov.optimizers.damping import Trial
from newton_krylov.optimizers.forcing import fixed
from newton_krylov.optimizers.levenberg_marquardt import (
    LevenbergMarquardt,
    LevenbergMarquardtStep,
    residual_point,
)
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.newton import Newton
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.stochastic_step import StochasticStep
from newton_krylov.registry import entry

ROSENBROCK = torch.tensor([-1.2, 1.0], dtype=torch.float64)


def rosenbrock(w: Tensor) -> Tensor:
    return torch.stack((10 * (w[1] - w[0] ** 2), 1 - w[0]))


def objective(scale: float = 1.0) -> ResidualObjective:
    return ResidualObjective(lambda w: scale * rosenbrock(w), ROSENBROCK)


def levenberg_marquardt(solver: str = "exact", **options) -> LevenbergMarquardt:
    return LevenbergMarquardt(
        entry("solver", solver).build({}), partial(fixed, eta=1e-9), **options
    )


def walk(optimizer, f, w0, limit=200):
    generator = torch.Generator().manual_seed(0)
    steps = []
    for step in optimizer.steps(f, w0, generator):
        steps.append(step.evaluated())
        if len(steps) > limit:
            break
    return steps


@pytest.mark.parametrize("acceleration", [False, True])
@pytest.mark.parametrize("scaling", ["none", "jacobian"])
@pytest.mark.parametrize("solver", ["exact", "qr", "lsmr", "lsqr", "cg"])
def test_every_route_finds_the_minimum(solver: str, scaling: str, acceleration: bool):
    optimizer = levenberg_marquardt(solver, scaling=scaling, acceleration=acceleration)
    last = walk(optimizer, objective(), ROSENBROCK)[-1].point
    assert torch.allclose(last.w, torch.ones(2, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_loss_s_unit_changes_nothing(scale: float):
    """The first damping is a part of the curvature's size, so no tau has to be set."""
    plain = walk(levenberg_marquardt(), objective(), ROSENBROCK, limit=12)
    scaled = walk(levenberg_marquardt(), objective(scale), ROSENBROCK, limit=12)
    for mine, theirs in zip(scaled, plain, strict=True):
        assert torch.allclose(mine.point.w, theirs.point.w, rtol=1e-6, atol=1e-9)


def test_with_scaling_the_parameters_units_change_nothing():
    units = torch.tensor([1e4, 1e-5], dtype=torch.float64)
    f = ResidualObjective(lambda w: rosenbrock(w * units), ROSENBROCK / units)
    optimizer = levenberg_marquardt("qr", scaling="jacobian")
    plain = walk(optimizer, objective(), ROSENBROCK, limit=12)
    scaled = walk(optimizer, f, ROSENBROCK / units, limit=12)
    for mine, theirs in zip(scaled, plain, strict=True):
        assert torch.allclose(mine.point.w * units, theirs.point.w, rtol=1e-6, atol=1e-9)


def test_nielsen_s_rule():
    """tau times max(1/3, 1 - (2 rho - 1)^3); refused steps by 2, 4, 8, ..."""
    rule, A = Rule(), MatrixOperator(torch.diag(torch.tensor([1.0, 40.0], dtype=torch.float64)))
    rule.damped(A, torch.Generator())
    assert rule.tau == pytest.approx(0.04)
    for ratio in (0.1, 0.5, 0.9, 1.0, 3.0):
        before = rule.tau
        assert rule.judge(Trial(-ratio, -1.0))
        assert rule.tau == pytest.approx(before * max(1 / 3, 1 - (2 * ratio - 1) ** 3))
    before = rule.tau
    for factor in (2.0, 8.0, 64.0):
        assert not rule.judge(Trial(0.5, -1.0))
        assert rule.tau == pytest.approx(before * factor)
    assert not rule.judge(Trial(math.nan, -1.0))
    assert rule.judge(Trial(-1.0, -1.0))
    assert rule.nu == 2.0


def test_the_first_tau_needs_no_matrix():
    d = torch.logspace(0, 2, 50, dtype=torch.float64)
    rule = Rule()
    rule.damped(FunctionOperator(lambda v: d * v, 50, d.dtype, d.device), torch.Generator())
    assert 1e-3 < rule.tau < 1e-1


def test_newton_with_the_damping_is_the_same_method():
    """`optimizer=newton hessian_approx=ggn damping=levenberg_marquardt` makes the same steps."""
    solver, forcing = entry("solver", "exact").build({}), partial(fixed, eta=1e-9)
    preconditioner = entry("preconditioner", "none").build({})
    step = NewtonStep(solver, GaussNewton(), armijo, forcing, preconditioner, damping=Rule())
    newton = Newton(StochasticStep(step))
    mine = [s.point.w for s in walk(newton, objective(), ROSENBROCK, 30) if s.step_size != 0]
    theirs = [s.point.w for s in walk(levenberg_marquardt(), objective(), ROSENBROCK, 30)]
    for a, b in zip(mine[:12], theirs[:12], strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_geodesic_acceleration_saves_steps_in_a_curved_valley():
    """Along y = x^2 the residuals' second derivative is what a straight step misses."""
    f = ResidualObjective(lambda w: torch.stack((1e3 * (w[1] - w[0] ** 2), 1 - w[0])), ROSENBROCK)
    plain = len(walk(levenberg_marquardt(), f, ROSENBROCK))
    bent = len(walk(levenberg_marquardt(acceleration=True), f, ROSENBROCK))
    assert bent <= plain / 2


def test_the_correction_is_the_dense_one():
    f, step = objective(), LevenbergMarquardtStep(entry("solver", "exact").build({}))
    point = residual_point(f.at(ROSENBROCK))
    bent = LevenbergMarquardtStep(step.solver, acceleration=True)
    first, second = (next(iter(s.trials(point, 1e-12))) for s in (step, bent))
    J = point.jacobian.dense()
    mu = 1e-3 * float((J.T @ J).diagonal().max())
    A = J.T @ J + mu * torch.eye(2, dtype=J.dtype)
    p = -torch.linalg.solve(A, J.T @ point.r)
    r2 = torch.tensor([-20 * float(p[0]) ** 2, 0.0], dtype=J.dtype)
    a = -torch.linalg.solve(A, J.T @ r2)
    assert torch.allclose(first.p, p)
    assert first.predicted == pytest.approx(
        float(-(J.T @ point.r) @ p - (J @ p).square().sum() / 2), rel=1e-9
    )
    bound = float(a.norm()) <= 0.75 * float(p.norm())
    assert torch.allclose(second.p, p + a / 2 if bound else p)


@pytest.mark.parametrize("scaling", ["none", "jacobian"])
def test_a_continued_run_is_the_uninterrupted_one(scaling: str):
    f, generator = objective(), torch.Generator()
    whole = walk(levenberg_marquardt(scaling=scaling), f, ROSENBROCK, limit=10)
    first = levenberg_marquardt(scaling=scaling)
    steps = first.steps(f, ROSENBROCK, generator)
    for _ in range(5):
        step = next(steps).evaluated()
    second = levenberg_marquardt(scaling=scaling)
    second.load_state_dict(first.state_dict())
    rest = walk(second, f, step.point.w, limit=6)
    for mine, theirs in zip(rest[1:], whole[5:], strict=False):
        assert torch.equal(mine.point.w, theirs.point.w)


def test_it_ends_at_scipy_s_minimum_of_a_problem_with_a_residual_left():
    """Freudenstein and Roth's local minimum, 48.98 / 2, from their start."""

    def residual(w: Tensor) -> Tensor:
        x, y = w[0], w[1]
        return torch.stack((-13 + x + ((5 - y) * y - 2) * y, -29 + x + ((y + 1) * y - 14) * y))

    start = torch.tensor([0.5, -2.0], dtype=torch.float64)
    last = walk(levenberg_marquardt(), ResidualObjective(residual, start), start)[-1].point
    theirs = scipy.optimize.least_squares(
        lambda w: residual(torch.as_tensor(w)).numpy(), start.numpy(), method="lm"
    )
    assert 2 * last.value == pytest.approx(48.9842536, rel=1e-7)
    assert last.w.numpy() == pytest.approx(np.asarray(theirs.x), rel=1e-4)


def test_other_objectives_are_refused():

    class Other:
        pass

    point = type("P", (), {"objective": Other()})()
    with pytest.raises(UnsupportedError, match="needs residuals: take loss=residual, not a Other"):
        residual_point(point)
