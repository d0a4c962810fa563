"""LSMR (Fong and Saunders 2011)."""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import NORMAL_EQUATIONS
from newton_krylov.linear_solvers.golub_kahan import Bidiagonalization, Problem, minimize
from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.registry import register


@register("solver", "lsmr", needs=(NORMAL_EQUATIONS,))
def lsmr(
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
    """LSMR: least squares with J itself; the residual of the normal equations always falls.

    Of an m by n matrix J, the minimizer of |J x - b|^2 + damp^2 |x|^2 is found. Of a Gauss-Newton
    operator J'J + tau I with the gradient of its own residuals on the right, the same with its J,
    so that the condition number is that of J and not its square; that is what `solver=lsmr` does
    for residual objectives.

    In exact arithmetic the iterates are those of MINRES on the normal equations.

    Parameters
    ----------
    A : operator or matrix, m by n
        A matrix of torch, NumPy or SciPy, a `RectangularOperator`, a SciPy operator with its
        transpose, or a Gauss-Newton operator.
    b : Tensor, shape (m,)
        Right side; float32 or float64. Of a Gauss-Newton operator the gradient or its negative,
        shape (n,).
    x0 : Tensor, shape (n,), optional
        Start; zero by default.
    M : operator, matrix or function v -> M v, optional
        Symmetric positive definite, near (J'J + damp^2 I)^-1.
    damp : float
        The square root of the damping, as in SciPy.
    rtol, atol : float
        Stop at |J'(b - J x) - damp^2 x| <= max(rtol |J'b|, atol), the residual of the normal
        equations.
    maxiter : int, optional
        Limit of iterations; 10 n by default. One of them takes a product with A and one with A'.
    callback : callable, optional
        Called with (x, residual norm) after every iteration; x is updated in place later.

    Returns
    -------
    LinearResult
        The residual norms are those that decide (see `rtol`).

    Raises
    ------
    UnsupportedError
        For a square operator that knows no least-squares problem, or another one than b's.
    """
    problem = Problem(
        A, b, x0, M=M, damp=damp, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback
    )
    return minimize(problem, _cycle)


def _cycle(s: Problem, B: Bidiagonalization) -> Status:
    """Iterate from s.x: the QR factors of B, and of its R, one column a step."""
    first, begin = B.alpha * B.beta, s.norms[-1]
    zeta_bar, alpha_bar = first, B.alpha
    rho = rho_bar = c_bar = 1.0
    s_bar = 0.0
    h, h_bar = B.v.clone(), torch.zeros_like(B.v)
    while True:
        B.step()
        rho_old, rho = rho, math.hypot(alpha_bar, B.beta)
        if not math.isfinite(rho + B.alpha):
            return Status.BREAKDOWN
        if rho == 0.0:
            return Status.CONVERGED
        c, sine = alpha_bar / rho, B.beta / rho
        theta, alpha_bar = sine * B.alpha, c * B.alpha
        rho_bar_old, theta_bar = rho_bar, s_bar * rho
        rho_bar = math.hypot(c_bar * rho, theta)
        if rho_bar == 0.0:
            return Status.CONVERGED
        c_bar, s_bar = c_bar * rho / rho_bar, theta / rho_bar
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar
        h_bar.mul_(-theta_bar * rho / (rho_old * rho_bar_old)).add_(h)
        s.d.add_(h_bar, alpha=zeta / (rho * rho_bar))
        h.mul_(-theta / rho).add_(B.v)
        # With a preconditioner an estimate, which the end of the cycle looks at.
        gradient = abs(zeta_bar) if s.N is None else begin * abs(zeta_bar) / first
        if status := s.advance(B, gradient):
            return status
