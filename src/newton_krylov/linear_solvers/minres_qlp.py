"""MINRES-QLP (Choi, Paige and Saunders 2011)."""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.linear_solvers.tridiagonal import NegativeCurvature, TridiagonalQR
from newton_krylov.registry import register


@register("solver", "minres_qlp")
def minres_qlp(
    A: Any,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    M: Any = None,
    rtol: NonNegativeFloat = 1e-5,
    atol: NonNegativeFloat = 0.0,
    maxiter: PositiveInt | None = None,
    negative_curvature: NegativeCurvature = "ignore",
    callback: Callback | None = None,
) -> LinearResult:
    """MINRES-QLP: symmetric A, singular too, the shortest of the least-squares solutions.

    The iterates of MINRES, found through orthogonal transformations only (Q T P = L), so that
    rounding grows with the condition number and not with its square; where A is singular and b
    outside its range, x has the minimum length (from x0 = 0). Keeps 8 vectors of length n (x,
    three of Lanczos's, three directions and the product), 12 with a preconditioner.

    Parameters
    ----------
    A : operator or matrix, n by n
        Anything `operators.as_operator` takes; symmetric.
    b : Tensor, shape (n,)
        Right side; float32 or float64.
    x0 : Tensor, shape (n,), optional
        Start; zero by default. Costs one product.
    M : operator, matrix or function v -> M v, optional
        Symmetric positive definite, near A^-1 (or |A|^-1). Lengths are then measured in
        the norm of M^-1.
    rtol, atol : float
        Stop at |b - A x| <= max(rtol |b|, atol): the Euclidean norm, with a preconditioner too.
    maxiter : int, optional
        Limit of iterations; 10 n by default.
    negative_curvature : {"ignore", "stop"}
        See `minres`.
    callback : callable, optional
        Called with (x, residual norm) after every iteration.

    Returns
    -------
    LinearResult
        `LEAST_SQUARES` where b is outside the range of a singular A.

    Raises
    ------
    UnsupportedError
        If A is not symmetric, as far as it tells.
    """
    system = System(
        A, b, x0, M=M, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback,
        method="minres_qlp", symmetric=True,
    )  # fmt: skip

    return solve(system, lambda s: _cycle(s, negative_curvature))


def _cycle(s: System, negative_curvature: NegativeCurvature) -> Status:
    """Iterate from s.x, and put the iterate together at the end."""
    iterate = _Iterate(s)
    lanczos = TridiagonalQR(s, negative_curvature, iterate.x)
    zero = s.b.new_zeros(())
    status = None
    while status is None:
        status, _ = lanczos.step(zero)
        if status is Status.LEAST_SQUARES:
            # The last column of R is zero within rounding: it rotates x to its shortest form.
            iterate.update(lanczos, last=True)
        elif status is None:
            iterate.update(lanczos)
            x = None if s.callback is None else iterate.x()
            status = s.advance(lanczos.norm, s.eps * s.norm_A * iterate.length, x)
    s.x = iterate.x()
    return status


class _Iterate:
    """x_k = settled + u_{k-1} w_{k-1} + u_k w_k, where W = V P and L u = (tau_1, ..., tau_k).

    P is a product of rotations from the right that make R lower triangular: R P = L. An entry of
    u and a column of W are final once two more columns of R have been seen. `length` is that of
    x_k - x_0.
    """

    def __init__(self, s: System) -> None:
        self.settled = s.x.clone()
        self.w_before, self.w = torch.zeros_like(s.x), torch.zeros_like(s.x)
        self.spare = torch.empty_like(s.x)
        self.scale, self.length, self._settled_square = 0.0, 0.0, 0.0
        self.u_before, self.u = 0.0, 0.0
        # L[k-1, k-1] and L[k, k], both to be rotated again, and L[k, k-1]:
        self.mu_before, self.mu, self.psi = 0.0, 0.0, 0.0
        # Right sides of rows k - 1 and k, with the settled entries of u subtracted:
        self.xi_before, self.xi = 0.0, 0.0

    def x(self) -> Tensor:
        """Put x_k together."""
        x = torch.add(self.settled, self.w_before, alpha=self.u_before * self.scale)
        return x.add_(self.w, alpha=self.u * self.scale)

    def update(self, lanczos: TridiagonalQR, *, last: bool = False) -> None:
        """Add a column of R; where it is the last of a singular one, its u is zero."""
        self.scale = lanczos.scale
        # Columns k - 2 and k, to annihilate R[k-2, k] = epsilon:
        c2, s2, mu_settled = _rotation(self.mu_before, lanczos.epsilon)
        psi = c2 * self.psi + s2 * lanczos.delta
        theta = s2 * self.psi - c2 * lanczos.delta
        rho, eta = s2 * lanczos.gamma, -c2 * lanczos.gamma
        # Columns k - 1 and k, to annihilate what has become of R[k-1, k] = delta:
        c1, s1, self.mu_before = _rotation(self.mu, theta)
        self.psi, self.mu = s1 * eta, -c1 * eta
        u_settled = _quotient(self.xi_before, mu_settled)
        self.xi_before = self.xi - psi * u_settled
        self.u_before = _quotient(self.xi_before, self.mu_before)
        self.xi = lanczos.tau - rho * u_settled
        self.u = 0.0 if last else _quotient(self.xi - self.psi * self.u_before, self.mu)
        self._settled_square += u_settled**2
        self.length = self.scale * math.sqrt(self._settled_square + self.u_before**2 + self.u**2)
        step = u_settled * self.scale
        v = lanczos.v
        self.settled.add_(self.w_before, alpha=step * c2).add_(v, alpha=step * s2)
        v_rotated = self.w_before.mul_(s2).add_(v, alpha=-c2)
        torch.mul(self.w, c1, out=self.spare).add_(v_rotated, alpha=s1)
        self.w.mul_(s1).add_(v_rotated, alpha=-c1)
        self.w_before, self.spare = self.spare, v_rotated


def _rotation(a: float, b: float) -> tuple[float, float, float]:
    """Find (c, s, r) with c a + s b = r and s a - c b = 0."""
    r = math.hypot(a, b)
    return (a / r, b / r, r) if r > 0.0 else (1.0, 0.0, 0.0)


def _quotient(a: float, b: float) -> float:
    """Divide; an unknown that no equation determines is zero."""
    return a / b if b != 0.0 else 0.0
