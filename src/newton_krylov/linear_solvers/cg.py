"""The conjugate gradient method (Hestenes and Stiefel 1952)."""

import math

import torch

from newton_krylov.linear_solvers.method import linear_solver
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve


@linear_solver("cg", symmetric=True, M="Symmetric positive definite, near A^-1.")
def cg(s: System) -> LinearResult:
    """Conjugate gradients: symmetric positive definite A, the cheapest iteration.

    Minimizes the energy norm of the error over the Krylov space. Stops at the first direction p
    with p'A p <= 0, as Steihaug's method does: p is a direction of descent of the quadratic model
    x'A x / 2 - b'x at the returned x. `BREAKDOWN` with a `direction` d means a singular A: A d = 0
    within rounding. Keeps 4 vectors of length n (x, r, p and the product), 5 with a
    preconditioner; M is applied once more than there are iterations.
    """
    return solve(s, _cycle)


def _cycle(s: System) -> Status:
    """Iterate from s.x; `x` is updated last, so that it never takes a step that went wrong."""
    r, M = s.r, s.M
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
        s.move(s.x, p, alpha)
        drift = s.eps * s.norm_A * alpha * math.sqrt(pp)
        del Ap  # before the next product is made
        if status := s.advance(math.sqrt(rr_host), drift):
            return status
        if not rz_next > 0.0:
            return Status.BREAKDOWN
        torch.add(z, p, alpha=rz_next / rz_host, out=p)
        del z
        rz_host = rz_next
