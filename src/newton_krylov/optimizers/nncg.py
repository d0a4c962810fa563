"""Newton's method by conjugate gradients that a Nystrom sketch of the Hessian preconditions."""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.linear_solvers.cg import cg
from newton_krylov.linear_solvers.result import LinearResult
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.optimizers.forcing import Forcing, Outer
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.newton_step import along_curvature
from newton_krylov.preconditioners.nystrom import deflation, nystrom_approximation
from newton_krylov.registry import assembled, register


class _Sketch(Memory):
    """U diag(values) U', near the Hessian some steps ago; None before the first."""

    def __init__(self) -> None:
        self.U: Tensor | None = None
        self.values: Tensor | None = None
        self.age = 0

    def renew(self, A: LinearOperator, rank: int, generator: torch.Generator) -> None:
        """Sketch the Hessian."""
        rank = min(rank, A.shape[0])
        self.U, self.values = nystrom_approximation(A, rank, generator, indefinite=True)
        self.age = 0


@assembled
@register("optimizer", "nncg")
class NNCG(ContinuedOptimizer[_Sketch]):
    """Newton's method by Nystrom-preconditioned conjugate gradients (NysNewton-CG).

    Rathore, Lei, Frangella, Lu and Udell, "Challenges in training PINNs: a loss landscape
    perspective" (ICML 2024): a step solves (H + mu I) p = -g by conjugate gradients whose
    preconditioner is made of a randomized Nystrom sketch of H (Frangella, Tropp and Udell 2023),
    renewed every few steps, and searches along p. Negative curvature ends the conjugate gradients
    at what they have so far. The paper tunes mu between 1e-5 and 1e-1; here mu is relative to the
    largest eigenvalue of the sketch, so that the unit of the loss changes nothing.

    Parameters
    ----------
    curvature : Curvature
        What stands for the Hessian.
    line_search : LineSearch
        Chooses the step size; the paper's is `armijo`.
    forcing : Forcing
        Chooses the tolerance of the conjugate gradients; the paper's is 1e-16.
    rank : int
        Products of a sketch, and its vectors.
    every : int
        Steps from one sketch to the next.
    damping : float
        mu over the largest eigenvalue of the sketch.
    maxiter : int
        Limit of the conjugate gradients' iterations.
    """

    def __init__(
        self,
        curvature: Curvature,
        line_search: LineSearch,
        forcing: Forcing,
        rank: PositiveInt = 60,
        every: PositiveInt = 20,
        damping: NonNegativeFloat = 1e-6,
        maxiter: PositiveInt = 1000,
    ) -> None:
        self.curvature, self.line_search, self.forcing = curvature, line_search, forcing
        self.rank, self.every, self.damping, self.maxiter = rank, every, damping, maxiter

    def memory(self, objective: Objective, w0: Tensor) -> _Sketch:
        """Return no sketch."""
        return _Sketch()

    def iterate(
        self, objective: Objective, w0: Tensor, memory: _Sketch, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where no direction of descent is left."""
        point = objective.at(w0)
        yield Step(point)
        while point.grad_norm > 0:
            A = self.curvature.at(point, generator)
            if memory.U is None or memory.age >= self.every:
                memory.renew(A, self.rank, generator)
            memory.age += 1
            inner = self._solved(A, point, memory)
            p, notes = _descent(point, A, inner)
            found = self.line_search(point.ray(p))
            if not found.accepted:
                notes = (*notes, "along -gradient")
                found = self.line_search(point.ray(-point.grad))
            if not found.accepted:
                return "no step along -gradient lowers the loss beyond its rounding error"
            point = found.point
            yield Step(point, found.alpha, inner.iterations, notes)
        return "the gradient is zero"

    def _solved(self, A: LinearOperator, point: Point, sketch: _Sketch) -> LinearResult:
        assert sketch.U is not None and sketch.values is not None
        mu = self.damping * float(sketch.values[0])
        return cg(
            A.affine(shift=mu), -point.grad, M=deflation(sketch.U, sketch.values, mu),
            rtol=self.forcing(Outer(point.grad_norm, None)), maxiter=self.maxiter,
        )  # fmt: skip


def _descent(
    point: Point, A: LinearOperator, inner: LinearResult
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the solver's answer, or where that is no way down the direction that it met."""
    notes = () if inner.converged else (f"solver: {inner.status}",)
    if float(torch.dot(inner.x, point.grad)) < 0:
        return inner.x, notes
    if inner.direction is None:
        return -point.grad, (*notes, "along -gradient")
    return along_curvature(point, A, inner.direction), notes
