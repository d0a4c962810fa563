"""Regularized Newton's method with capped conjugate gradients, which needs no parameter."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.optimizers.capped_cg import capped_cg
from newton_krylov.optimizers.forcing import Forcing, Outer
from newton_krylov.optimizers.model_step import first_radius
from newton_krylov.optimizers.saddle import negative_curvature
from newton_krylov.registry import register

_DECREASE = 0.3
"""Share of the promised decrease to insist on: the paper's mu."""
_PROFIT = 0.1
"""Share of |g|^(3/2) / sqrt(M) from which a decrease says that M is too large."""
_CHANGE = 5.0
_HALVINGS = 60


class _Memory(Memory):
    """M, an estimate of the Hessian's Lipschitz constant, and |g| one step before."""

    def __init__(self) -> None:
        self.M: float | None = None
        self.before: float | None = None


@dataclass(frozen=True)
class _Move:
    """Where a direction led: the point, the step size, how M was, products, what it was."""

    point: Point
    alpha: float
    factor: float
    products: int
    note: tuple[str, ...] = ()


@register("optimizer", "regularized_newton")
class RegularizedNewton(ContinuedOptimizer[_Memory]):
    """Newton's method regularized by its gradient, with capped conjugate gradients (ARNCG).

    Zhou, Xu, Li, Bao, Ding and Zhu, "A regularized Newton method for nonconvex optimization with
    global and local complexity guarantees" (2025): a step solves (H + 2 rho I) d = -g by
    conjugate gradients that watch for negative curvature (Royer, O'Neill and Wright 2020), with
    rho = sqrt(M |g|) min(1, |g| / |g before|). M estimates the Lipschitz constant of H: it grows
    where the full step is too long, and falls where the loss falls by more than that rho explains.
    If the gradient grows, the step is made again without the last factor, which is there for
    quadratic convergence. Directions of negative curvature are followed as far as M allows; at a
    saddle point Lanczos's process looks for one. Simpler than the paper's in how M changes; the
    first M is |g| over the square of the best step along -g, so no unit changes anything.

    Parameters
    ----------
    curvature : Curvature
        What stands for the Hessian.
    forcing : Forcing
        Chooses the tolerance of the conjugate gradients.
    """

    def __init__(self, curvature: Curvature, forcing: Forcing) -> None:
        self.curvature, self.forcing = curvature, forcing

    def memory(self, objective: Objective, w0: Tensor) -> _Memory:
        """Return what nothing is known of."""
        return _Memory()

    def iterate(
        self, objective: Objective, w0: Tensor, memory: _Memory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where neither a step nor negative curvature lowers the loss."""
        point = objective.at(w0)
        yield Step(point)
        while True:
            A = self.curvature.at(point, generator)
            g = point.grad_norm
            if memory.M is None:
                memory.M = (g or 1.0) / first_radius(A, point.grad, point.w) ** 2
            if g == 0.0:
                d = negative_curvature(A, generator)
                if d is None:
                    return "the gradient is zero and the curvature is not negative"
                move = _along_curvature(point, A, d, memory.M, 0)
            else:
                move = self._moved(point, A, memory.M, memory.before)
            if move is None:
                return "no step lowers the loss beyond its rounding error"
            memory.M = max(memory.M * move.factor, torch.finfo(torch.float64).tiny)
            memory.before, point = g, move.point
            yield Step(point, move.alpha, move.products, move.note)

    def _moved(
        self, point: Point, A: LinearOperator, M: float, before: float | None
    ) -> _Move | None:
        g, rtol = point.grad_norm, self.forcing(Outer(point.grad_norm, None))
        rho = math.sqrt(M) * math.sqrt(g)  # each by itself: their product may overflow
        falling = 1.0 if before is None else min(1.0, g / before)
        move = self._tried(point, A, M, rho * falling, rtol)
        if falling < 1 and (move is None or not move.point.grad_norm <= g):
            return self._tried(point, A, M, rho, rtol) or move
        return move

    def _tried(
        self, point: Point, A: LinearOperator, M: float, rho: float, rtol: float
    ) -> _Move | None:
        """Make a step with this regularization."""
        rho = max(rho, torch.finfo(A.dtype).tiny)
        found = capped_cg(A, point.grad, rho, rtol)
        if found.negative:
            return _along_curvature(point, A, found.d, M, found.iterations)
        slope, rounding = (
            float(torch.dot(point.grad, found.d)),
            point.objective.rounding(point.value),
        )
        ray, alpha = point.ray(found.d), 1.0
        for _ in range(_HALVINGS):
            gained = point.value - ray.value(alpha)
            if gained >= -_DECREASE * alpha * slope - rounding:
                if not gained > 0 and ray.point(alpha).grad_norm >= point.grad_norm:
                    return None
                g = point.grad_norm
                profit = gained * math.sqrt(M) / math.sqrt(g) >= _PROFIT * g
                factor = _CHANGE if alpha < 1 else 1 / _CHANGE if profit else 1.0
                return _Move(ray.point(alpha), alpha, factor, found.iterations)
            alpha /= 2
        return None


def _along_curvature(
    point: Point, A: LinearOperator, d: Tensor, M: float, products: int
) -> _Move | None:
    """Follow a direction of negative curvature -c, downhill, by c / M or less."""
    d = d / euclidean(d)
    curvature = -float(torch.dot(d, A @ d))
    d = -d if float(torch.dot(point.grad, d)) > 0 else d
    ray, rounding = point.ray(d * (curvature / M)), point.objective.rounding(point.value)
    alpha, factor = 1.0, 1 / _CHANGE
    for _ in range(_HALVINGS):
        promised = curvature * (alpha * curvature / M) ** 2 / 2
        gained = point.value - ray.value(alpha)
        if gained >= _DECREASE * promised and gained > rounding:
            return _Move(ray.point(alpha), alpha, factor, products, ("along negative curvature",))
        alpha, factor = alpha / 2, _CHANGE
    return None
