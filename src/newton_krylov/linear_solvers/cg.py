"""The conjugate gradient method (Hestenes and Stiefel 1952)."""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.registry import register


@register("solver", "cg")
def cg(
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
    """Conjugate gradients: symmetric positive definite A, the cheapest iteration.

    Minimizes the energy norm of the error over the Krylov space. Stops at the first direction p
    with p'A p <= 0, as Steihaug's method does: p is a direction of descent of the quadratic model
    x'A x / 2 - b'x at the returned x. Keeps 4 vectors of length n (x, r, p and the product), 5
    with a preconditioner; M is applied once more than there are iterations.

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
        method="cg", symmetric=True,
    )  # fmt: skip
    return solve(system, _cycle)


def _cycle(s: System) -> Status:
    """Iterate from s.x; `x` is updated last, so that it never takes a step that went wrong."""
    scale = s.norms[-1]  # the recurrences run on r / |r0|: no under- or overflow of squares
    x, r, M = s.x, s.r.div_(scale), s.M
    z = r if M is None else M(r)
    p = z.clone()
    rz = torch.dot(r, z)
    del z  # before M makes the next one
    rz_host = rz.item()
    if not rz_host > 0.0:
        return Status.BREAKDOWN
    while True:
        Ap = s.product(p)
        curvature = torch.dot(p, Ap)
        r.addcmul_(Ap, rz / curvature, value=-1)
        z = r if M is None else M(r)
        rr = torch.dot(r, r)
        rz = rr if M is None else torch.dot(r, z)
        # The one synchronization of an iteration:
        rr_host, rz_next, pAp, pp = torch.stack((rr, rz, curvature, torch.dot(p, p))).tolist()
        if status := s.curvature_stop(pAp, pp, p, Ap):
            return status
        alpha = rz_host / pAp
        if not math.isfinite(rr_host):
            return Status.BREAKDOWN
        x.add_(p, alpha=alpha * scale)
        drift = s.eps * s.norm_A * alpha * math.sqrt(pp) * scale
        del Ap  # before the next product is made
        if status := s.advance(math.sqrt(rr_host) * scale, drift):
            return status
        if not rz_next > 0.0:
            return Status.BREAKDOWN
        torch.add(z, p, alpha=rz_next / rz_host, out=p)
        del z
        rz_host = rz_next
