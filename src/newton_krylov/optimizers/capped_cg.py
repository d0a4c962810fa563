"""Capped conjugate gradients: a bounded number of products, then a step or negative curvature."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from newton_krylov.norms import euclidean
from newton_krylov.operators import LinearOperator


@dataclass(frozen=True)
class CappedResult:
    """What capped conjugate gradients found.

    Attributes
    ----------
    d : Tensor, shape (n,)
        An approximate solution of (A + 2 eps I) d = -g, or a direction of negative curvature.
    negative : bool
        Which of the two: d'A d < -eps |d|^2.
    iterations : int
        Products with A.
    """

    d: Tensor
    negative: bool
    iterations: int


@dataclass(frozen=True)
class _Iterate:
    """An iterate y, its residual r = B y + g, the next direction p, B p; B = A + 2 eps I."""

    y: Tensor
    r: Tensor
    p: Tensor
    Bp: Tensor
    norm: float
    """The largest |A v| / |v| seen."""


def capped_cg(
    A: LinearOperator, g: Tensor, eps: float, rtol: float, maxiter: int | None = None
) -> CappedResult:
    """Solve (A + 2 eps I) d = -g, or find d with d'A d < -eps |d|^2.

    Royer, O'Neill and Wright, "A Newton-CG algorithm with complexity guarantees for smooth
    unconstrained optimization", Mathematical Programming 180 (2020), algorithm 1. Negative
    curvature shows itself along the directions of conjugate gradients, along the iterates, or by
    convergence that is slower than a definite matrix allows: then one of the differences of
    iterates has it, which a second run finds. The norm of A is learned on the way.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    g : Tensor, shape (n,)
        Not zero.
    eps : float
        Above 0.
    rtol : float
        Stop at |(A + 2 eps I) d + g| <= rtol |g|.
    maxiter : int, optional
        Limit of iterations; 2 n + 10 by default.

    Returns
    -------
    CappedResult
        Where the limit, or rounding, came first, the last iterate.
    """
    start = euclidean(g)
    for number, now in enumerate(_iterates(A, g, eps)):
        size = euclidean(now.r)
        if number > 0 and _below(torch.dot(now.y, now.r - g), now.y, eps):
            return CappedResult(now.y, True, number + 1)
        if size <= rtol * start:
            return CappedResult(now.y, False, number + 1)
        if _below(torch.dot(now.p, now.Bp), now.p, eps):
            return CappedResult(now.p, True, number + 1)
        if number > 0 and math.log(size / start) > _slowest(now.norm, eps, number):
            d = _between(A, g, eps, now, number)
            return CappedResult(now.y if d is None else d, d is not None, 2 * number + 1)
        if number >= (2 * len(g) + 10 if maxiter is None else maxiter):
            break
    return CappedResult(now.y, False, number + 1)


def _iterates(A: LinearOperator, g: Tensor, eps: float) -> Iterator[_Iterate]:
    """Yield the iterates of conjugate gradients from y = 0, whatever the curvature."""
    y, r, p = torch.zeros_like(g), g, -g
    Bp = A @ p + 2 * eps * p
    norm = euclidean(Bp - 2 * eps * p) / euclidean(p)
    while True:
        yield _Iterate(y, r, p, Bp, norm)
        rr, curvature = float(torch.dot(r, r)), float(torch.dot(p, Bp))
        if rr == 0.0 or curvature == 0.0:
            return
        alpha = rr / curvature
        y, r = y + alpha * p, r + alpha * Bp
        beta = float(torch.dot(r, r)) / rr
        p = beta * p - r
        old, Bp = Bp, A @ p + 2 * eps * p
        for v, Bv in ((p, Bp), (y, r - g), (r, beta * old - Bp)):
            length = euclidean(v)
            norm = max(norm, euclidean(Bv - 2 * eps * v) / length) if length > 0 else norm


def _below(curvature: Tensor, v: Tensor, eps: float) -> bool:
    """Return whether v'B v < eps |v|^2."""
    length = euclidean(v)
    return float(curvature) < eps * length * length


def _slowest(norm: float, eps: float, number: int) -> float:
    """Return the logarithm of the largest |r| / |g| that a matrix above eps allows."""
    kappa = (norm + 2 * eps) / eps
    tau = math.sqrt(kappa) / (math.sqrt(kappa) + 1)
    return math.log(2 * kappa**2 / (1 - math.sqrt(tau))) + number / 2 * math.log(tau)


def _between(
    A: LinearOperator, g: Tensor, eps: float, last: _Iterate, number: int
) -> Tensor | None:
    """Return the difference of the last iterate and an earlier one that has negative curvature."""
    for earlier, _ in zip(_iterates(A, g, eps), range(number), strict=False):
        d = last.y - earlier.y
        if _below(torch.dot(d, last.r - earlier.r), d, eps):
            return d
    return None
