"""The conjugate residual method (Stiefel 1955), with short recurrences."""

import math

import torch

from newton_krylov.linear_solvers.method import linear_solver
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.norms import euclidean


@linear_solver("cr", symmetric=True, M="Symmetric positive definite, near A^-1.")
def cr(s: System) -> LinearResult:
    """Conjugate residuals: symmetric A, the smallest residual at every iteration.

    The symmetric case of the paper's Algorithm 2: the products A p stay orthogonal by a
    two-term recurrence. Minimizes |b - A x| over the Krylov space (with a preconditioner, the
    M-norm of it). Stops where the residual r itself has r'A r <= 0: r is then a direction of
    descent of the model x'A x / 2 - b'x, and A's curvature was positive on all the space before
    (Dahito and Orban 2019). `BREAKDOWN` with a `direction` d means a singular A: A d = 0 within
    rounding. Keeps 6 vectors of length n (x, p, A p, the residual twice and the product), 9 with a
    preconditioner.
    """
    return solve(s, _cycle)


def _cycle(s: System) -> Status:
    """Iterate from s.x; z = M r throughout, and z is r itself without a preconditioner."""
    r, M = s.r, s.M
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
        if status := s.curvature_stop(zAz_host, norm_z * norm_z, z, Az):
            return status
        if not (qMq_host > 0.0 and math.isfinite(rr)):
            return Status.BREAKDOWN
        step = zAz_host / qMq_host
        s.move(s.x, p, step)
        beta = zAz_host / previous
        previous = zAz_host
        if M is None:
            s.norm_A = max(s.norm_A, math.sqrt(qMq_host / pp))
        # q is not exactly A p: that error, carried by beta, goes into r with every step.
        q_drift = beta * q_drift + s.eps * s.norm_A * (norm_z + math.sqrt(pp))
        drift = step * (q_drift + s.eps * s.norm_A * math.sqrt(pp))
        norm_z = math.sqrt(zz)
        if status := s.advance(math.sqrt(rr), drift):
            return status
        z, z_next = z_next, z
        del Az  # before the next product is made
        Az = s.product(z)
        zAz_next = torch.dot(z, Az)
        ratio = zAz_next / zAz
        torch.addcmul(z, p, ratio, out=p)
        torch.addcmul(Az, q, ratio, out=q)
        zAz = zAz_next
