"""A step of Newton's method: a value that turns a point and a memory into the next point."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.linear_solvers.result import LinearResult, LinearSolver, Status
from newton_krylov.norms import euclidean, norm
from newton_krylov.objectives.base import Point
from newton_krylov.operators import Capability, LinearOperator
from newton_krylov.optimizers.base import Memory, State, Step
from newton_krylov.optimizers.damping import Damping, Trial
from newton_krylov.optimizers.forcing import Forcing, Inner, Outer
from newton_krylov.optimizers.line_search import LineSearch, none
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import assembled
from newton_krylov.spectral.lanczos import lanczos

NegativeCurvature = Literal["follow", "truncate", "ignore"]


@dataclass(frozen=True)
class Direction:
    """Where a Newton step is to go.

    Attributes
    ----------
    p : Tensor, shape (dim,)
        A direction of descent.
    A : LinearOperator
        The curvature it was made with, without damping.
    eta : float
        The forcing term that was asked.
    inner : LinearResult
        The linear solver's answer.
    notes : tuple of str
        What else was done, in words.
    solved : bool
        Whether p is the solver's answer, up to its length.
    """

    p: Tensor
    A: LinearOperator
    eta: float
    inner: LinearResult
    notes: tuple[str, ...] = ()
    solved: bool = True


_PATIENCE = 3
_MOST_PRODUCTS = 200
"""To learn a curvature's diagonal, where nothing else helps any more."""


@dataclass(frozen=True)
class NoStep:
    """Nothing that lowers the loss beyond its rounding error.

    Attributes
    ----------
    reason : str
        Reason in words.
    relaxed : bool
        Whether the damping has become smaller, so that another solve may help.
    """

    reason: str
    relaxed: bool = False


class NewtonMemory(Memory):
    """What Newton's method carries from one step to the next.

    Parameters
    ----------
    curvature, damping, preconditioner
        Copies, which may remember things of their own, such as the last eigenvectors.

    Attributes
    ----------
    last : Inner or None
        The last inner solve, for the forcing term.
    scaled : bool
        Whether systems are solved in variables scaled by the curvature's diagonal: from where
        nothing else had helped any more.
    value : float or None
        The loss where the last step began, where that need not be convex.
    still : int
        How many steps in a row have not changed it beyond rounding.
    """

    def __init__(
        self, curvature: Curvature, damping: Damping, preconditioner: PreconditionerBuilder
    ) -> None:
        self.curvature, self.damping, self.preconditioner = curvature, damping, preconditioner
        self.last: Inner | None = None
        self.scaled = False
        self.value: float | None = None
        self.still = 0

    def state_dict(self) -> State:
        """Return the attributes, the last inner solve as a dict."""
        return {**super().state_dict(), "last": None if self.last is None else asdict(self.last)}

    def load_state_dict(self, state: State) -> None:
        """Take the attributes from a checkpoint."""
        last = state["last"]
        super().load_state_dict({**state, "last": None if last is None else Inner(**last)})


