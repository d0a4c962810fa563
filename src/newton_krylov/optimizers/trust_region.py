"""Trust regions: the model is minimized in a ball whose radius follows the gain ratio."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.optimizers.forcing import Forcing, Outer
from newton_krylov.registry import register

Subproblem = Literal["steihaug", "exact"]

_POOR, _GOOD, _ACCEPTED = 0.25, 0.75, 1e-4
_TRIALS = 60
_HARD = 1e-10
"""A gradient's part along the lowest eigenvectors below this part of it is none: the hard case."""


@dataclass(frozen=True)
class ModelStep:
    """A step in the ball.

    Attributes
    ----------
    p : Tensor, shape (n,)
        The step, no longer than the radius.
    iterations : int
        Products with the curvature.
    inside : bool
        Whether the ball made no difference.
    """

    p: Tensor
    iterations: int
    inside: bool


def steihaug(A: LinearOperator, g: Tensor, radius: float, rtol: float, maxiter: int) -> ModelStep:
    """Minimize g'p + p'A p / 2 in |p| <= radius by conjugate gradients (Steihaug 1983).

    Follows CG until the tolerance is met, and to the boundary where it would leave the ball or
    meets a direction of nonpositive curvature.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    g : Tensor, shape (n,)
        Not zero.
    radius : float
        Above 0.
    rtol : float
        Stop at |g + A p| <= rtol |g|.
    maxiter : int
        Limit of products.

    Returns
    -------
    ModelStep
        Lowers the model at least as much as the best step along -g does.
    """
    p, r = torch.zeros_like(g), -g
    d, rr = r.clone(), euclidean(r) ** 2
    stop = rtol * math.sqrt(rr)
    for number in range(1, maxiter + 1):
        Ad = A @ d
        curvature = float(torch.dot(d, Ad))
        ahead = p + (rr / curvature) * d if curvature > 0 else None
        if ahead is None or not euclidean(ahead) < radius:
            return ModelStep(p + _to_boundary(p, d, radius) * d, number, False)
        p, r = ahead, r - (rr / curvature) * Ad
        before, rr = rr, euclidean(r) ** 2
        if math.sqrt(rr) <= stop:
            return ModelStep(p, number, True)
        d = r + (rr / before) * d
    return ModelStep(p, maxiter, True)


def _to_boundary(p: Tensor, d: Tensor, radius: float) -> float:
    """Return t >= 0 with |p + t d| = radius."""
    dd, pd, pp = map(float, (torch.dot(d, d), torch.dot(p, d), torch.dot(p, p)))
    root = math.sqrt(pd * pd + dd * (radius**2 - pp))
    return (radius**2 - pp) / (pd + root) if pd > 0 else (root - pd) / dd


def exact_step(A: LinearOperator, g: Tensor, radius: float) -> ModelStep:
    """Minimize g'p + p'A p / 2 in |p| <= radius by the eigenvalues of A (Moré and Sorensen 1983).

    The solution has (A + lambda I) p = -g with lambda >= 0, A + lambda I positive semidefinite and
    lambda (radius - |p|) = 0. In the hard case, where g has no part along the lowest eigenvectors
    and p is too short, one of these fills it up.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n; formed.
    g : Tensor, shape (n,)
        The gradient.
    radius : float
        Above 0.

    Returns
    -------
    ModelStep
        The global minimizer.
    """
    values, Q = torch.linalg.eigh(A.dense())
    c, n = Q.T @ g, A.shape[0]
    lowest = float(values[0])
    if lowest > 0 and euclidean(c / values) <= radius:
        return ModelStep(-(Q @ (c / values)), n, True)
    spread = max(float(values.abs().max()), torch.finfo(g.dtype).tiny)
    flat = values - lowest <= torch.finfo(g.dtype).eps * n * spread
    low = max(0.0, -lowest)
    if euclidean(c[flat]) <= _HARD * euclidean(c) and lowest <= 0:
        rest = torch.where(flat, torch.zeros_like(c), c / (values + low).masked_fill(flat, 1.0))
        missing = radius**2 - euclidean(rest) ** 2
        if missing >= 0:
            p = -(Q @ rest) + math.sqrt(missing) * Q[:, 0]
            return ModelStep(p, n, False)
    return ModelStep(-(Q @ (c / (values + _multiplier(values, c, radius, low)))), n, False)


