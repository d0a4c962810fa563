"""GCR, generalized conjugate residuals (Eisenstat, Elman and Schultz 1983): Algorithm 2."""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.norms import norm
from newton_krylov.registry import register


@register("solver", "gcr")
def gcr(
    A: Any,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    M: Any = None,
    rtol: NonNegativeFloat = 1e-5,
    atol: NonNegativeFloat = 0.0,
    maxiter: PositiveInt | None = None,
    restart: PositiveInt | None = 30,
    truncate: PositiveInt | None = None,
    callback: Callback | None = None,
) -> LinearResult:
    """GCR(m) and Orthomin(k): any A, the paper's Algorithm 2.

    Minimizes |b - A x| over directions p whose products A p are orthogonal; the same iterates as
    GMRES with twice its memory, but x and the true residual are at hand in every iteration, and M
    may change from one to the next. Departs from the paper's listing in two ways, for the sake of
    rounding: every A p is normalized, and orthogonalized twice. Breaks down, unlike GMRES, where
    r'A M r = 0. Keeps 2 `restart` (or 2 `truncate`) vectors of length n and 4 more.

    Parameters
    ----------
    A : operator or matrix, n by n
        Anything `operators.as_operator` takes; need not be symmetric.
    b : Tensor, shape (n,)
        Right side; float32 or float64.
    x0 : Tensor, shape (n,), optional
        Start; zero by default. Costs one product.
    M : operator, matrix or function v -> M v, optional
        Near A^-1, applied from the right; need not be linear.
    rtol, atol : float
        Stop at |b - A x| <= max(rtol |b|, atol).
    maxiter : int, optional
        Limit of iterations, each one product; 10 n by default.
    restart : int, optional
        Forget all directions after so many iterations: GCR(m). None: never.
    truncate : int, optional
        Orthogonalize against the last so many directions only: Orthomin(k). None: against all.
        With a symmetric definite A, 1 suffices: that is `cr`.
    callback : callable, optional
        Called with (x, residual norm) after every iteration; x is updated in place later.

    Returns
    -------
    LinearResult
        `BREAKDOWN` where the next direction would be a combination of those before.
    """
    system = System(
        A, b, x0, M=M, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback,
        method="gcr", symmetric=False,
    )  # fmt: skip
    return solve(system, lambda s: _cycle(s, restart or s.n, truncate or s.n))


def _cycle(s: System, restart: int, truncate: int) -> Status:
    """Iterate from s.x; a restart needs no product, since the residual is at hand."""
    start = stalled = scale = s.norms[-1]
    x, r, M = s.x, s.r.div_(scale), s.M
    directions = _Directions(s, min(restart, truncate, s.n, s.maxiter - s.iterations))
    norm_z = 1.0
    while True:
        z = r if M is None else M(r)
        Az = s.product(z)
        before = torch.dot(Az, Az)
        p, Ap, norm = directions.append(z, Az)
        alpha = torch.dot(r, Ap)
        zz = torch.dot(z, z) if M is not None else alpha
        r.addcmul_(Ap, alpha, value=-1)
        # The one synchronization of an iteration:
        scalars = torch.stack((torch.dot(r, r), alpha, norm, before, torch.dot(p, p), zz))
        rr, step, norm_Ap, square, pp, zz_host = scalars.tolist()
        # A z is a combination of the products before:
        if norm_Ap <= s.eps * math.sqrt(square) < math.inf:
            if s.norms[-1] > 0.5 * start:
                return Status.BREAKDOWN
            s.drift = math.inf  # nothing more to gain here: look at the true residual
            return Status.CONVERGED
        if not math.isfinite(rr):
            return Status.BREAKDOWN
        norm_z = norm_z if M is None else math.sqrt(zz_host)
        s.norm_A = max(s.norm_A, math.sqrt(square) / norm_z)
        drift = s.eps * s.norm_A * abs(step) * math.sqrt(pp) * scale
        if s.drift + drift > s.norms[-1]:
            # A is singular in effect: steps lose more than they gain. Look at the true residual.
            s.drift = math.inf
            return Status.CONVERGED
        x.add_(p, alpha=step * scale)
        norm_z = math.sqrt(rr)
        if status := s.advance(norm_z * scale, drift):
            return status
        if directions.appended == restart:
            if not s.norms[-1] < stalled * (1.0 - s.eps):
                return Status.STAGNATED
            stalled = s.norms[-1]
            directions.clear()


class _Directions:
    """The last `size` directions p and their products A p, the latter orthonormal."""

    def __init__(self, s: System, size: int) -> None:
        self.size = size
        self.P = s.b.new_empty(size, s.n)
        self.AP = s.b.new_empty(size, s.n)
        self.appended = 0

    def clear(self) -> None:
        """Forget all directions."""
        self.appended = 0

    def append(self, z: Tensor, Az: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Orthogonalize A z, and z with it; the new direction, its product, and what was left."""
        kept = min(self.appended, self.size)
        slot = self.appended % self.size
        p = z
        if kept:
            P, AP = self.P[:kept], self.AP[:kept]
            h = torch.mv(AP, Az)
            Az.addmv_(AP.T, h, alpha=-1)
            again = torch.mv(AP, Az)
            Az.addmv_(AP.T, again, alpha=-1)
            p = torch.addmv(z, P.T, h.add_(again), alpha=-1)
        length = norm(Az)
        self.appended += 1
        return (
            torch.div(p, length, out=self.P[slot]),
            torch.div(Az, length, out=self.AP[slot]),
            length,
        )
