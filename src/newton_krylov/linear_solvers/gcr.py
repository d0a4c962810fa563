"""GCR, generalized conjugate residuals (Eisenstat, Elman and Schultz 1983): Algorithm 2."""

import math

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.method import linear_solver
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.norms import norm


@linear_solver("gcr", symmetric=False, M="Near A^-1, applied from the right; need not be linear.")
def gcr(
    s: System,
    *,
    restart: PositiveInt | None = 30,
    truncate: PositiveInt | None = None,
) -> LinearResult:
    """GCR(m) and Orthomin(k): any A, the paper's Algorithm 2.

    Minimizes |b - A x| over directions p whose products A p are orthogonal; the same iterates as
    GMRES with twice its memory, but x and the true residual are known in every iteration, and M
    may change from one to the next. Departs from the paper's listing in two ways, for the sake of
    rounding: every A p is normalized, and orthogonalized twice. Breaks down, unlike GMRES, where
    r'A M r = 0: the next direction would be a combination of those before. Keeps 2 `restart` (or
    2 `truncate`) vectors of length n and 4 more.

    Parameters
    ----------
    restart : int, optional
        Forget all directions after so many iterations: GCR(m). None: never.
    truncate : int, optional
        Orthogonalize against the last so many directions only: Orthomin(k). None: against all.
        With a symmetric definite A, 1 suffices: that is `cr`.
    """
    return solve(s, lambda s: _cycle(s, restart or s.n, truncate or s.n))


def _cycle(s: System, restart: int, truncate: int) -> Status:
    """Iterate from s.x; a restart needs no product, since the residual is known."""
    stalled = norm_r = 1.0
    r, M = s.r, s.M
    directions = _Directions(s, min(restart, truncate, s.n, s.maxiter - s.iterations))
    while True:
        z = r if M is None else M(r)
        Az = s.product(z)
        before = torch.dot(Az, Az)
        zz = torch.dot(z, z)
        p, Ap, length, error = directions.append(z, Az, zz)
        alpha = torch.dot(r, Ap)
        r.addcmul_(Ap, alpha, value=-1)
        # The one synchronization of an iteration:
        scalars = torch.stack((torch.dot(r, r), alpha, length, before, error, zz))
        rr, step, norm_Ap, square, error_host, zz_host = scalars.tolist()
        # A z is a combination of the products before:
        if norm_Ap <= s.eps * math.sqrt(square) < math.inf:
            if norm_r > 0.5:
                return Status.BREAKDOWN
            s.drift = math.inf  # nothing more to gain here: look at the true residual
            return Status.CONVERGED
        if not math.isfinite(rr):
            return Status.BREAKDOWN
        s.norm_A = max(s.norm_A, math.sqrt(square / zz_host))
        drift = s.eps * s.norm_A * abs(step) * math.sqrt(error_host)
        if s.relative_uncertainty + drift > norm_r:
            # A is singular in effect: steps lose more than they gain. Look at the true residual.
            s.drift = math.inf
            return Status.CONVERGED
        s.move(s.x, p, step)
        norm_r = math.sqrt(rr)
        if status := s.advance(norm_r, drift):
            return status
        if directions.appended == restart:
            if not norm_r < stalled * (1.0 - s.eps):
                return Status.STAGNATED
            stalled = norm_r
            directions.clear()


class _Directions:
    """The last `size` directions p and their products A p, the latter orthonormal.

    What is kept for A p is a combination of products, and so are its errors: in units of eps |A|,
    `errors` has |p|^2 plus the square of the error of what is kept for A p.
    """

    def __init__(self, s: System, size: int) -> None:
        self.size = size
        self.P = s.b.new_empty(size, s.n)
        self.AP = s.b.new_empty(size, s.n)
        self.errors = s.b.new_zeros(size)
        self.appended = 0

    def clear(self) -> None:
        """Forget all directions."""
        self.appended = 0

    def append(self, z: Tensor, Az: Tensor, zz: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Orthogonalize A z, and z with it.

        Returns the new direction, its product, what was left of A z, and the entry of `errors`.
        """
        kept = min(self.appended, self.size)
        slot = self.appended % self.size
        p, square = z, zz
        if kept:
            P, AP = self.P[:kept], self.AP[:kept]
            h = torch.mv(AP, Az)
            Az.addmv_(AP.T, h, alpha=-1)
            again = torch.mv(AP, Az)
            Az.addmv_(AP.T, again, alpha=-1)
            p = torch.addmv(z, P.T, h.add_(again), alpha=-1)
            square = zz + torch.dot(h.square(), self.errors[:kept])
        length = norm(Az)
        self.appended += 1
        p = torch.div(p, length, out=self.P[slot])
        error = torch.add(torch.dot(p, p), square / length.square(), out=self.errors[slot])
        return p, torch.div(Az, length, out=self.AP[slot]), length, error
