"""Direct solution: closed form, Cholesky, symmetric eigenvalues or LU."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System
from newton_krylov.norms import euclidean
from newton_krylov.operators import MatrixOperator
from newton_krylov.registry import register


@register("solver", "exact", uses=())
def exact(
    A: Any,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    M: Any = None,
    rtol: NonNegativeFloat = 1e-10,
    atol: NonNegativeFloat = 0.0,
    maxiter: PositiveInt | None = None,
    callback: Callback | None = None,
) -> LinearResult:
    """Direct solve: Cholesky of the dense matrix, or the operator's closed form.

    Tried in this order: the operator's own closed-form `solve`; Cholesky; where that fails on a
    symmetric matrix, its eigenvalues, which give the solution, or the minimum-length
    least-squares solution if A is singular, and the direction of most negative curvature; LU for
    a nonsymmetric matrix, and its singular values if it is singular. A solution whose residual
    misses the tolerance is refined.

    Parameters
    ----------
    A : operator or matrix, n by n
        Anything `operators.as_operator` takes.
    b : Tensor, shape (n,)
        Right side; float32 or float64.
    x0 : Tensor, shape (n,), optional
        Start: A dx = b - A x0 is solved.
    M : operator, matrix or function v -> M v, optional
        Not used: a direct method needs no preconditioner.
    rtol, atol : float
        |b - A x| <= max(rtol |b|, atol) is expected of the solution.
    maxiter : int, optional
        Limit of solves with the factors: the first one and refinements; 3 by default.
    callback : callable, optional
        Called with (x, residual norm) after every solve.

    Returns
    -------
    LinearResult
        With a matrix that is not positive definite, `x` solves the system all the same, the
        status is `NEGATIVE_CURVATURE` and `direction` is the eigenvector of the smallest
        eigenvalue, signed so that b'd >= 0.
    """
    system = System(
        A, b, x0, rtol=rtol, atol=atol, maxiter=maxiter or 3, callback=callback,
        method="exact", symmetric=False,
    )  # fmt: skip
    if status := system.judge_start():
        return system.result(status)
    factors = _factorize(system)
    if factors is None:
        return system.result(Status.BREAKDOWN)
    return refine(system, factors)


@dataclass(frozen=True)
class Factors:
    """A^-1 (or its pseudo-inverse) as a function, and what the factorization found.

    Attributes
    ----------
    solve : callable
        r, shape (n,), to A^-1 r.
    singular : bool
        Whether A is singular within rounding.
    direction : Tensor or None, shape (n,)
        Of negative curvature.
    """

    solve: Callable[[Tensor], Tensor]
    singular: bool = False
    direction: Tensor | None = None


def refine(s: System, factors: Factors) -> LinearResult:
    """Solve for the residual until the tolerance is met or refining gains nothing.

    Parameters
    ----------
    s : System
        Fresh.
    factors : Factors
        Of its matrix.

    Returns
    -------
    LinearResult
        With the direction of negative curvature that the factors found, if they did.
    """
    status = Status.STAGNATED
    while s.iterations < s.maxiter:
        dx = factors.solve(s.r)
        if not math.isfinite(euclidean(dx)):
            status = Status.BREAKDOWN
            break
        before, s.x = s.x, s.x + dx
        norm = s.true_residual()
        if s.iterations > 0 and not norm < s.norms[-1]:
            s.x = before
            break
        if s.advance(norm, 0.0) is Status.CONVERGED:
            status = Status.CONVERGED
            break
    rounding = s.n * s.eps * s.norm_A * euclidean(s.x)
    if status is Status.STAGNATED and factors.singular and s.norms[-1] > rounding:
        status = Status.LEAST_SQUARES
    direction = factors.direction
    if direction is None and s.norms[-1] <= s.threshold and torch.dot(s.b, s.x).item() < 0.0:
        direction = -s.x  # x'A x = b'x < 0: the solution itself is the witness
    if direction is None:
        return s.result(status)
    s.direction = -direction if torch.dot(direction, s.b).item() < 0.0 else direction
    return s.result(Status.NEGATIVE_CURVATURE)


def _factorize(s: System) -> Factors | None:
    """Choose and run the factorization; None where the matrix is not finite."""
    A = s.A
    if A.has_solve:
        return Factors(lambda r: A.solve(r).detach())
    matrix = A.dense().detach()
    s.A = MatrixOperator(matrix, symmetric=s.A.symmetric)  # residuals of what is solved
    size = matrix.abs().max().item()
    if not math.isfinite(size):
        return None
    if not s.A.symmetric or (matrix - matrix.T).abs().max().item() > math.sqrt(s.eps) * size:
        return _general(matrix, s)
    return _cholesky(matrix, s) or _eigenvalues(matrix, s)


def _cholesky(matrix: Tensor, s: System) -> Factors | None:
    """Cholesky; None where the matrix is not safely positive definite."""
    L, info = torch.linalg.cholesky_ex(matrix)
    pivots = L.diagonal()
    failed, smallest, largest = torch.stack((info.to(L.dtype), pivots.min(), pivots.max())).tolist()
    if failed or not smallest**2 > s.n * s.eps * largest**2:
        return None
    return Factors(lambda r: torch.cholesky_solve(r.unsqueeze(1), L).squeeze(1))


def _eigenvalues(matrix: Tensor, s: System) -> Factors:
    """Eigenvalues: indefinite and singular symmetric matrices."""
    values, Q = torch.linalg.eigh(matrix)
    inverse, singular, zero = _pseudo_inverse(values, s)
    direction = Q[:, 0].clone() if values[0].item() < -zero else None
    return Factors(lambda r: Q @ ((Q.T @ r) * inverse), singular, direction)


def _general(matrix: Tensor, s: System) -> Factors:
    """LU, and singular values where a pivot is zero within rounding."""
    LU, pivots, info = torch.linalg.lu_factor_ex(matrix)
    sizes = LU.diagonal().abs()
    failed, smallest, largest = torch.stack((info.to(LU.dtype), sizes.min(), sizes.max())).tolist()
    if not failed and smallest > s.n * s.eps * largest:
        return Factors(lambda r: torch.linalg.lu_solve(LU, pivots, r.unsqueeze(1)).squeeze(1))
    U, values, Vh = torch.linalg.svd(matrix)
    inverse, singular, _ = _pseudo_inverse(values, s)
    return Factors(lambda r: Vh.T @ ((U.T @ r) * inverse), singular)


def _pseudo_inverse(values: Tensor, s: System) -> tuple[Tensor, bool, float]:
    """Invert all but the values that are zero within rounding."""
    s.norm_A = values.abs().max().item()
    zero = s.n * s.eps * s.norm_A
    keep = values.abs() > zero
    inverse = torch.where(keep, values, torch.inf).reciprocal()
    return inverse, not bool(keep.all()), zero