@assembled
@dataclass(frozen=True)
class NewtonStep:
    """A step of Newton's method: solve (A + damping) p = -g, then search along p.

    With an iterative solver this is the inexact Newton method of Dembo, Eisenstat and Steihaug
    (1982); "Newton-CG", "Newton-GMRES", "Newton-CR" and exact Newton are this one step with
    different solvers.

    What it does depends on the solver's status alone. A direction of negative curvature d is
    either followed (`follow`: along d, downhill, by |g'd| / |d'Hd|, the length Newton's method
    would take on the curvature's absolute value, at most 1 + |w|) or ignored in favour of the
    iterate the solver had before it met d (`truncate`, the rule of Steihaug and of Nocedal and
    Wright's algorithm 7.1; a direct solver has none, and its solution may lead to a saddle, as may
    that of a solver that does not look at the curvature). A direction that is not one of descent,
    and one along which the line search finds nothing, give way to -g. A zero gradient is not yet a
    minimum: the bottom of the spectrum is looked at, and a saddle is left along its most negative
    curvature. With a damping that adapts, a step that does not lower the loss is refused, and
    nothing else is tried in its place.

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
        Built for the damped curvature of every point.
    damping : Damping
        What is added to the curvature.
    negative_curvature : {"follow", "truncate", "ignore"}
        What to do with a direction of negative curvature; `ignore` takes the solver's answer as
        it is, uphill or not, as the paper's code does.
    """

    solver: LinearSolver
    curvature: Curvature
    line_search: LineSearch
    forcing: Forcing
    preconditioner: PreconditionerBuilder
    damping: Damping
    negative_curvature: NegativeCurvature = "follow"

    def memory(self) -> NewtonMemory:
        """Return what a run, or a layer of it, starts with."""
        return NewtonMemory(*copy.deepcopy((self.curvature, self.damping, self.preconditioner)))

    def __call__(
        self, point: Point, memory: NewtonMemory, generator: torch.Generator
    ) -> Step | str:
        """Make a step.

        Parameters
        ----------
        point : Point
            Where it starts.
        memory : NewtonMemory
            From the steps before; changed.
        generator : torch.Generator
            The run's source of randomness.

        Returns
        -------
        Step or str
            Or why there is none.
        """
        return self.along(point, memory.curvature.at(point, generator), memory, generator)

    def along(
        self,
        point: Point,
        A: LinearOperator,
        memory: NewtonMemory,
        generator: torch.Generator,
        adjust: Callable[[Direction], Direction] = lambda direction: direction,
    ) -> Step | str:
        """Make a step with a given curvature A, (dim, dim); see `__call__`.

        Before it says that there is none, the system is solved more tightly (a loose solution may
        predict little only because the steepest directions are all that it looked at), a damping
        that is larger than the curvature is reduced, and the parameters are scaled. `adjust`
        changes directions.
        """
        eta = self.forcing(Outer(point.grad_norm, memory.last))
        eps = torch.finfo(A.dtype).eps
        if _stands_still(point, A, memory):
            memory.scaled, eta = True, min(eta, math.sqrt(eps))
        tighter = iter([tight for tight in (math.sqrt(eps), 10 * eps) if tight < eta])
        while True:
            direction = self.direction(point, A, memory, generator, eta)
            if isinstance(direction, str):
                return direction
            scalable = not memory.scaled and _has_scale(A)
            if scalable and _failed(direction.inner):
                memory.scaled = True
                continue
            step = self.take(point, adjust(direction), memory)
            if isinstance(step, Step):
                return step
            if step.relaxed:
                continue
            if (tight := next(tighter, None)) is not None:
                eta = tight
            elif scalable:
                memory.scaled = True
            else:
                return step.reason

    def direction(
        self,
        point: Point,
        A: LinearOperator,
        memory: NewtonMemory,
        generator: torch.Generator,
        eta: float | None = None,
    ) -> Direction | str:
        """Solve the damped system, and turn its answer to descent where need be.

        Parameters
        ----------
        point : Point
            Where the step starts.
        A : LinearOperator
            The curvature there, without damping.
        memory : NewtonMemory
            From the steps before.
        generator : torch.Generator
            The run's source of randomness.
        eta : float, optional
            The relative residual to ask for; the forcing term's by default.

        Returns
        -------
        Direction or str
            Or why there is none.
        """
        eta = eta or self.forcing(Outer(point.grad_norm, memory.last))
        if memory.scaled:
            damped, inner = self._solved_in_scale(point, A, memory, generator, eta)
        else:
            damped = memory.damping.damped(A, generator)
            inner = self._solved(damped, -point.grad, memory, generator, eta)
        if point.grad_norm == 0.0:
            found = _leave_saddle(point, A, damped, generator)
        else:
            found = self._descent(point, damped, inner, eta)
        if isinstance(found, str):
            return found
        p, notes = found
        return Direction(p, A, eta, inner, notes, p is inner.x)

    def _solved(
        self,
        A: LinearOperator,
        b: Tensor,
        memory: NewtonMemory,
        generator: torch.Generator,
        eta: float,
    ) -> LinearResult:
        return self.solver(A, b, rtol=eta, M=memory.preconditioner.build(A, generator))

    def _solved_in_scale(
        self,
        point: Point,
        A: LinearOperator,
        memory: NewtonMemory,
        generator: torch.Generator,
        eta: float,
    ) -> tuple[LinearOperator, LinearResult]:
        """Solve in variables in which the curvature has a diagonal of ones (Marquardt, 1963).

        Neither the solver nor an adaptive damping then sees the units of the parameters. Returns
        the damped matrix and the answer in the parameters' own units.
        """
        s = _scale(A)
        if memory.damping.adaptive:
            scaled = memory.damping.damped(InScale(A, s, shifted=True), generator)
        else:
            scaled = InScale(memory.damping.damped(A, generator), s)
        inner = self._solved(scaled, -point.grad * s, memory, generator, eta)
        direction = None if inner.direction is None else inner.direction * s
        inner = replace(inner, x=inner.x * s, direction=direction)
        return InScale(scaled, 1 / s), inner

    def _descent(
        self, point: Point, damped: LinearOperator, inner: LinearResult, eta: float
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Turn the solver's answer into a direction of descent, and say what was done."""
        notes = () if inner.status is Status.CONVERGED else (f"solver: {inner.status}",)
        p = inner.x
        if self.negative_curvature == "ignore":
            return p, notes
        if inner.status is Status.NEGATIVE_CURVATURE and self.negative_curvature == "follow":
            assert inner.direction is not None
            p = along_curvature(point, damped, inner.direction)
            if inner.residual_norms[-1] <= eta * inner.residual_norms[0]:
                p = p + self._beside(point, damped, inner.direction, eta)
        if float(torch.dot(point.grad, p)) < 0:
            return p, notes
        return -point.grad, (*notes, "along -gradient")

    def _beside(self, point: Point, damped: LinearOperator, d: Tensor, eta: float) -> Tensor:
        """Return the step's part beside d, where a direct solver gives one eigenvector d.

        Krylov's space makes a mixture of such a direction and the gradient. Here the rest of the
        gradient is followed by the matrix that is shifted as far as along d the step remains.
        """
        d = d / norm(d)
        shift = 2 * abs(float(torch.dot(d, damped @ d)))
        p = self.solver(damped.affine(shift=shift), -point.grad, rtol=eta).x
        p = p - d * torch.dot(d, p)
        length = euclidean(p)
        bound = 1.0 + euclidean(point.w)
        return p * (bound / length) if length > bound else p

    def take(self, point: Point, direction: Direction, memory: NewtonMemory) -> "Step | NoStep":
        """Search along a direction, and where the damping adapts, judge what that comes to.

        Parameters
        ----------
        point : Point
            Where the step starts.
        direction : Direction
            Descent direction.
        memory : NewtonMemory
            Changed: the damping learns, and the next forcing term.

        Returns
        -------
        Step or NoStep
            The step, whose point is not evaluated beyond what the search needed; a refused step
            ends where it began.
        """
        if memory.damping.adaptive:
            return self._try(point, direction, memory)
        found = self.line_search(point.ray(direction.p))
        # A step of another kind says nothing to the forcing term about the system's solution.
        memory.last = _inner(point, direction, found.alpha)
        if found.accepted and torch.equal(found.point.w, point.w):
            return NoStep("the step is lost in the rounding of the parameters")
        if found.accepted:
            return _step(found.point, found.alpha, direction)
        found = self.line_search(point.ray(-point.grad))
        if not found.accepted:
            return NoStep("no step along -gradient lowers the loss beyond its rounding error")
        return _step(found.point, found.alpha, direction, "step refused, along -gradient")

    def _try(self, point: Point, direction: Direction, memory: NewtonMemory) -> "Step | NoStep":
        """Make the step or refuse it, as the damping judges."""
        search = none if memory.damping.full_steps else self.line_search
        found = search(point.ray(direction.p))
        p = direction.p * (found.alpha or 1.0)
        trial = _trial(point, direction.A, p, found.point.value - point.value)
        if not trial.actual < 0 and abs(trial.predicted) <= point.objective.rounding(point.value):
            relaxed = memory.damping.relax(trial)
            return NoStep("no step lowers the loss beyond its rounding error", relaxed)
        accepted = memory.damping.judge(trial) and found.accepted
        memory.last = _inner(point, direction, found.alpha if accepted else 0.0)
        if accepted:
            return _step(found.point, found.alpha, direction)
        return _step(point, 0.0, direction, "step refused")


def _inner(point: Point, direction: Direction, alpha: float) -> Inner:
    """Return what the forcing term is to know of a step."""
    followed = alpha if direction.solved else 0.0
    return Inner(direction.eta, point.grad_norm, direction.inner.residual_norms[-1], followed)


def _failed(inner: LinearResult) -> bool:
    """Return whether rounding errors kept a solver from bringing the residual down at all."""
    gave_up = inner.status in (Status.BREAKDOWN, Status.STAGNATED)
    return gave_up and inner.residual_norms[-1] > inner.residual_norms[0]


def _stands_still(point: Point, A: LinearOperator, memory: NewtonMemory) -> bool:
    """Return whether the last accepted steps have changed nothing.

    It allows for the rounding error of the loss. A convex loss is minimal there; another one may
    have no better step in the parameters' own units.
    """
    if memory.damping.adaptive or point.objective.convexity is not None or not _has_scale(A):
        return False
    value, memory.value = memory.value, point.value
    same = value is not None and abs(value - point.value) <= point.objective.rounding(point.value)
    memory.still = memory.still + 1 if same else 0
    return memory.still >= _PATIENCE


def _has_scale(A: LinearOperator) -> bool:
    """Return whether the curvature's diagonal is affordable."""
    return A.has_diagonal or A.shape[0] <= _MOST_PRODUCTS


def _scale(A: LinearOperator) -> Tensor:
    """Return s > 0 with s_i A_ii s_i = 1 in absolute value, shape (dim,)."""
    sizes = A.diagonal().abs()
    largest = sizes.max()
    return torch.where(sizes > 0, sizes, torch.where(largest > 0, largest, 1.0)).rsqrt()


class InScale(LinearOperator):
    """diag(s) A diag(s), with A's closed form where it has one and nothing is to be added.

    Parameters
    ----------
    A : LinearOperator
        Symmetric.
    s : Tensor, shape (n,)
        Above 0.
    shifted : bool
        Whether a multiple of the identity will be added, of which A's closed form knows nothing.
    """

    def __init__(self, A: LinearOperator, s: Tensor, *, shifted: bool = False) -> None:
        super().__init__(A.shape[0], A.dtype, A.device, symmetric=A.symmetric)
        self._A, self._s, self._shifted = A, s, shifted

    @property
    def capabilities(self) -> frozenset[Capability]:
        """A solve, where A has one."""
        return frozenset() if self._shifted else self._A.capabilities & {"solve"}

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self._s * (self._A @ (self._s * v))

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve by A's closed form, b of shape (n,)."""
        if shift != 0.0 or self._shifted:
            return super().solve(b, shift)
        return self._A.solve(b / self._s) / self._s


def _step(point: Point, alpha: float, direction: Direction, *notes: str) -> Step:
    return Step(point, alpha, direction.inner.iterations, (*direction.notes, *notes))


def _trial(point: Point, A: LinearOperator, p: Tensor, actual: float) -> Trial:
    products = torch.dot(point.grad, p), torch.dot(p, A @ p), torch.dot(p, p)
    slope, bend, square = torch.stack(products).tolist()
    return Trial(actual, slope + bend / 2, bend / square if square > 0 else 0.0)


def _leave_saddle(
    point: Point, A: LinearOperator, damped: LinearOperator, generator: torch.Generator
) -> tuple[Tensor, tuple[str, ...]] | str:
    """Follow the most negative curvature of A itself, less far as there is more damping."""
    pair = lanczos(A, 1, which="smallest", generator=generator)
    if float(pair.values[0]) >= -float(pair.residual_norms[0]):
        return "the gradient is zero and the curvature is not negative"
    d = pair.vectors[:, 0]
    curvature, with_damping = torch.stack([torch.dot(d, A @ d), torch.dot(d, damped @ d)]).tolist()
    length = 1 / (1 + (with_damping - curvature) / abs(curvature))
    return along_curvature(point, A, d) * length, ("left a saddle point",)


def along_curvature(point: Point, A: LinearOperator, d: Tensor) -> Tensor:
    """Scale a direction of nonpositive curvature to a step downhill."""
    d = d / norm(d)
    slope, curvature = torch.stack([torch.dot(point.grad, d), torch.dot(d, A @ d)]).tolist()
    bound = 1.0 + euclidean(point.w)
    # Without a slope (a saddle) the curvature itself is the length, as Royer, O'Neill and Wright
    # (2020) scale it; a vanishing curvature asks for the bound.
    length = abs(slope / curvature) if curvature != 0 else bound
    length = min(max(length, abs(curvature)), bound)
    return d.mul_(-length if slope > 0 else length)
