"""A Newton step that spares the curvature and has momentum, as stochastic methods do."""

from dataclasses import dataclass, replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.base import NotNowError, State, Step, evaluate
from newton_krylov.optimizers.newton_step import Direction, NewtonMemory, NewtonStep
from newton_krylov.optimizers.training import Momentum, Update
from newton_krylov.registry import assembled


class StochasticMemory(NewtonMemory):
    """What it carries beside a Newton step's memory.

    Attributes
    ----------
    kept : tuple of LinearOperator and Point, or None
        The curvature, and where the last step with it began.
    age : int
        Steps made with it.
    velocity : Tensor or None, shape (dim,)
        The directions' sum, where there is momentum.
    """

    def __init__(self, newton: NewtonMemory) -> None:
        super().__init__(newton.curvature, newton.damping, newton.preconditioner)
        self.kept: tuple[LinearOperator, Point] | None = None
        self.age = 0
        self.velocity: Tensor | None = None

    def state_dict(self) -> State:
        """Return all but a curvature, which a checkpoint cannot hold."""
        if self.kept is not None:
            raise NotNowError
        return super().state_dict()


@assembled
@dataclass(frozen=True)
class StochasticStep:
    """A Newton step with momentum, whose curvature uses some of the samples and may be reused.

    Parameters
    ----------
    newton : NewtonStep
        The step itself.
    curvature_samples : int or None
        How many of the point's samples, drawn for each, the curvature is made of; None takes all.
    curvature_every : int
        Steps between two evaluations of the curvature.
    momentum : float
        m = momentum m + p takes the direction's place (each p by the curvature of its own time,
        so that a change of the curvature does not act on old gradients); with H = 0 and
        tau = 1 / rate this is stochastic gradient descent with momentum.
    """

    newton: NewtonStep
    curvature_samples: PositiveInt | None = None
    curvature_every: PositiveInt = 1
    momentum: Momentum = 0.0

    def memory(self, *, batches: bool = False) -> StochasticMemory:
        """Return what a run, or a layer of it, starts with; `batches`: on some samples a step."""
        memory = StochasticMemory(self.newton.memory())
        if batches:
            memory.damping.on_batches()
        return memory

    def __call__(
        self,
        point: Point,
        memory: StochasticMemory,
        generator: torch.Generator,
        rate: float = 1.0,
    ) -> Step | str:
        """Make a step; see `NewtonStep`.

        Parameters
        ----------
        point : Point
            Where it starts.
        memory : StochasticMemory
            From the steps before; changed.
        generator : torch.Generator
            The run's source of randomness.
        rate : float
            Factor of the step's length.

        Returns
        -------
        Step or str
            Or why there is none.
        """
        A = self._curvature(point, memory, generator)
        before = memory.velocity

        def adjusted(direction: Direction) -> Direction:
            p = direction.p
            if self.momentum > 0.0:
                memory.velocity = torch.zeros_like(p) if before is None else before
                p = memory.velocity = memory.velocity.mul(self.momentum).add_(p)
            return replace(direction, p=p * rate if rate != 1.0 else p)

        step = self.newton.along(point, A, memory, generator, adjusted)
        refused = isinstance(step, Step) and step.point is point
        if memory.age >= self.curvature_every and not refused:
            memory.kept = None
        return step

    def _curvature(
        self, point: Point, memory: StochasticMemory, generator: torch.Generator
    ) -> LinearOperator:
        """Return the curvature, which lasts for `curvature_every` steps; refused ones count not."""
        if memory.kept is not None and memory.kept[1] is point:
            return memory.kept[0]
        if memory.kept is None or memory.age >= self.curvature_every:
            A, memory.age = memory.curvature.at(self._sampled(point, generator), generator), 0
        else:
            A = memory.kept[0]
        memory.kept = A, point
        memory.age += 1
        return A

    def _sampled(self, point: Point, generator: torch.Generator) -> Point:
        n, size = point.objective.n_samples, self.curvature_samples
        if size is None or size >= n:
            return point
        index = torch.randperm(n, generator=generator)[:size]
        return point.subset(index.to(point.w.device))

    def update(
        self,
        batch: Objective,
        w: Tensor,
        memory: StochasticMemory,
        generator: torch.Generator,
        rate: float = 1.0,
    ) -> Update:
        """Make a step on a mini-batch.

        Parameters
        ----------
        batch : Objective
            Objective of the mini-batch.
        w : Tensor, shape (dim,)
            Parameters at which to evaluate.
        memory : StochasticMemory
            From the steps before; changed.
        generator : torch.Generator
            The run's source of randomness.
        rate : float
            The schedule's factor of the step's length.

        Returns
        -------
        Update
            Where there is no step, w as it was.
        """
        point = evaluate(batch.at(w))
        step = self(point, memory, generator, rate)
        if memory.age >= self.curvature_every:
            memory.kept = None  # and with it what it holds of this batch
        if isinstance(step, str):
            return Update(w, lambda: point.value, lambda: point.grad_norm, 0.0, 0, (step,))
        length, inner = rate * step.step_size, step.inner_iterations
        return Update(
            step.point.w, lambda: point.value, lambda: point.grad_norm, length, inner, step.notes
        )


def end_epoch(memory: StochasticMemory) -> tuple[str, ...]:
    """End an epoch, and its last curvature with it; return what damping and curvature note."""
    memory.kept = None
    return tuple(filter(None, [memory.damping.note, memory.curvature.note]))
