"""MINRES (Paige and Saunders 1975)."""

import math

import torch

from newton_krylov.linear_solvers.method import linear_solver
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.linear_solvers.tridiagonal import NegativeCurvature, TridiagonalQR


@linear_solver("minres", symmetric=True, M="Symmetric positive definite, near A^-1 (or |A|^-1).")
def minres(s: System, *, negative_curvature: NegativeCurvature = "ignore") -> LinearResult:
    """MINRES: symmetric A, indefinite too, the smallest residual at every iteration.

    `LEAST_SQUARES` where b is outside the range of a singular A. Keeps 7 vectors of length n (x,
    three of Lanczos's, two directions and the product), 10 with a preconditioner.

    Parameters
    ----------
    negative_curvature : {"ignore", "stop"}
        MINRES meets negative curvature first along a residual r = b - A x of its own, r'A r <= 0
        (Liu and Roosta 2022). "ignore" goes on to solve the indefinite system and reports r as
        `direction`; "stop" returns x and r, as Newton-MR wants it: both are directions of descent
        of the model x'A x / 2 - b'x. Either way r costs one product more, once.
    """
    return solve(s, lambda s: _cycle(s, negative_curvature), by_symmetry=True)


def _cycle(s: System, negative_curvature: NegativeCurvature) -> Status:
    """Iterate from s.x: the directions D = V R^-1 by a three-term recurrence."""
    x = s.x
    lanczos = TridiagonalQR(s, negative_curvature, lambda: x)
    d, d_old = torch.zeros_like(x), torch.zeros_like(x)
    smallest, largest, pending = math.inf, 0.0, 0.0
    while True:
        status, dd = lanczos.step(torch.dot(d, d))
        if status:
            return status
        gamma = lanczos.gamma
        d, d_old = d_old, d
        d.mul_(-lanczos.epsilon / gamma).add_(d_old, alpha=-lanczos.delta / gamma)
        d.add_(lanczos.v, alpha=1.0 / gamma)
        s.move(x, d, lanczos.tau)
        # Rounding in d is amplified by R^-1 (Sleijpen, van der Vorst and Modersitzki 2000); the
        # length of the last d is known one step late.
        smallest, largest = min(smallest, gamma), max(largest, gamma)
        drift = s.eps * s.norm_A * largest / smallest * math.sqrt(dd) * pending
        pending = abs(lanczos.tau)
        if status := s.advance(lanczos.norm, drift):
            return status