def _multiplier(values: Tensor, c: Tensor, radius: float, low: float) -> float:
    """Solve |(A + lambda I)^-1 g| = radius for lambda > low: Newton's steps between bounds."""
    high = low + euclidean(c) / radius
    shift = high
    for _ in range(200):
        p = c / (values + shift)
        size = euclidean(p)
        if abs(size - radius) <= 1e-12 * radius or high - low <= 1e-16 * high:
            break
        low, high = (shift, high) if size > radius else (low, shift)
        # Newton's method for 1 / |p| = 1 / radius, which is nearly linear in lambda.
        slope = float((p.square() / (values + shift)).sum())
        ahead = shift + (size - radius) / radius * size**2 / slope
        shift = ahead if low < ahead < high else (low + high) / 2
    return shift


class Radius(Memory):
    """The ball's radius; None before the first step."""

    def __init__(self) -> None:
        self.value: float | None = None


@register("optimizer", "trust_region")
class TrustRegion(ContinuedOptimizer[Radius]):
    """Newton's method in a ball (Nocedal and Wright, "Numerical Optimization", algorithm 4.1).

    The model with the chosen curvature is minimized in |p| <= radius. The radius shrinks to a
    quarter of the step where f fell by less than a quarter of what the model promised, and doubles
    where it fell by three quarters and the step met the boundary. Negative curvature is followed
    to the boundary, so saddles are left. The first radius is the length of the best step along the
    gradient.

    Parameters
    ----------
    curvature : Curvature
        What stands for the Hessian.
    forcing : Forcing
        Chooses the tolerance of `steihaug`.
    subproblem : {"steihaug", "exact"}
        By conjugate gradients, or by the eigenvalues of the dense matrix: for small problems.
    """

    def __init__(
        self, curvature: Curvature, forcing: Forcing, subproblem: Subproblem = "steihaug"
    ) -> None:
        self.curvature, self.forcing = curvature, forcing
        self.subproblem: Subproblem = subproblem

    def memory(self, objective: Objective, w0: Tensor) -> Radius:
        """Return no radius yet."""
        return Radius()

    def iterate(
        self, objective: Objective, w0: Tensor, memory: Radius, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where the model promises no decrease beyond rounding."""
        point = objective.at(w0)
        yield Step(point)
        while point.grad_norm > 0:
            A = self.curvature.at(point, generator)
            rtol = self.forcing(Outer(point.grad_norm, None))
            radius = _first(A, point) if memory.value is None else memory.value
            products = 0
            for _ in range(_TRIALS):
                made = self._minimized(A, point, radius, rtol)
                products += made.iterations
                new = objective.at(point.w + made.p)
                promised = -float(torch.dot(point.grad, made.p) + torch.dot(made.p, A @ made.p) / 2)
                gained = point.value - new.value
                rounding = objective.rounding(point.value)
                # Where both are rounding, the model is believed.
                ratio = 1.0 if max(promised, abs(gained)) <= rounding else gained / promised
                size = euclidean(made.p)
                if not ratio >= _POOR:
                    radius = size / 4
                elif ratio > _GOOD and not made.inside:
                    radius *= 2
                if ratio > _ACCEPTED:
                    break
            else:
                return "no step lowers the loss beyond its rounding error"
            memory.value = radius
            if promised <= rounding and new.grad_norm >= point.grad_norm:
                return "no step lowers the loss beyond its rounding error"
            point = new
            yield Step(point, 1.0, products, (f"radius {radius:.3g}",))
        return "the gradient is zero"

    def _minimized(self, A: LinearOperator, point: Point, radius: float, rtol: float) -> ModelStep:
        if self.subproblem == "exact":
            return exact_step(A, point.grad, radius)
        return steihaug(A, point.grad, radius, rtol, 2 * len(point.w) + 10)


def _first(A: LinearOperator, point: Point) -> float:
    """Return the length of the best step along -gradient, or 1 where the curvature sets none."""
    curvature = float(torch.dot(point.grad, A @ point.grad)) / point.grad_norm**2
    return point.grad_norm / curvature if curvature > 0 else 1.0
