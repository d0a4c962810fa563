"""The conjugate residual method (Stiefel 1955), with short recurrences."""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.norms import euclidean
from newton_krylov.registry import register


@register("solver", "cr")
def cr(
    A: Any,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    M: Any = None,
    rtol: NonNegativeFloat = 1e-5,
    atol: NonNegativeFloat = 0.0,
    maxiter: PositiveInt | None = None,
    callback: Callback | None = None,
) -> LinearResult:
    """Conjugate residuals: symmetric A, the smallest residual at every iteration.

    The symmetric case of the paper's Algorithm 2: the products A p stay orthogonal by a
    two-term recurrence. Minimizes |b - A x| over the Krylov space (with a preconditioner, the
    M-norm of it). Stops where the residual r itself has r'A r <= 0: r is then a direction of
    descent of the model x'A x / 2 - b'x, and A's curvature was positive on all the space before
    (Dahito and Orban 2019). Keeps 6 vectors of length n (x, p, A p, the residual twice and the
    product), 9 with a preconditioner.

    Parameters
    ----------
    A : operator or matrix, n by n
        Anything `operators.as_operator` takes; symmetric.
    b : Tensor, shape (n,)
        Right side; float32 or float64.
    x0 : Tensor, shape (n,), optional
        Start; zero by default. Costs one product.
    M : operator, matrix or function v -> M v, optional
        Symmetric positive definite, near A^-1.
    rtol, atol : float
        Stop at |b - A x| <= max(rtol |b|, atol).
    maxiter : int, optional
        Limit of iterations; 10 n by default.
    callback : callable, optional
        Called with (x, residual norm) after every iteration; x is updated in place later.

    Returns
    -------
    LinearResult
        `BREAKDOWN` with a `direction` means a singular A: A d = 0 within rounding.

    Raises
    ------
    UnsupportedError
        If A is not symmetric, as far as it tells.
    """
    system = System(
        A, b, x0, M=M, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback,
        method="cr", symmetric=True,
    )  # fmt: skip
    return solve(system, _cycle)


def _cycle(s: System) -> Status:
    """Iterate from s.x; z = M r throughout, and z is r itself without a preconditioner."""
    scale = s.norms[-1]  # the recurrences run on r / |r0|: no under- or overflow of squares
    x, r, M = s.x, s.r.div_(scale), s.M
    z = r if M is None else M(r).clone()
    z_next = torch.empty_like(z)
    p = z.clone()
    Az = s.product(z)
    q = Az.clone()  # A p, by its own recurrence
    zAz = torch.dot(z, Az)
    previous, beta, q_drift = 1.0, 0.0, 0.0
    norm_z = 1.0 if M is None else euclidean(z)
    while True:
        Mq = q if M is None else M(q)
        qMq = torch.dot(q, Mq)
        alpha = zAz / qMq
        # Not in place: where z turns out to have nonpositive curvature, it is the answer.
        torch.addcmul(z, Mq, alpha, value=-1, out=z_next)
        if M is None:
            r = z_next
        else:
            r.addcmul_(q, alpha, value=-1)
        # The one synchronization of an iteration:
        rr, zAz_host, qMq_host, pp, zz = torch.stack(
            (torch.dot(r, r), zAz, qMq, torch.dot(p, p), torch.dot(z_next, z_next))
        ).tolist()
        if status := s.curvature_stop(zAz_host, norm_z**2, z, Az):
            return status
        if not (qMq_host > 0.0 and math.isfinite(rr)):
            return Status.BREAKDOWN
        step = zAz_host / qMq_host
        x.add_(p, alpha=step * scale)
        beta = zAz_host / previous
        previous = zAz_host
        if M is None:
            s.norm_A = max(s.norm_A, math.sqrt(qMq_host / pp))
        # q is not exactly A p: that error, carried by beta, goes into r with every step.
        q_drift = beta * q_drift + s.eps * s.norm_A * (norm_z + math.sqrt(pp))
        drift = step * (q_drift + s.eps * s.norm_A * math.sqrt(pp)) * scale
        norm_z = math.sqrt(zz)
        if status := s.advance(math.sqrt(rr) * scale, drift):
            return status
        z, z_next = z_next, z
        del Az  # before the next product is made
        Az = s.product(z)
        zAz_next = torch.dot(z, Az)
        ratio = zAz_next / zAz
        torch.addcmul(z, p, ratio, out=p)
        torch.addcmul(Az, q, ratio, out=q)
        zAz = zAz_next
