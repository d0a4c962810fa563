"""MINRES-QLP (Choi, Paige and Saunders 2011)."""

import math

import torch
from torch import Tensor

from newton_krylov.linear_solvers.method import linear_solver
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.linear_solvers.tridiagonal import NegativeCurvature, TridiagonalQR


@linear_solver(
    "minres_qlp",
    symmetric=True,
    M="Symmetric positive definite, near A^-1 (or |A|^-1). Lengths are then measured in the norm "
    "of M^-1.",
)
def minres_qlp(s: System, *, negative_curvature: NegativeCurvature = "ignore") -> LinearResult:
    """MINRES-QLP: symmetric A, singular too, the shortest of the least-squares solutions.

    The iterates of MINRES, found through orthogonal transformations only (Q T P = L), so that
    rounding grows with the condition number and not with its square; where A is singular and b
    outside its range, x has the minimum length (from x0 = 0), and the status is `LEAST_SQUARES`.
    Keeps 8 vectors of length n (x, three of Lanczos's, three directions and the product), 12 with a
    preconditioner.

    Parameters
    ----------
    negative_curvature : {"ignore", "stop"}
        See `minres`.
    """
    return solve(s, lambda s: _cycle(s, negative_curvature), by_symmetry=True)


def _cycle(s: System, negative_curvature: NegativeCurvature) -> Status:
    """Iterate from s.x, and put the iterate together at the end."""
    iterate = _Iterate(s)
    lanczos = TridiagonalQR(s, negative_curvature, iterate.x)
    zero = s.b.new_zeros(())
    status = None
    while status is None:
        norm = lanczos.norm
        status, _ = lanczos.step(zero)
        if status is Status.LEAST_SQUARES:
            return _shorten(s, lanczos, iterate)
        if status is None and not iterate.update(lanczos, norm):
            s.drift = math.inf  # A x would round off more than there is left to gain
            status = Status.CONVERGED
        elif status is None:
            x = None if s.callback is None else iterate.x()
            status = s.advance(lanczos.norm, s.eps * s.norm_A * iterate.length, x)
    s.x = iterate.x()
    return status


def _shorten(s: System, lanczos: TridiagonalQR, iterate: "_Iterate") -> Status:
    """Rotate x to its shortest form: the last column of R is zero within rounding."""
    before, claimed = iterate.x(), s.norms[-1]
    iterate.update(lanczos, math.inf, last=True)
    s.x = iterate.x()
    if not s.true_residual() <= 2.0 * claimed:  # rounding has corrupted the last Lanczos vector
        s.x = before
    return Status.LEAST_SQUARES


class _Iterate:
    """x_k = settled + u_{k-1} w_{k-1} + u_k w_k, where W = V P and L u = (tau_1, ..., tau_k).

    P is a product of rotations from the right that make R lower triangular: R P = L. An entry of
    u and a column of W are final once two more columns of R have been seen. `length` is that of
    x_k - x_0.
    """

    def __init__(self, s: System) -> None:
        self.s = s
        self.settled = s.x.clone()
        self.w_before, self.w = torch.zeros_like(s.x), torch.zeros_like(s.x)
        self.spare = torch.empty_like(s.x)
        self.length, self._settled_square = 0.0, 0.0
        self.u_before, self.u = 0.0, 0.0
        # L[k-1, k-1] and L[k, k], both to be rotated again, and L[k, k-1]:
        self.mu_before, self.mu, self.psi = 0.0, 0.0, 0.0
        # Right sides of rows k - 1 and k, with the settled entries of u subtracted:
        self.xi_before, self.xi = 0.0, 0.0

    def x(self) -> Tensor:
        """Put x_k together."""
        x = self.settled.clone()
        self.s.move(x, self.w_before, self.u_before)
        self.s.move(x, self.w, self.u)
        return x

    def update(self, lanczos: TridiagonalQR, norm: float, *, last: bool = False) -> bool:
        """Add a column of R; where it is the last of a singular one, its u is zero.

        False, and x is as it was, where x would get so long that A x rounds off more than `norm`,
        the residual before.
        """
        before = vars(self).copy()
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
        self._settled_square += u_settled * u_settled
        self.length = math.hypot(math.sqrt(self._settled_square), self.u_before, self.u)
        if self.s.eps * self.s.norm_A * self.length > norm:
            vars(self).update(before)
            return False
        v = lanczos.v
        self.s.move(self.settled, self.w_before, u_settled * c2)
        self.s.move(self.settled, v, u_settled * s2)
        v_rotated = self.w_before.mul_(s2).add_(v, alpha=-c2)
        torch.mul(self.w, c1, out=self.spare).add_(v_rotated, alpha=s1)
        self.w.mul_(s1).add_(v_rotated, alpha=-c1)
        self.w_before, self.spare = self.spare, v_rotated
        return True


def _rotation(a: float, b: float) -> tuple[float, float, float]:
    """Find (c, s, r) with c a + s b = r and s a - c b = 0."""
    r = math.hypot(a, b)
    return (a / r, b / r, r) if r > 0.0 else (1.0, 0.0, 0.0)


def _quotient(a: float, b: float) -> float:
    """Divide; an unknown that no equation determines is zero."""
    return a / b if b != 0.0 else 0.0
