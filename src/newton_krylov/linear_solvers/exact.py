"""Direct solution: closed form, Cholesky, symmetric eigenvalues or LU."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from newton_krylov.linear_solvers.method import linear_solver
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.linear_solvers.system import System
from newton_krylov.norms import euclidean, exponent, scaled_by_power
from newton_krylov.operators import MatrixOperator


@linear_solver(
    "exact",
    symmetric=False,
    uses=(),
    M="Not used: a direct method needs no preconditioner.",
    rtol=1e-10,
    solves=3,
    maxiter="Limit of solves with the factors: the first one and refinements; 3 by default.",
)
def exact(s: System) -> LinearResult:
    """Direct solve: Cholesky of the dense matrix, or the operator's closed form.

    Tried in this order: the operator's own closed-form `solve`; Cholesky; where that fails on a
    symmetric matrix, its eigenvalues, which give the solution, or the minimum-length
    least-squares solution if A is singular, and the direction of most negative curvature; LU for
    a nonsymmetric matrix, and its singular values if it is singular. A solution whose residual
    misses the tolerance is refined. With a symmetric matrix that is not positive definite, `x`
    solves the system all the same (see `converged`), the status is `NEGATIVE_CURVATURE` and
    `direction` is the eigenvector of the smallest eigenvalue, signed so that b'd >= 0.
    """
    if status := s.judge_start():
        return s.result(status)
    factors = _factorize(s)
    if factors is None:
        return s.result(Status.BREAKDOWN)
    return _refine(s, factors)


@dataclass(frozen=True)
class _Factors:
    """A^-1 (or its pseudo-inverse) as a function, and what the factorization found."""

    solve: Callable[[Tensor], Tensor]
    symmetric: bool = False
    singular: bool = False
    direction: Tensor | None = None


def _opposed(u: Tensor, v: Tensor) -> bool:
    """Return whether u'v < 0, whatever the sizes of u and v."""
    u, v = (scaled_by_power(w, -exponent(w)) for w in (u, v))
    return torch.dot(u, v).item() < 0.0


def _refine(s: System, factors: _Factors) -> LinearResult:
    """Solve for the residual until the tolerance is met or refining gains nothing."""
    status = Status.STAGNATED
    while s.iterations < s.maxiter:
        before = s.x
        s.x = s.x + s.in_units(factors.solve(s.r))
        if not math.isfinite(euclidean(s.x)):
            s.x, status = before, Status.BREAKDOWN
            break
        norm = s.true_residual()
        if not norm < s.norms[-1] and not (s.iterations == 0 and norm == s.norms[-1]):
            s.x = before
            break
        if s.advance(norm, 0.0) is Status.CONVERGED:
            status = Status.CONVERGED
            break
    rounding = s.n * s.eps * s.norm_A * euclidean(s.x)
    if status is Status.STAGNATED and factors.singular and s.norms[-1] > rounding:
        status = Status.LEAST_SQUARES
    direction = factors.direction
    if (
        direction is None
        and factors.symmetric
        and s.norms[-1] <= s.threshold
        and _opposed(s.x, s.b)
    ):
        direction = -s.x  # x'A x = b'x < 0: the solution itself is the witness
    if direction is None:
        return s.result(status)
    s.direction = -direction if _opposed(direction, s.b) else direction
    return s.result(Status.NEGATIVE_CURVATURE)


def _factorize(s: System) -> _Factors | None:
    """Choose and run the factorization; None where the matrix is not finite."""
    A = s.A
    if A.has_solve:
        return _Factors(lambda r: A.solve(r).detach(), A.symmetric)
    matrix = A.dense().detach()
    s.A = MatrixOperator(matrix, symmetric=s.A.symmetric)  # residuals of what is solved
    size = matrix.abs().max().item()
    if not math.isfinite(size):
        return None
    if not s.A.symmetric or (matrix - matrix.T).abs().max().item() > math.sqrt(s.eps) * size:
        return _general(matrix, s)
    return _cholesky(matrix, s) or _eigenvalues(matrix, s)


def _cholesky(matrix: Tensor, s: System) -> _Factors | None:
    """Cholesky; None where the matrix is not safely positive definite."""
    L, info = torch.linalg.cholesky_ex(matrix)
    pivots = L.diagonal()
    failed, smallest, largest = torch.stack((info.to(L.dtype), pivots.min(), pivots.max())).tolist()
    if failed or not smallest**2 > s.n * s.eps * largest**2:
        return None
    return _Factors(lambda r: torch.cholesky_solve(r.unsqueeze(1), L).squeeze(1))


def _eigenvalues(matrix: Tensor, s: System) -> _Factors:
    """Eigenvalues: indefinite and singular symmetric matrices."""
    values, Q = torch.linalg.eigh(matrix)
    inverse, singular, zero = _pseudo_inverse(values, s)
    direction = Q[:, 0].clone() if values[0].item() < -zero else None
    return _Factors(lambda r: Q @ ((Q.T @ r) * inverse), True, singular, direction)


def _general(matrix: Tensor, s: System) -> _Factors:
    """LU, and singular values where a pivot is zero within rounding."""
    LU, pivots, info = torch.linalg.lu_factor_ex(matrix)
    sizes = LU.diagonal().abs()
    failed, smallest, largest = torch.stack((info.to(LU.dtype), sizes.min(), sizes.max())).tolist()
    if not failed and smallest > s.n * s.eps * largest:
        return _Factors(lambda r: torch.linalg.lu_solve(LU, pivots, r.unsqueeze(1)).squeeze(1))
    U, values, Vh = torch.linalg.svd(matrix)
    inverse, singular, _ = _pseudo_inverse(values, s)
    return _Factors(lambda r: Vh.T @ ((U.T @ r) * inverse), singular=singular)


def _pseudo_inverse(values: Tensor, s: System) -> tuple[Tensor, bool, float]:
    """Invert all but the values that are zero within rounding."""
    s.norm_A = values.abs().max().item()
    zero = s.n * s.eps * s.norm_A
    keep = values.abs() > zero
    inverse = torch.where(keep, values, torch.inf).reciprocal()
    return inverse, not bool(keep.all()), zero
