"""What every linear solver takes and returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from torch import Tensor

from newton_krylov.operators import LinearOperator

Preconditioner = Callable[[Tensor], Tensor]
"""v -> M v, with M an approximation of the inverse of A (symmetric positive definite where the
solver is for symmetric systems)."""

Callback = Callable[[Tensor, float], None]
"""Called after every iteration with the iterate x, shape (n,), and its residual norm."""


class Status(StrEnum):
    """Why a linear solver stopped; the optimizer branches on this, never on "convex"."""

    CONVERGED = "converged"
    MAXITER = "maxiter"
    BREAKDOWN = "breakdown"
    NEGATIVE_CURVATURE = "negative_curvature"
    STAGNATED = "stagnated"
    LEAST_SQUARES = "least_squares"

    @property
    def remedy(self) -> str:
        """What the status means and what a user can do about it."""
        return _REMEDY[self]


_REMEDY = {
    Status.CONVERGED: "the residual meets the tolerance",
    Status.MAXITER: "the iteration limit came first: raise maxiter, loosen rtol, "
    "or give a preconditioner",
    Status.BREAKDOWN: "the method cannot go on (singular or inconsistent system, or a "
    "preconditioner that is not positive definite): try minres_qlp, or add damping",
    Status.NEGATIVE_CURVATURE: "the operator is not positive definite: a direction d with "
    "d'Ad <= 0 is returned; follow it, add damping, or use minres",
    Status.STAGNATED: "rounding errors (or too short restarts) keep the residual above the "
    "tolerance: loosen rtol, precondition, or raise restart",
    Status.LEAST_SQUARES: "the system has no solution (A is singular and b outside its range): x "
    "minimizes |b - A x|; add damping to make the system solvable",
}


@dataclass(frozen=True)
class LinearResult:
    """The outcome of a linear solve.

    Attributes
    ----------
    x : Tensor, shape (n,)
        The last iterate; that of the best cycle, where the method started over.
    status : Status
        Why the solver stopped.
    iterations : int
        Steps taken.
    matvecs : int
        Products with A, those for the initial and the verified residual included (not those that
        look at an explicit matrix's symmetry before the start).
    residual_norms : list of float
        Euclidean norms of b - A x, of the start and after each iteration.
    direction : Tensor or None, shape (n,)
        Where the solver met d'A d <= 0 (within rounding): that direction d, with b'd >= 0 or,
        for an iterative solver, (b - A x)'d >= 0 at the iterate x of that moment. With
        `BREAKDOWN`, A d = 0 within rounding.
    tolerance : float or None
        What |b - A x| was to be at most.
    """

    x: Tensor
    status: Status
    iterations: int
    matvecs: int
    residual_norms: list[float] = field(default_factory=list)
    direction: Tensor | None = None
    tolerance: float | None = None

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met, whatever else the status says of A."""
        if self.tolerance is None or not self.residual_norms:
            return self.status is Status.CONVERGED
        return self.residual_norms[-1] <= self.tolerance


class LinearSolver(Protocol):
    """Solves A x = b: a function, its options bound; a caller may override any of them."""

    def __call__(self, A: LinearOperator, b: Tensor, **options: Any) -> LinearResult:
        """Solve; the options every solver knows are `x0`, `M`, `rtol`, `atol`, `maxiter`."""
        ...
