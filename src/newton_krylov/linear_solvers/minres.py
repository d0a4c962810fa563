"""MINRES (Paige and Saunders 1975)."""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.linear_solvers.tridiagonal import NegativeCurvature, TridiagonalQR
from newton_krylov.registry import register


@register("solver", "minres")
def minres(
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
    """MINRES: symmetric A, indefinite too, the smallest residual at every iteration.

    Keeps 7 vectors of length n (x, three of Lanczos's, two directions and the product), 10 with a
    preconditioner.

    Parameters
    ----------
    A : operator or matrix, n by n
        Anything `operators.as_operator` takes; symmetric.
    b : Tensor, shape (n,)
        Right side; float32 or float64.
    x0 : Tensor, shape (n,), optional
        Start; zero by default. Costs one product.
    M : operator, matrix or function v -> M v, optional
        Symmetric positive definite, near A^-1 (or |A|^-1).
    rtol, atol : float
        Stop at |b - A x| <= max(rtol |b|, atol): the Euclidean norm, with a preconditioner too.
    maxiter : int, optional
        Limit of iterations; 10 n by default.
    negative_curvature : {"ignore", "stop"}
        MINRES meets negative curvature first along a residual r = b - A x of its own, r'A r <= 0
        (Liu and Roosta 2022). "ignore" goes on to solve the indefinite system and reports r as
        `direction`; "stop" returns x and r, as Newton-MR wants it: both are directions of descent
        of the model x'A x / 2 - b'x. Either way r costs one product more, once.
    callback : callable, optional
        Called with (x, residual norm) after every iteration; x is updated in place later.

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
        method="minres", symmetric=True,
    )  # fmt: skip
    return solve(system, lambda s: _cycle(s, negative_curvature))


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
        step = lanczos.tau * lanczos.scale
        x.add_(d, alpha=step)
        # Rounding in d is amplified by R^-1 (Sleijpen, van der Vorst and Modersitzki 2000); the
        # length of the last d is known one step late.
        smallest, largest = min(smallest, gamma), max(largest, gamma)
        drift = s.eps * s.norm_A * largest / smallest * math.sqrt(dd) * pending
        pending = abs(step)
        if status := s.advance(lanczos.norm, drift):
            return status
