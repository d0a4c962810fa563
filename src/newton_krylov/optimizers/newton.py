"""Newton's method with any linear solver and any curvature."""

import copy
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.linear_solvers.result import LinearResult, LinearSolver, Status
from newton_krylov.norms import euclidean, norm
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.base import Optimizer, State, Step, Steps, settled
from newton_krylov.optimizers.damping import Damping, DampingRule, Factor
from newton_krylov.optimizers.forcing import Forcing, Inner, Outer
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.training import Epochs, Momentum, Schedule, Update
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register
from newton_krylov.spectral.lanczos import lanczos


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
    solved : bool
        Whether p is the solver's answer, up to its length.
    """

    p: Tensor
    eta: float
    inner: LinearResult
    note: str
    solved: bool = True


NegativeCurvature = Literal["follow", "truncate", "ignore"]


class Memory:
    """What Newton's method carries from one step to the next.

    Parameters
    ----------
    curvature : Curvature
        May remember things of its own, such as the last eigenvectors.
    damping : Damping
        tau.

    Attributes
    ----------
    last : Inner or None
        The last inner solve, for the forcing term.
    A : LinearOperator or None
        The curvature, without damping; kept for `age` steps so far.
    velocity : Tensor or None, shape (dim,)
        The directions' sum, where there is momentum.
    """

    def __init__(self, curvature: Curvature, damping: Damping) -> None:
        self.curvature, self.damping = curvature, damping
        self.last: Inner | None = None
        self.A: LinearOperator | None = None
        self.age = 0
        self.velocity: Tensor | None = None

    def state_dict(self) -> State:
        """Return it for a checkpoint, which forgets an operator: it is made anew."""
        return {
            "curvature": self.curvature.state_dict(),
            "damping": self.damping.tau,
            "last": None if self.last is None else asdict(self.last),
            "velocity": self.velocity,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a checkpoint."""
        self.curvature.load_state_dict(state["curvature"])
        self.damping.tau = state["damping"]
        self.last = None if state["last"] is None else Inner(**state["last"])
        self.velocity = state["velocity"]


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
    Wright's algorithm 7.1; a direct solver has none, and its solution may lead to a saddle, as may
    that of a solver that does not look at the curvature). A direction that is not one of descent,
    and one along which the line search finds nothing, give way to -g. A zero gradient is not yet a
    minimum: the bottom of the spectrum is looked at, and a saddle is left along its most negative
    curvature.

    With a `batch_size` it is a stochastic method (Martens, "Deep learning via Hessian-free
    optimization", 2010; Byrd, Chin, Neveitt and Nocedal, "On the use of stochastic Hessian
    information in optimization methods for machine learning", 2011): every mini-batch gives the
    gradient, a part of it the curvature, and a step of the run is one epoch.

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
        tau >= 0 in (H + tau I) p = -g; with an adaptive rule the first one.
    damping_rule : {"fixed", "levenberg_marquardt"}
        See `Damping`. With `levenberg_marquardt` a step that does not lower the loss (of the
        mini-batch, where there is one) is refused, and nothing else is tried in its place.
    damping_factor : float
        By how much the adaptive rule moves tau, above 1.
    damping_min : float
        tau stays at or above it.
    negative_curvature : {"follow", "truncate", "ignore"}
        What to do with a direction of negative curvature; `ignore` takes the solver's answer as
        it is, uphill or not, as the paper's code does.
    batch_size : int or None
        Samples in a mini-batch; None takes them all, and a step is an iteration.
    curvature_samples : int or None
        Of how many of them, drawn anew each time, the curvature is made; None takes them all.
    curvature_every : int
        Steps between two evaluations of the curvature.
    momentum : float
        m = momentum m + p takes the direction's place (each p by the curvature of its own time,
        so that a change of the curvature does not act on old gradients); with H = 0 and
        tau = 1 / rate this is stochastic gradient descent with momentum.
    schedule : {"constant", "linear", "cosine"}
        What becomes of the step's length, with a `batch_size`.
    schedule_epochs : int
        Epochs until it has come to its end.
    """

    def __init__(
        self,
        solver: LinearSolver,
        curvature: Curvature,
        line_search: LineSearch,
        forcing: Forcing,
        preconditioner: PreconditionerBuilder,
        damping: NonNegativeFloat = 0.0,
        damping_rule: DampingRule = "fixed",
        damping_factor: Factor = 2.0,
        damping_min: NonNegativeFloat = 0.0,
        negative_curvature: NegativeCurvature = "follow",
        batch_size: PositiveInt | None = None,
        curvature_samples: PositiveInt | None = None,
        curvature_every: PositiveInt = 1,
        momentum: Momentum = 0.0,
        schedule: Schedule = "constant",
        schedule_epochs: PositiveInt = 4,
    ) -> None:
        self.solver = solver
        self.curvature = curvature
        self.line_search = line_search
        self.forcing = forcing
        self.preconditioner = preconditioner
        self._preconditioner = preconditioner
        self.damping = damping
        self.damping_rule = damping_rule
        self.damping_factor = damping_factor
        self.damping_min = damping_min
        self.negative_curvature = negative_curvature
        self.batch_size = batch_size
        self.curvature_samples = curvature_samples
        self.curvature_every = curvature_every
        self.momentum = momentum
        self.schedule: Schedule = schedule
        self.schedule_epochs = schedule_epochs
        self.memory()  # refuses senseless damping before anything is loaded
        self._resumed: State | None = None

    def memory(self) -> Memory:
        """Return what a run, or a layer of it, starts with."""
        damping = Damping(self.damping, self.damping_rule, self.damping_factor, self.damping_min)
        return Memory(copy.deepcopy(self.curvature), damping)

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; on all samples it ends where no direction of descent is left."""
        self._memory = self.memory()
        self._preconditioner = copy.deepcopy(self.preconditioner)
        self._epochs = Epochs(self.batch_size or 1, self.schedule, self.schedule_epochs)
        if self._resumed is not None:
            self._memory.load_state_dict(self._resumed)
            self._preconditioner.load_state_dict(self._resumed["preconditioner"])
            self._epochs.load_state_dict(self._resumed)
            self._resumed = None
        if self.batch_size is None:
            return (yield from self._on_all(objective, w0, generator))

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            return self.update(batch, w, self._memory, generator, rate)

        def end() -> str:
            return self.end_epoch(self._memory)

        return (yield from self._epochs.steps(objective, w0, generator, advance, end))

    def _on_all(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        point = settled(objective.at(w0))
        yield Step(point)
        while True:
            step = self.step(point, self._memory, generator)
            if isinstance(step, str):
                return step
            if step.point is point:
                self._memory.age -= 1  # refused: the curvature is still that of this point
            point = settled(step.point)
            notes = filter(None, [self._memory.curvature.note, step.note])
            yield replace(step, note="; ".join(notes))

    def state_dict(self) -> State | None:
        """Return what is carried from one step to the next; None while a curvature outlasts one."""
        if self.batch_size is None and self.curvature_every > 1:
            return None
        return {
            **self._memory.state_dict(),
            **self._epochs.state_dict(),
            "preconditioner": self._preconditioner.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Let the next `steps` go on from a checkpoint."""
        self._resumed = state

    def end_epoch(self, memory: Memory) -> str:
        """End an epoch: its last curvature ends with it, as a checkpoint does not keep it.

        Parameters
        ----------
        memory : Memory
            Changed.

        Returns
        -------
        str
            What tau is, where it moves, and what the last curvature has to tell.
        """
        memory.A = None
        tau = f"damping {memory.damping.tau:.3g}" if memory.damping.adaptive else ""
        return ", ".join(filter(None, [tau, memory.curvature.note]))

    def update(
        self,
        batch: Objective,
        w: Tensor,
        memory: Memory,
        generator: torch.Generator,
        rate: float = 1.0,
    ) -> Update:
        """Make one step on a mini-batch.

        Parameters
        ----------
        batch : Objective
            The mini-batch's.
        w : Tensor, shape (dim,)
            Where.
        memory : Memory
            Of the steps before; changed.
        generator : torch.Generator
            The run's source of randomness.
        rate : float
            The schedule's factor of the step's length.

        Returns
        -------
        Update
            Where there is no step, w as it was.
        """
        point = settled(batch.at(w))
        step = self.step(point, memory, generator, rate)
        if memory.age >= self.curvature_every:
            memory.A = None  # and with it what it holds of this batch
        if isinstance(step, str):
            return Update(w, point.value, point.grad_norm, 0.0, 0, (step,))
        notes = tuple(filter(None, step.note.split("; ")))
        length, inner = rate * step.step_size, step.inner_iterations
        return Update(step.point.w, point.value, point.grad_norm, length, inner, notes)

    def step(
        self, point: Point, memory: Memory, generator: torch.Generator, rate: float = 1.0
    ) -> Step | str:
        """Make one step of the method with all it carries: curvature, damping, momentum.

        Parameters
        ----------
        point : Point
            Where it starts.
        memory : Memory
            Of the steps before; changed.
        generator : torch.Generator
            The run's source of randomness.
        rate : float
            Factor of the step's length.

        Returns
        -------
        Step or str
            Or why there is none.
        """
        A = self._kept(point, memory, generator)
        damped = self._damped(A, memory.damping.tau)
        direction = self.direction(point, damped, memory.last, generator)
        if isinstance(direction, str):
            return direction
        direction = self._accumulated(direction, memory)
        if rate != 1.0:
            direction = replace(direction, p=direction.p * rate)
        if memory.damping.adaptive:
            return self._judged(point, A, direction, memory)
        made = self.search(point, direction)
        if isinstance(made, str):
            return made
        step, memory.last = made
        return step

    def _kept(self, point: Point, memory: Memory, generator: torch.Generator) -> LinearOperator:
        """Return the curvature, which lasts for `curvature_every` steps."""
        if memory.A is None or memory.age >= self.curvature_every:
            memory.A, memory.age = self._curvature(point, memory.curvature, generator), 0
        memory.age += 1
        return memory.A

    def _curvature(
        self, point: Point, curvature: Curvature, generator: torch.Generator
    ) -> LinearOperator:
        n = point.objective.n_samples
        if self.curvature_samples is not None and self.curvature_samples < n:
            index = torch.randperm(n, generator=generator)[: self.curvature_samples]
            point = point.subset(index.to(point.w.device))
        return curvature.at(point, generator)

    def _accumulated(self, direction: "Direction", memory: Memory) -> "Direction":
        if self.momentum == 0.0:
            return direction
        if memory.velocity is None:
            memory.velocity = torch.zeros_like(direction.p)
        memory.velocity = memory.velocity.mul(self.momentum).add_(direction.p)
        return replace(direction, p=memory.velocity)

    def _damped(self, A: LinearOperator, tau: float) -> LinearOperator:
        return A.affine(shift=tau)

    def _judged(
        self, point: Point, A: LinearOperator, direction: "Direction", memory: Memory
    ) -> Step | str:
        """Make the step or refuse it, and let the damping learn from it."""
        found = self.line_search(point.ray(direction.p))
        inner = direction.inner
        p = direction.p * (found.alpha or 1.0)
        slope, bend = torch.stack([torch.dot(point.grad, p), torch.dot(p, A @ p)]).tolist()
        actual = found.point.value - point.value
        predicted = slope + bend / 2
        accepted = memory.damping.judge(actual, predicted) and found.accepted
        if not accepted and abs(predicted) <= point.objective.rounding(point.value):
            return "no step lowers the loss beyond its rounding error"
        residual_norm = inner.residual_norms[-1]
        alpha = found.alpha if accepted else 0.0
        followed = alpha if direction.solved else 0.0
        memory.last = Inner(direction.eta, point.grad_norm, residual_norm, followed)
        if accepted:
            return Step(found.point, alpha, inner.iterations, direction.note)
        note = f"{direction.note}; step refused".lstrip("; ")
        return Step(point, 0.0, inner.iterations, note)

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
        return self._damped(self._curvature(point, self.curvature, generator), self.damping)

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
        self,
        point: Point,
        A: LinearOperator,
        last: Inner | None,
        generator: torch.Generator,
    ) -> "Direction | str":
        """Solve the Newton system and turn its answer to descent; parameters as of `advance`."""
        eta = self.forcing(Outer(point.grad_norm, last))
        M = self._preconditioner.build(A, generator)
        inner = self.solver(A, -point.grad, rtol=eta, M=M)
        p, note = self._direction(point, A, inner, generator)
        return note if p is None else Direction(p, eta, inner, note, p is inner.x)

    def search(self, point: Point, direction: "Direction") -> tuple[Step, Inner] | str:
        """Search along a direction from `direction`; returns as `advance` does."""
        inner, note = direction.inner, direction.note
        found = self.line_search(point.ray(direction.p))
        # A step of another kind tells the forcing term nothing about the system's solution.
        alpha = found.alpha if direction.solved else 0.0
        if not found.accepted:
            found = self.line_search(point.ray(-point.grad))
            note = f"{note}; step refused, along -gradient".lstrip("; ")
        if not found.accepted:
            return "no step along -gradient lowers the loss beyond its rounding error"
        step = Step(found.point, found.alpha, inner.iterations, note)
        return step, Inner(direction.eta, point.grad_norm, inner.residual_norms[-1], alpha)

    def _direction(
        self,
        point: Point,
        A: LinearOperator,
        inner: LinearResult,
        generator: torch.Generator,
    ) -> tuple[Tensor | None, str]:
        """Turn the solver's answer into a direction of descent, and say what was done."""
        if point.grad_norm == 0.0:
            return self._leave_saddle(point, A, generator)
        note = "" if inner.converged else f"solver: {inner.status}"
        p = inner.x
        if self.negative_curvature == "ignore":
            return p, note
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


def _along(point: Point, A: LinearOperator, d: Tensor) -> Tensor:
    """Scale a direction of nonpositive curvature to a step downhill."""
    d = d / norm(d)
    slope, curvature = torch.stack([torch.dot(point.grad, d), torch.dot(d, A @ d)]).tolist()
    bound = 1.0 + euclidean(point.w)
    # Without a slope (a saddle) the curvature itself is the length, as Royer, O'Neill and Wright
    # (2020) scale it; a vanishing curvature asks for the bound.
    length = abs(slope / curvature) if curvature != 0 else bound
    length = min(max(length, abs(curvature)), bound)
    return d.mul_(-length if slope > 0 else length)
