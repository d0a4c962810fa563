"""Least squares by the QR factors of J itself."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import NORMAL_EQUATIONS
from newton_krylov.linear_solvers.golub_kahan import Problem
from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.registry import register


@register("solver", "qr", needs=(NORMAL_EQUATIONS,))
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

    Takes what `lsmr` takes. The factors are of J, or of [J; damp I]; where the columns depend on
    each other within rounding, or outnumber the rows, singular values give the shortest solution.

    Parameters
    ----------
    A, b
        As in `lsmr`; the matrix is formed, dense.
    x0 : Tensor, shape (n,), optional
        Start: the difference from it is solved for.
    M : operator, matrix or function v -> M v, optional
        Not used: a direct method needs no preconditioner.
    damp : float
        The square root of the damping.
    rtol, atol : float
        As in `lsmr`; expected of the solution.
    maxiter : int, optional
        Limit of solves with the factors: the first one and refinements; 3 by default.
    callback : callable, optional
        Called with (x, residual norm) after every solve.

    Returns
    -------
    LinearResult
        As in `lsmr`.
    """
    problem = Problem(
        A, b, x0, M=None, damp=damp, rtol=rtol, atol=atol, maxiter=maxiter or 3, callback=callback
    )
    status, norm = Status.STAGNATED, problem.norms[0]
    matrix = problem.J.dense().detach()
    if not (math.isfinite(norm) and bool(torch.isfinite(matrix).all())):
        problem.x = torch.zeros_like(problem.x)
        status, problem.maxiter = Status.BREAKDOWN, 0
    solve = _inverse(matrix) if problem.maxiter else None
    while solve is not None and norm > problem.threshold and problem.iterations < problem.maxiter:
        before, problem.d = problem.x.clone(), solve(problem.residual())
        end = problem.close()
        if problem.iterations > 0 and not end < norm:  # nothing is left to refine
            problem.x = before
            break
        problem.record(end)
        norm = end
    return problem.result(Status.CONVERGED if norm <= problem.threshold else status)


def _inverse(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """Return v -> A^+ v: by QR factors, or singular values where columns depend on each other."""
    m, n = matrix.shape
    eps = torch.finfo(matrix.dtype).eps
    if m >= n:
        Q, R = torch.linalg.qr(matrix)
        sizes = R.diagonal().abs()
        if n == 0 or float(sizes.min()) > max(m, n) * eps * float(sizes.max()):
            return lambda v: torch.linalg.solve_triangular(R, (Q.T @ v)[:, None], upper=True)[:, 0]
    U, values, Vh = torch.linalg.svd(matrix, full_matrices=False)
    keep = values > max(m, n) * eps * values[0]
    inverse = torch.where(keep, values, torch.inf).reciprocal()
    return lambda v: Vh.T @ (inverse * (U.T @ v))
