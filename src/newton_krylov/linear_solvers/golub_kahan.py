"""Golub and Kahan's bidiagonalization, and the least-squares problem that LSQR and LSMR solve."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from newton_krylov.linear_solvers.result import Callback, LinearResult, Status
from newton_krylov.norms import euclidean
from newton_krylov.operators import as_operator, check_vector
from newton_krylov.rectangular import Damped, pose

ITERATIONS_PER_UNKNOWN = 10
"""The default `maxiter` is this times n."""

_MEND = 0.25
"""A cycle after the first aims at this part of the tolerance."""
_MEANINGLESS_AT = 0.01
"""A recurred gradient below this part of its rounding says nothing any more."""
_PROGRESS = 0.5
"""A cycle that does not at least halve the true gradient is the last one."""


class Problem:
    """The minimum of |A x - u| while it is being sought; A = [J; damp I] where there is damping.

    What must get small is the gradient A'(u - A x), the residual of the normal equations: its
    norm is what `norms` has, and a status is of.

    Parameters
    ----------
    A, b, x0, M, damp, rtol, atol, maxiter, callback
        As in `lsmr`.

    Attributes
    ----------
    x : Tensor, shape (n,)
        The iterate at the start of the cycle.
    d : Tensor, shape (n,)
        How far the cycle has gone; added to x at its end, so that a cycle that mends another
        rounds as its own small numbers do.
    N : callable or None
        The preconditioner, near (A'A)^-1.
    norms : list of float
        Norms of the gradients so far.
    """

    def __init__(
        self,
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
    ) -> None:
        check_vector("b", b, b)
        posed = pose(A, b, damp)
        self.J = posed.J if posed.shift == 0 else Damped(posed.J, posed.shift)
        n = self.J.shape[1]
        self._u = torch.cat((posed.u.detach(), b.new_zeros(self.J.shape[0] - len(posed.u))))
        zero = b.new_zeros(n)
        if x0 is not None:
            check_vector("x0", x0, zero)
        self.x = zero.clone() if x0 is None else x0.detach().clone()
        self.d = zero
        self.N = None if M is None else as_operator(M, zero, name="M").matvec
        self.callback = callback
        self.iterations = self.matvecs = self.cycles = 0
        self.maxiter = ITERATIONS_PER_UNKNOWN * n if maxiter is None else maxiter
        self._eps = torch.finfo(b.dtype).eps
        self._norm_J = 0.0  # as far as it has been seen
        first = euclidean(self.J.rmatvec(self._u))
        self.threshold = max(rtol * first, atol)
        self.norms = [first if x0 is None else self.gradient()]

    def residual(self) -> Tensor:
        """Return u - A x at the start of a cycle; the caller may overwrite it."""
        if not self.x.any():
            return self._u.clone()
        self.matvecs += 1
        return self._u - self.J.matvec(self.x)

    def gradient(self) -> float:
        """Return |A'(u - A x)|, by products."""
        return euclidean(self.J.rmatvec(self.residual()))

    def advance(self, B: "Bidiagonalization", gradient: float) -> Status | None:
        """Record one iteration; return why the cycle has ended, if it has.

        Parameters
        ----------
        B : Bidiagonalization
            After the step.
        gradient : float
            |A'(u - A x)|, or an estimate of it.

        Returns
        -------
        Status or None
            `CONVERGED` means that the recurrences say so.
        """
        self._norm_J = max(self._norm_J, math.hypot(B.alpha, B.beta))
        self.record(gradient)
        aim = self.threshold * (1.0 if self.cycles == 0 else _MEND)
        rounding = self._eps * self._norm_J * B.start if self.N is None else 0.0
        if gradient <= max(aim, _MEANINGLESS_AT * rounding):
            return Status.CONVERGED
        return Status.MAXITER if self.iterations >= self.maxiter else None

    def record(self, gradient: float) -> None:
        """Count an iteration, and show it."""
        self.iterations += 1
        self.norms.append(gradient)
        if self.callback is not None:
            self.callback(self.x + self.d, gradient)

    def close(self) -> float:
        """End a cycle: go where it led, and return the true gradient's norm there."""
        self.x.add_(self.d)
        self.d = torch.zeros_like(self.x)
        self.cycles += 1
        return self.gradient()

    def result(self, status: Status) -> LinearResult:
        """Make the result, with the current iterate."""
        return LinearResult(
            self.x, status, self.iterations, self.matvecs, self.norms, tolerance=self.threshold
        )


class Bidiagonalization:
    """A V = U B with orthonormal U, and V orthonormal in the inner product of N^-1.

    Parameters
    ----------
    problem : Problem
        Gives A and N.
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
    start : float
        The first beta, |u|.
    """

    def __init__(self, problem: Problem, u: Tensor) -> None:
        self._problem = problem
        self.start = self.beta = euclidean(u)
        self._u = u.div_(self.beta)
        self._take(problem.J.rmatvec(self._u))

    def step(self) -> None:
        """Add a column to U and one to V: a product with A, and one with its transpose."""
        self._problem.matvecs += 1
        self._u.mul_(-self.alpha).add_(self._problem.J.matvec(self.v))
        self.beta = euclidean(self._u)
        if self.beta > 0:
            self._u.div_(self.beta)
        self._take(self._problem.J.rmatvec(self._u).sub_(self.p, alpha=self.beta))

    def _take(self, p: Tensor) -> None:
        """Normalize N p, unless it is zero, or N is not positive definite: then alpha is nan."""
        N = self._problem.N
        v = p if N is None else N(p).detach()
        square = euclidean(p) ** 2 if N is None else float(torch.dot(p, v))
        self.alpha = euclidean(p) if N is None else math.nan
        if N is not None and square >= 0:
            self.alpha = math.sqrt(square)
        if self.alpha > 0:
            p, v = p / self.alpha, v / self.alpha
        self.p, self.v = p, p if N is None else v


Cycle = Callable[[Problem, Bidiagonalization], Status]


def minimize(problem: Problem, cycle: Cycle) -> LinearResult:
    """Run cycles of a method until the true gradient meets the tolerance or cannot.

    Parameters
    ----------
    problem : Problem
        Problem not yet iterated.
    cycle : callable
        Runs the method from `problem.x` and returns why it ended.

    Returns
    -------
    LinearResult
        The result, whose last norm is the true one.
    """
    norm, status = problem.norms[0], None
    if not math.isfinite(norm):
        problem.x = torch.zeros_like(problem.x)
        status = Status.BREAKDOWN
    best = problem.x.clone()
    while status is None and norm > problem.threshold:
        B = Bidiagonalization(problem, problem.residual())
        ended = cycle(problem, B) if B.alpha > 0 and math.isfinite(B.alpha) else Status.BREAKDOWN
        problem.norms[-1] = end = problem.close()
        if not end < norm:  # rounding, or a step that is not finite
            problem.x, problem.norms[-1] = best, norm
        if ended is not Status.CONVERGED:
            status = ended
        elif not end <= max(_PROGRESS * norm, problem.threshold):
            status = Status.STAGNATED
        norm, best = problem.norms[-1], problem.x.clone()
    converged = norm <= problem.threshold and status is not Status.BREAKDOWN
    return problem.result(Status.CONVERGED if converged else status or Status.STAGNATED)
