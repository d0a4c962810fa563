"""Golub and Kahan's bidiagonalization, and the least-squares problem that LSQR and LSMR solve."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.norms import euclidean
from newton_krylov.operators import LeastSquares, RectangularOperator
from newton_krylov.rectangular import Damped, FunctionMap, NormalOperator, as_rectangular

Map = Callable[[Tensor], Tensor]

_GRADIENT = 4.0
"""|A'r| is zero within rounding if it is at most this eps |A| |r|."""
_MEND = 0.25
"""A cycle after the first aims at this part of the tolerance."""


class Bidiagonalization:
    """A V = U B with orthonormal U, and V orthonormal in the inner product of N^-1.

    Parameters
    ----------
    problem : Posed
        Gives the products and N.
    u : Tensor, shape (m,)
        The first column of U, up to its length; overwritten.

    Attributes
    ----------
    v : Tensor, shape (n,)
        The last column of V.
    p : Tensor, shape (n,)
        N^-1 v.
    alpha, beta : float
        The last entries of B: on its diagonal, and below the one before.
    """

    def __init__(self, problem: "Posed", u: Tensor) -> None:
        self._problem = problem
        self.beta = euclidean(u)
        self._u = u.div_(self.beta)
        self._take(problem.transposed(self._u))

    def step(self) -> None:
        """Add a column to U and one to V."""
        self._u.mul_(-self.alpha).add_(self._problem.product(self.v))
        self.beta = euclidean(self._u)
        if self.beta > 0:
            self._u.div_(self.beta)
        self._take(self._problem.transposed(self._u).sub_(self.p, alpha=self.beta))

    def _take(self, p: Tensor) -> None:
        """Normalize N p, unless it is zero, or N is not positive definite: then alpha is nan."""
        N = self._problem.N
        v = p if N is None else N(p)
        square = euclidean(p) ** 2 if N is None else float(torch.dot(p, v))
        self.alpha = math.sqrt(square) if square >= 0 else math.nan
        if self.alpha > 0:
            p, v = p / self.alpha, v / self.alpha
        self.p, self.v = p, p if N is None else v


