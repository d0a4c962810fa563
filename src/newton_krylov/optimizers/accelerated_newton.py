"""Newton's method with an approximate Hessian and Nesterov's extrapolation."""

import math
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import LinearSolver
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.base import Optimizer, Step, Steps
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.registry import register
from newton_krylov.spectral.pencil import pencil_extremes

# The residual asked of the solves that estimate pi; the estimate itself is good to a few percent.
_PENCIL_RTOL = 1e-6
# Of 1 - pi: where f is flat or not convex the pencil gives no better bound.
_LEAST = 1e-8


@register("optimizer", "accelerated_newton")
class AcceleratedNewton(Optimizer):
    """A Newton step from y = x_t + b (x_t - x_t-1), with an approximate Hessian H at y.

    Accelerated approximate Newton (Ye, Luo and Zhang, "Nesterov's acceleration for approximate
    Newton", 2020). Where (1 - pi) H <= Hess f <= H, an approximate Newton method converges
    linearly with factor pi; with b = (1 - theta) / (1 + theta) and theta = sqrt(1 - pi) the factor
    is 1 - sqrt(1 - pi). theta = 1 is no momentum, and so plain (approximate) Newton.

    Momentum that is too strong can lose to none, and where H changes with every sample and does
    not bound Hess f, diverge. It is therefore dropped, after O'Donoghue and Candes ("Adaptive
    restart for accelerated gradient schemes", 2015), by two tests. A step that goes up the slope
    at y is the last one with this momentum. A step that ends above f(x_t) is not taken at all,
    and the next one is plain: so f never rises, and of two steps at least one is taken.

    Parameters
    ----------
    step : NewtonStep
        The step from y; its parameters are set by name.
    theta : float, "theory" or "adaptive"
        A constant in (0, 1]; or sqrt(1 - pi) with pi estimated by Lanczos on the pencil
        (Hess f, H) at steps 0, 4, 16, 64, ... (where its largest eigenvalue L exceeds 1, H is too
        small for the theory, and L H is taken in its place); or Nesterov's sequence of growing
        momentum, b_k = (t_k - 1) / t_k+1 with t_k+1 = (1 + sqrt(1 + 4 t_k^2)) / 2, which needs no
        pi and relies on the restarts.
    restart : {"both", "gradient", "function", "none"}
        Drop the momentum when grad f(y)'(x_t+1 - x_t) > 0, when f(x_t+1) > f(x_t) (and stay at
        x_t), when either holds, or never.
    products : int
        Hessian products of each estimate of pi.
    """

    def __init__(
        self,
        step: NewtonStep,
        theta: Annotated[float, Field(gt=0, le=1)] | Literal["theory", "adaptive"] = "adaptive",
        restart: Literal["both", "gradient", "function", "none"] = "both",
        products: PositiveInt = 10,
    ) -> None:
        self.step = step
        self.theta = theta
        self.restart = restart
        self.products = products

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; ends where no direction of descent is left."""
        memory = self.step.memory()
        momentum = self._momentum(generator)
        x = objective.at(w0)
        yield Step(x)
        y, plain = x, True
        while True:
            A = momentum.observe(y, memory.curvature.at(y, generator))
            step = self.step.along(y, A, memory, generator)
            if isinstance(step, str):
                if plain:
                    return step
                momentum.restart()
                y, plain = x.extrapolate(x, 0.0), True
                continue
            new = step.point
            # The restart needs the value; and the next y is made of the outputs behind it.
            _ = new.value
            refused = not plain and self._rises(x, new)
            dropped = refused or self._uphill(x, y, new)
            if dropped:
                momentum.restart()
            factor = 0.0 if dropped else momentum.advance()
            origin = x if refused else new
            y, plain, x = origin.extrapolate(x, factor), factor == 0.0, origin
            notes = (*step.notes, "momentum dropped") if dropped else step.notes
            alpha = 0.0 if refused else step.step_size
            # The method continues from y, not from x.
            yield replace(step, point=x, step_size=alpha, notes=notes, needed=False)

    def _momentum(self, generator: torch.Generator) -> "_Constant":
        if self.theta == "adaptive":
            return _Growing()
        if self.theta == "theory":
            return _Theory(self.step.solver, self.products, generator)
        return _Constant(self.theta)

    def _uphill(self, x: Point, y: Point, new: Point) -> bool:
        """Return whether the step from x to new goes up the slope at y."""
        return self.restart in ("both", "gradient") and bool(torch.dot(y.grad, new.w - x.w) > 0)

    def _rises(self, x: Point, new: Point) -> bool:
        """Return whether f is larger at new than at x, beyond rounding, or not a number."""
        limit = x.value + new.objective.rounding(x.value)
        return self.restart in ("both", "function") and not new.value <= limit


class _Constant:
    """b = (1 - theta) / (1 + theta)."""

    def __init__(self, theta: float) -> None:
        self.theta = theta

    def observe(self, y: Point, H: LinearOperator) -> LinearOperator:
        """Estimate from the matrix of the coming step; return the matrix to use."""
        return H

    def advance(self) -> float:
        """Return the factor of the next extrapolation."""
        return (1 - self.theta) / (1 + self.theta)

    def restart(self) -> None:
        """Start the sequence again: the momentum was dropped."""


class _Growing(_Constant):
    """Nesterov's sequence, from nothing after each restart."""

    def __init__(self) -> None:
        self._t = 1.0

    def advance(self) -> float:
        t = self._t
        self._t = (1 + math.sqrt(1 + 4 * t * t)) / 2
        return (t - 1) / self._t

    def restart(self) -> None:
        self._t = 1.0


class _Theory(_Constant):
    """theta = sqrt(1 - pi), estimated at steps 0, 4, 16, 64, ..."""

    def __init__(self, solver: LinearSolver, products: int, generator: torch.Generator) -> None:
        self._solver, self._products, self._generator = solver, products, generator
        self._step, self._due, self._scale = 0, 0, 1.0

    def observe(self, y: Point, H: LinearOperator) -> LinearOperator:
        if self._step == self._due:
            self._due = max(4, 4 * self._due)
            self._estimate(y, H)
        self._step += 1
        return H.affine(scale=max(1.0, self._scale))

    def _estimate(self, y: Point, H: LinearOperator) -> None:
        smallest, largest = pencil_extremes(
            y.hessian(),
            lambda r: self._solver(H, r, rtol=_PENCIL_RTOL).x,
            self._products,
            self._generator,
        )
        self._scale = max(1.0, largest)
        self.theta = math.sqrt(min(max(smallest / self._scale, _LEAST), 1.0))
