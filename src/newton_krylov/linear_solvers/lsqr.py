"""LSQR (Paige and Saunders 1982)."""

import math
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.golub_kahan import (
    Bidiagonalization,
    Posed,
    blocked,
    solve_least_squares,
)
from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System
from newton_krylov.norms import euclidean
from newton_krylov.registry import register


@register("solver", "lsqr")
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
        As of `lsmr`.

    Returns
    -------
    LinearResult
        As of `lsmr`.
    """
    return solve_least_squares(
        _cycle, A, b, x0, M=M, damp=damp, rtol=rtol, atol=atol, maxiter=maxiter,
        callback=callback, method="lsqr",
    )  # fmt: skip


def _cycle(s: System, posed: Posed) -> Status:
    """Iterate from s.x; R is the upper bidiagonal factor of B, one column a step."""
    B = Bidiagonalization(posed, posed.residual())
    if status := blocked(B):
        return status
    phi_bar, rho_bar, w = B.beta, B.alpha, B.v.clone()
    while True:
        B.step()
        rho = math.hypot(rho_bar, B.beta)
        if not math.isfinite(rho + B.alpha):
            return posed.end(Status.BREAKDOWN)
        if rho == 0.0:
            return posed.end(Status.LEAST_SQUARES)
        c, sine = rho_bar / rho, B.beta / rho
        phi, phi_bar = c * phi_bar, sine * phi_bar
        posed.d.add_(w, alpha=phi / rho)
        step = abs(phi / rho) * euclidean(w)
        w.mul_(-sine * B.alpha / rho).add_(B.v)
        rho_bar = -c * B.alpha
        gradient = phi_bar * B.alpha * abs(c)
        # The gradient is a multiple of the last column of N^-1 V, so its own norm is at hand.
        plain = gradient if posed.N is None else phi_bar * B.alpha * abs(c) * euclidean(B.p)
        if status := posed.advance(B, phi_bar, gradient, plain, step):
            return status
