"""Newton's method with any linear solver and any curvature."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.linear_solvers.lanczos import lanczos
from newton_krylov.linear_solvers.result import LinearResult, LinearSolver, Status
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator, ShiftedOperator
from newton_krylov.optimizers.base import Optimizer, Step, Steps, settled
from newton_krylov.optimizers.forcing import Forcing, Inner, Outer
from newton_krylov.optimizers.line_search import Found, LineSearch
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register


@dataclass(frozen=True)
class Direction:
    """Where a Newton step is to go.

    Attributes
    ----------
    p : Tensor, shape (dim,)
        A direction of descent.
    eta : float
        The forcing term that was asked.
    inner : LinearResult
        The linear solver's answer.
    note : str
        What else was done, in words.
    """

    p: Tensor
    eta: float
    inner: LinearResult
    note: str


@register("optimizer", "newton")
class Newton(Optimizer):
    """Newton's method: solve H p = -g by the chosen solver, then search along p.

    With an iterative solver this is the inexact Newton method of Dembo, Eisenstat and Steihaug
    (1982); "Newton-CG", "Newton-GMRES", "Newton-CR" and exact Newton are this one loop with
    different solvers.

    What it does depends on the solver's status alone. A direction of negative curvature d is
    either followed (`follow`: along d, downhill, by |g'd| / |d'Hd|, the length Newton's method
    would take on the curvature's absolute value, at most 1 + |w|) or ignored in favour of the
    iterate the solver had before it met d (`truncate`, the rule of Steihaug and of Nocedal and
    Wright's algorithm 7.1). A direction that is not one of descent, and one along which the line
    search finds nothing, give way to -g. A zero gradient is not yet a minimum: the bottom of the
    spectrum is looked at, and a saddle is left along its most negative curvature.

    Parameters
    ----------
    solver : LinearSolver
        Solves the inner system; gets the forcing term as `rtol`.
    curvature : Curvature
        What stands for the Hessian.
    line_search : LineSearch
        Chooses the step size.
    forcing : Forcing
        Chooses the inner tolerance.
    preconditioner : PreconditionerBuilder
        Built anew at every point.
    damping : float
        tau >= 0 in (H + tau I) p = -g.
    negative_curvature : {"follow", "truncate"}
        What to do with a direction of negative curvature.
    """

    def __init__(
        self,
        solver: LinearSolver,
        curvature: Curvature,
        line_search: LineSearch,
        forcing: Forcing,
        preconditioner: PreconditionerBuilder,
        damping: NonNegativeFloat = 0.0,
        negative_curvature: Literal["follow", "truncate"] = "follow",
    ) -> None:
        self.solver = solver
        self.curvature = curvature
        self.line_search = line_search
        self.forcing = forcing
        self.preconditioner = preconditioner
        self.damping = damping
        self.negative_curvature = negative_curvature

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; ends by itself where no direction of descent is left."""
        point = settled(objective.at(w0))
        yield Step(point)
        last: Inner | None = None
        while True:
            advanced = self.advance(point, self.operator(point, generator), last, generator)
            if isinstance(advanced, str):
                return advanced
            step, last = advanced
            point = settled(step.point)
            yield step

    def operator(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the matrix of the Newton system at a point: the curvature and the damping.

        Parameters
        ----------
        point : Point
            Where.
        generator : torch.Generator
            For curvatures that draw samples.

        Returns
        -------
        LinearOperator
            Shape (dim, dim), symmetric.
        """
        A = self.curvature.at(point, generator)
        return ShiftedOperator(A, self.damping) if self.damping > 0 else A

    def advance(
        self, point: Point, A: LinearOperator, last: Inner | None, generator: torch.Generator
    ) -> tuple[Step, Inner] | str:
        """Make one Newton step: solve, turn to descent where need be, search.

        Parameters
        ----------
        point : Point
            Where the step starts.
        A : LinearOperator
            The matrix of the Newton system there.
        last : Inner or None
            What the step before left for the forcing term.
        generator : torch.Generator
            The run's source of randomness.

        Returns
        -------
        tuple of Step and Inner, or str
            The step, its point not yet evaluated beyond what the search needed; or why there is
            none.
        """
        direction = self.direction(point, A, last, generator)
        return direction if isinstance(direction, str) else self.search(point, direction)

    def direction(
        self, point: Point, A: LinearOperator, last: Inner | None, generator: torch.Generator
    ) -> "Direction | str":
        """Solve the Newton system and turn its answer to descent; parameters as of `advance`."""
        eta = self.forcing(Outer(point.grad_norm, last))
        M = self.preconditioner.build(A, generator)
        inner = self.solver(A, -point.grad, rtol=eta, M=M)
        p, note = self._direction(point, A, inner, generator)
        return note if p is None else Direction(p, eta, inner, note)

    def search(self, point: Point, direction: "Direction") -> tuple[Step, Inner] | str:
        """Search along a direction from `direction`; returns as `advance` does."""
        found, note = self._search(point, direction.p, direction.note)
        if not found.accepted:
            return "no step along -gradient lowers the loss beyond its rounding error"
        inner = direction.inner
        step = Step(found.point, found.alpha, inner.iterations, note)
        residual_norm = inner.residual_norms[-1]
        return step, Inner(direction.eta, point.grad_norm, residual_norm, found.alpha)

    def _direction(
        self, point: Point, A: LinearOperator, inner: LinearResult, generator: torch.Generator
    ) -> tuple[Tensor | None, str]:
        """Turn the solver's answer into a direction of descent, and say what was done."""
        if point.grad_norm == 0.0:
            return self._leave_saddle(point, A, generator)
        note = "" if inner.converged else f"solver: {inner.status}"
        p = inner.x
        if inner.status is Status.NEGATIVE_CURVATURE and self.negative_curvature == "follow":
            assert inner.direction is not None
            p = _along(point, A, inner.direction)
        if float(torch.dot(point.grad, p)) < 0:
            return p, note
        return -point.grad, f"{note}; along -gradient".lstrip("; ")

    def _leave_saddle(
        self, point: Point, A: LinearOperator, generator: torch.Generator
    ) -> tuple[Tensor | None, str]:
        pair = lanczos(A, 1, which="smallest", generator=generator)
        if float(pair.values[0]) >= -float(pair.residual_norms[0]):
            return None, "the gradient is zero and the curvature is not negative"
        return _along(point, A, pair.vectors[:, 0]), "left a saddle point"

    def _search(self, point: Point, p: Tensor, note: str) -> tuple[Found, str]:
        found = self.line_search(point.ray(p))
        if found.accepted:
            return found, note
        return (
            self.line_search(point.ray(-point.grad)),
            f"{note}; step refused, along -gradient".lstrip("; "),
        )


def _along(point: Point, A: LinearOperator, d: Tensor) -> Tensor:
    """Scale a direction of nonpositive curvature to a step downhill."""
    d = d / torch.linalg.vector_norm(d)
    slope, curvature = torch.stack([torch.dot(point.grad, d), torch.dot(d, A @ d)]).tolist()
    bound = 1.0 + float(torch.linalg.vector_norm(point.w))
    # Without a slope (a saddle) the curvature itself is the length, as Royer, O'Neill and Wright
    # (2020) scale it; a vanishing curvature asks for the bound.
    length = abs(slope / curvature) if curvature != 0 else bound
    length = min(max(length, abs(curvature)), bound)
    return d.mul_(-length if slope > 0 else length)