class Posed:
    """A system as a least-squares problem: minimize |A x - u|, with what its end is judged by.

    Where the operator tells of a J with A = J'J + shift I and b = J'u, the problem is that of
    [J; sqrt(shift) I] and [u; 0], and what must get small is the residual of its normal equations,
    which is that of the system. Any other system is taken as it is.

    Parameters
    ----------
    s : System
        The system.
    problem : LeastSquares or None
        Its least-squares form.

    Attributes
    ----------
    normal : bool
        Whether the system is the normal equations of the problem.
    N : callable or None
        The preconditioner, near (A'A)^-1.
    d : Tensor, shape (n,)
        How far the present cycle has gone; added to x at its end, so that a cycle that mends
        another rounds as its own small numbers do.
    """

    def __init__(self, s: System, problem: LeastSquares | None) -> None:
        self._s = s
        self.normal = problem is not None
        self._J: RectangularOperator | None = None
        self._u = s.b
        self._norm = 0.0  # of A, as far as it has been seen
        self._cycles = 0
        self.d = torch.zeros_like(s.b)
        self.N: Map | None = s.M
        if problem is not None:
            self._J, self._u = problem.J, problem.u.detach()
            if problem.shift > 0:
                self._J = Damped(problem.J, problem.shift)
                self._u = torch.cat((self._u, torch.zeros_like(s.b)))
        elif s.M is not None:
            M = s.M
            self.N = lambda v: M(M(v))

    def product(self, v: Tensor) -> Tensor:
        """Multiply by the problem's matrix; of normal equations, half a product of the system."""
        if self._J is None:
            return self._s.product(v)
        self._s.matvecs += 1
        return self._J.matvec(v)

    def transposed(self, u: Tensor) -> Tensor:
        """Multiply by the transpose; a fresh tensor."""
        if self._J is not None:
            return self._J.rmatvec(u)
        self._s.matvecs += 1
        return self._s.A.rmatvec(u).detach()

    def residual(self) -> Tensor:
        """Return u - A x at the start of a cycle; the caller may overwrite it."""
        self._cycles += 1
        self.d.zero_()
        if self._J is None:
            return self._s.r.clone()
        if not self._s.x.any():
            return self._u.clone()
        return self._u - self.product(self._s.x)

    def advance(
        self, B: Bidiagonalization, residual: float, gradient: float, plain: float, step: float
    ) -> Status | None:
        """Record one iteration; return why the cycle has ended, if it has.

        Parameters
        ----------
        B : Bidiagonalization
            After the step.
        residual : float
            |u - A x|.
        gradient, plain : float
            |A'(u - A x)| in N's norm, and in the Euclidean one or an estimate of it.
        step : float
            How far x went.
        """
        s = self._s
        self._norm = max(self._norm, math.hypot(B.alpha, B.beta))
        norm, drift = residual, s.eps * self._norm * step
        s.norm_A = self._norm
        if self.normal:
            norm, drift = plain, self._norm * (drift + s.eps * residual)
            s.norm_A = self._norm**2
        status = s.advance(norm, drift, s.x + self.d if s.callback else None)
        status = self._judged(status, norm)
        if status and self.normal and self.N is not None:
            s.drift = math.inf  # the norm is an estimate: look at the true one
        if not status and not self.normal:
            inconsistent = gradient <= _GRADIENT * s.eps * self._norm * residual
            status = Status.LEAST_SQUARES if inconsistent else None
        return status and self.end(status)

    def end(self, status: Status) -> Status:
        """End the cycle."""
        self._s.x.add_(self.d)
        return status

    def _judged(self, status: Status | None, norm: float) -> Status | None:
        """Let a cycle that mends what the one before claimed go beyond the tolerance."""
        s = self._s
        enough = max(_MEND * s.threshold, _MEND * s.uncertainty)
        mending = status is Status.CONVERGED and self._cycles > 1 and s.iterations < s.maxiter
        return None if mending and norm > enough else status


def blocked(B: Bidiagonalization) -> Status | None:
    """Say why there is no first step: A'u is zero, or not finite."""
    if not math.isfinite(B.alpha):
        return Status.BREAKDOWN
    return Status.LEAST_SQUARES if B.alpha == 0.0 else None


Cycle = Callable[[System, Posed], Status]


def solve_least_squares(
    cycle: Cycle,
    A: Any,
    b: Tensor,
    x0: Tensor | None,
    *,
    M: Any,
    damp: float,
    rtol: float,
    atol: float,
    maxiter: int | None,
    callback: Callback | None,
    method: str,
) -> LinearResult:
    """Pose the problem, and run cycles of a method until its end; parameters as of `lsmr`."""
    problem = posed_by(A, b, damp)
    if problem is not None:
        A = NormalOperator(problem.J, problem.u, problem.shift)
        b = A.b
    system = System(
        A, b, x0, M=M, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback,
        method=method, symmetric=False,
    )  # fmt: skip
    posed = Posed(system, problem or system.A.least_squares(system.b))
    return solve(system, lambda s: cycle(s, posed))


def posed_by(A: Any, b: Tensor, damp: float) -> LeastSquares | None:
    """Return the problem that a rectangular matrix, or damping, poses; None for a square system.

    Parameters
    ----------
    A, b, damp
        As of `lsmr`.

    Returns
    -------
    LeastSquares or None
        Of J and b.
    """
    if isinstance(A, RectangularOperator):
        return LeastSquares(as_rectangular(A, b), b.detach(), damp**2)
    shape = getattr(A, "shape", None)
    if shape is not None and len(shape) == 2 and shape[0] != shape[1]:
        return LeastSquares(as_rectangular(A, b), b.detach(), damp**2)
    if damp == 0:
        return None
    square = System(
        A, b, None, rtol=0.0, atol=0.0, maxiter=None, callback=None, method="", symmetric=False
    ).A
    J = FunctionMap(square.matvec, square.rmatvec, square.shape, b.dtype, b.device)
    return LeastSquares(J, b.detach(), damp**2)
