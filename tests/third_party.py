"""Somebody else's module: a solver that is used by its name, without a change to the package."""

import torch

from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.registry import register


@register("solver", "steepest")
def steepest(A, b, *, x0=None, M=None, rtol: float = 1e-5, atol: float = 0.0, steps: int = 50):
    """Steepest descent on x'A x / 2 - b'x."""
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    norms = [float(b.norm())]
    for count in range(1, steps + 1):
        r = b - A.matvec(x)
        norms.append(float(r.norm()))
        if norms[-1] <= max(rtol * norms[0], atol):
            return LinearResult(x, Status.CONVERGED, count - 1, 2 * count - 1, norms)
        x = x + torch.dot(r, r) / torch.dot(r, A.matvec(r)) * r
    return LinearResult(x, Status.MAXITER, steps, 2 * steps, norms)
