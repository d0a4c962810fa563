"""Least squares by the QR factors of J itself."""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.exact import Factors, refine
from newton_krylov.linear_solvers.golub_kahan import posed_by
from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System
from newton_krylov.operators import LeastSquares
from newton_krylov.rectangular import NormalOperator
from newton_krylov.registry import register


@register("solver", "qr")
def qr(
    A: Any,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    M: Any = None,
    damp: NonNegativeFloat = 0.0,
    rtol: NonNegativeFloat = 1e-10,
    atol: NonNegativeFloat = 0.0,
    maxiter: PositiveInt | None = None,
    callback: Callback | None = None,
) -> LinearResult:
    """Direct least squares by Householder's QR factors, which never squares the condition number.

    Takes what `lsmr` takes: a rectangular matrix, a Gauss-Newton operator with the gradient of its
    residuals on the right (the factors are then those of [J; sqrt(tau) I]), or any other square
    matrix. Where the matrix is singular within rounding, or has fewer rows than columns, its
    singular values give the shortest solution.

    Parameters
    ----------
    A : operator or matrix, m by n
        Formed, dense.
    b : Tensor, shape (m,)
        Right side; float32 or float64.
    x0 : Tensor, shape (n,), optional
        Start: the difference from it is solved for.
    M : operator, matrix or function v -> M v, optional
        Not used: a direct method needs no preconditioner.
    damp : float
        The square root of the damping.
    rtol, atol : float
        As of `lsmr`; expected of the solution.
    maxiter : int, optional
        Limit of solves with the factors: the first one and refinements; 3 by default.
    callback : callable, optional
        Called with (x, residual norm) after every solve.

    Returns
    -------
    LinearResult
        As of `exact`.
    """
    problem = posed_by(A, b, damp)
    if problem is not None:
        A = NormalOperator(problem.J, problem.u, problem.shift)
        b = A.b
    system = System(
        A, b, x0, rtol=rtol, atol=atol, maxiter=maxiter or 3, callback=callback,
        method="qr", symmetric=False,
    )  # fmt: skip
    if status := system.judge_start():
        return system.result(status)
    problem = problem or system.A.least_squares(system.b)
    matrix = system.A.dense().detach() if problem is None else _stacked(problem)
    if not bool(torch.isfinite(matrix).all()):
        return system.result(Status.BREAKDOWN)
    solve, transposed, singular = _factors(matrix)
    if problem is None:
        return refine(system, Factors(solve, singular))
    u = torch.cat((problem.u, system.b.new_zeros(len(matrix) - len(problem.u))))
    pending = [u - matrix @ system.x]

    def step(r: Tensor) -> Tensor:
        """Solve with J and what is left of u, then, to refine, with J'J by its factors."""
        found: Tensor = solve(pending.pop() if pending else transposed(r))
        return found

    return refine(system, Factors(step))


def _stacked(problem: LeastSquares) -> Tensor:
    """Return [J; sqrt(shift) I], or J where there is no shift."""
    J = problem.J.dense().detach()
    if problem.shift == 0:
        return J
    eye = torch.eye(J.shape[1], dtype=J.dtype, device=J.device)
    return torch.cat((J, math.sqrt(problem.shift) * eye))


def _factors(matrix: Tensor) -> Any:
    """Return v -> A^+ v, v -> A^+' v, and whether the columns depend on each other."""
    m, n = matrix.shape
    eps = torch.finfo(matrix.dtype).eps
    if m >= n:
        Q, R = torch.linalg.qr(matrix)
        sizes = R.diagonal().abs()
        if n == 0 or float(sizes.min()) > max(m, n) * eps * float(sizes.max()):
            return (
                lambda v: torch.linalg.solve_triangular(R, (Q.T @ v)[:, None], upper=True)[:, 0],
                lambda v: Q @ torch.linalg.solve_triangular(R.T, v[:, None], upper=False)[:, 0],
                False,
            )
    U, values, Vh = torch.linalg.svd(matrix, full_matrices=False)
    keep = values > max(m, n) * eps * values[0]
    inverse = torch.where(keep, values, torch.inf).reciprocal()
    singular = not bool(keep.all())
    return (
        lambda v: Vh.T @ (inverse * (U.T @ v)),
        lambda v: U @ (inverse * (Vh @ v)),
        singular,
    )
