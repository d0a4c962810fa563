"""LSMR (Fong and Saunders 2011)."""

import math
from typing import Any

import torch
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


@register("solver", "lsmr")
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

    Three kinds of systems are taken. Of a rectangular matrix J, the minimizer of
    |J x - b|^2 + damp^2 |x|^2 is found. Of a Gauss-Newton operator J'J + tau I with the gradient
    of its own residuals on the right, the same with J, so that the condition number is that of J
    and not its square; that is what `solver=lsmr` does for residual objectives. Any other square
    system A x = b is solved by products with A and A'.

    In exact arithmetic the iterates are those of MINRES on the normal equations.

    Parameters
    ----------
    A : operator or matrix, m by n
        Anything `operators.as_operator` or `rectangular.as_rectangular` takes.
    b : Tensor, shape (m,)
        Right side; float32 or float64.
    x0 : Tensor, shape (n,), optional
        Start; zero by default.
    M : operator, matrix or function v -> M v, optional
        Symmetric positive definite. For least squares near (J'J + damp^2 I)^-1, for a square
        system near A^-1.
    damp : float
        The square root of the damping, as in SciPy.
    rtol, atol : float
        Stop at a residual <= max(rtol |b|, atol); for least squares that of the normal equations,
        |J'(b - J x) - damp^2 x|, with |J'b| in the place of |b|.
    maxiter : int, optional
        Limit of iterations; 10 n by default. One of them takes a product with A and one with A'.
    callback : callable, optional
        Called with (x, residual norm) after every iteration; x is updated in place later.

    Returns
    -------
    LinearResult
        `LEAST_SQUARES` where b is outside the range of a square A. The residual norms are those
        that decide (see `rtol`).

    Raises
    ------
    UnsupportedError
        If A is not symmetric and has no product with its transpose.
    """
    return solve_least_squares(
        _cycle, A, b, x0, M=M, damp=damp, rtol=rtol, atol=atol, maxiter=maxiter,
        callback=callback, method="lsmr",
    )  # fmt: skip


def _cycle(s: System, posed: Posed) -> Status:
    """Iterate from s.x: the QR factors of B, and of its R, one column a step."""
    B = Bidiagonalization(posed, posed.residual())
    if status := blocked(B):
        return status
    residual = _ResidualNorm(B.beta)
    first, begin = B.alpha * B.beta, s.norms[-1]
    zeta_bar, alpha_bar = first, B.alpha
    rho = rho_bar = c_bar = 1.0
    s_bar = 0.0
    h, h_bar = B.v.clone(), torch.zeros_like(B.v)
    while True:
        B.step()
        rho_old, rho = rho, math.hypot(alpha_bar, B.beta)
        if not math.isfinite(rho + B.alpha):
            return posed.end(Status.BREAKDOWN)
        if rho == 0.0:
            return posed.end(Status.LEAST_SQUARES)
        c, sine = alpha_bar / rho, B.beta / rho
        theta, alpha_bar = sine * B.alpha, c * B.alpha
        rho_bar_old, theta_bar = rho_bar, s_bar * rho
        rho_bar = math.hypot(c_bar * rho, theta)
        if rho_bar == 0.0:
            return posed.end(Status.LEAST_SQUARES)
        c_bar, s_bar = c_bar * rho / rho_bar, theta / rho_bar
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar
        h_bar.mul_(-theta_bar * rho / (rho_old * rho_bar_old)).add_(h)
        posed.d.add_(h_bar, alpha=zeta / (rho * rho_bar))
        step = abs(zeta / (rho * rho_bar)) * euclidean(h_bar)
        h.mul_(-theta / rho).add_(B.v)
        norm = residual.update(c, sine, theta_bar, rho_bar, zeta)
        gradient = abs(zeta_bar)
        plain = gradient if posed.N is None else begin * gradient / first
        if status := posed.advance(B, norm, gradient, plain, step):
            return status


class _ResidualNorm:
    """|u - A x| along the iteration (Fong and Saunders 2011, section 5.2)."""

    def __init__(self, beta: float) -> None:
        self._beta_dd, self._beta_d = beta, 0.0
        self._rho_d, self._tau, self._theta, self._zeta = 1.0, 0.0, 0.0, 0.0

    def update(self, c: float, s: float, theta_bar: float, rho_bar: float, zeta: float) -> float:
        """Return the norm after a step with these rotations."""
        beta_hat, self._beta_dd = c * self._beta_dd, -s * self._beta_dd
        rho_tilde = math.hypot(self._rho_d, theta_bar)
        c_tilde, s_tilde = self._rho_d / rho_tilde, theta_bar / rho_tilde
        theta_old, self._theta = self._theta, s_tilde * rho_bar
        self._rho_d = c_tilde * rho_bar
        self._beta_d = -s_tilde * self._beta_d + c_tilde * beta_hat
        self._tau = (self._zeta - theta_old * self._tau) / rho_tilde
        last = (zeta - self._theta * self._tau) / self._rho_d if self._rho_d else 0.0
        self._zeta = zeta
        return math.hypot(self._beta_d - last, self._beta_dd)
