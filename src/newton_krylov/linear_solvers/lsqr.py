"""LSQR (Paige and Saunders 1982)."""

import math
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import NORMAL_EQUATIONS
from newton_krylov.linear_solvers.golub_kahan import Bidiagonalization, Problem, minimize
from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.norms import euclidean
from newton_krylov.registry import register


@register("solver", "lsqr", needs=(NORMAL_EQUATIONS,))
def lsqr(
    A: Any,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    M: Any = None,
    damp: NonNegativeFloat = 0.0,
    rtol: NonNegativeFloat = 1e-5,
    atol: NonNegativeFloat = 0.0,
    maxiter: PositiveInt | None = None,
    callback: Callback | None = None,
) -> LinearResult:
    """LSQR: least squares with J itself, by which CG's squared condition number is avoided.

    In exact arithmetic the iterates are those of CG on the normal equations J'J x = J'u. The
    residual |u - J x| falls in every iteration; that of the normal equations, which decides when
    to stop, need not (see `lsmr`).

    Parameters
    ----------
    A, b, x0, M, damp, rtol, atol, maxiter, callback
        As in `lsmr`.

    Returns
    -------
    LinearResult
        As in `lsmr`.
    """
    problem = Problem(
        A, b, x0, M=M, damp=damp, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback
    )
    return minimize(problem, _cycle)


def _cycle(s: Problem, B: Bidiagonalization) -> Status:
    """Iterate from s.x; R is the upper bidiagonal factor of B, one column a step."""
    phi_bar, rho_bar, w = B.beta, B.alpha, B.v.clone()
    while True:
        B.step()
        rho = math.hypot(rho_bar, B.beta)
        if not math.isfinite(rho + B.alpha):
            return Status.BREAKDOWN
        if rho == 0.0:
            return Status.CONVERGED
        c, sine = rho_bar / rho, B.beta / rho
        phi, phi_bar = c * phi_bar, sine * phi_bar
        s.d.add_(w, alpha=phi / rho)
        w.mul_(-sine * B.alpha / rho).add_(B.v)
        rho_bar = -c * B.alpha
        gradient = phi_bar * B.alpha * abs(c)
        if s.N is not None:  # it is a multiple of the last column of N^-1 V
            gradient *= euclidean(B.p)
        if status := s.advance(B, gradient):
            return status
