"""Newton's method with any linear solver and any curvature."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.capabilities import SAMPLES
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.optimizers.base import ContinuedOptimizer, Step, Steps
from newton_krylov.optimizers.newton_step import NewtonMemory
from newton_krylov.optimizers.sample_start import Start, from_a_sample
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.stochastic_step import StochasticMemory, StochasticStep, end_epoch
from newton_krylov.optimizers.training import EpochMemory, Epochs, Update
from newton_krylov.registry import register

N = TypeVar("N", bound=NewtonMemory)


class _Memory(EpochMemory):
    def __init__(self, step: StochasticMemory) -> None:
        super().__init__()
        self.step = step
        self.begun = False


@register(
    "optimizer",
    "newton",
    needs_with={"batch_size": (SAMPLES,)},
    uses_with={"batch_size": ("schedule",)},
)
class Newton(ContinuedOptimizer[_Memory]):
    """Newton's method: one Newton step after the other.

    With a `batch_size` it is a stochastic method (Martens, "Deep learning via Hessian-free
    optimization", 2010; Byrd, Chin, Neveitt and Nocedal, "On the use of stochastic Hessian
    information in optimization methods for machine learning", 2011): every mini-batch gives the
    gradient, a part of it the curvature, and a step of the run is one epoch.

    Parameters
    ----------
    step : StochasticStep
        The step; its parameters and those of its `NewtonStep` are set by name.
    schedule : Schedule
        What becomes of the step's length, with a `batch_size`.
    batch_size : int or None
        Samples in a mini-batch; None takes them all, and a step is an iteration.
    start : {"none", "sample", "auto"}
        Whether it begins with a sixteenth of the samples (`sample`, for linear models): the first
        step of the run is what is reached there. `auto` does so where there are enough of them and
        the loss is convex.
    """

    def __init__(
        self,
        step: StochasticStep,
        schedule: Schedule = constant,
        batch_size: PositiveInt | None = None,
        start: Start = "none",
    ) -> None:
        self.step = step
        self.schedule = schedule
        self.batch_size = batch_size
        self.start = start

    def memory(self, objective: Objective, w0: Tensor) -> _Memory:
        """Return the step's memory, and the number of epochs."""
        batches = self.batch_size is not None and self.batch_size < objective.n_samples
        return _Memory(self.step.memory(batches=batches))

    def iterate(
        self, objective: Objective, w0: Tensor, memory: _Memory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; on all samples it ends where no direction of descent is left."""
        if self.batch_size is None:
            w0, notes = yield from from_a_sample(
                self.start, objective, w0, generator, begun=memory.begun
            )
            memory.begun = True
            steps = on_all_samples(self.step, objective, w0, memory.step, generator)
            yield replace(next(steps), notes=notes)
            return (yield from steps)

        if self.start == "sample":
            raise UnsupportedError(
                "optimizer.start=sample is for steps on all samples: leave out "
                "optimizer.batch_size, or set optimizer.start=none."
            )

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            return self.step.update(batch, w, memory.step, generator, rate)

        epochs = Epochs(self.batch_size, self.schedule, memory)
        end = lambda: end_epoch(memory.step)  # noqa: E731
        return (yield from epochs.steps(objective, w0, generator, advance, end))


def on_all_samples(
    step: Callable[[Point, N, torch.Generator], Step | str],
    objective: Objective,
    w0: Tensor,
    memory: N,
    generator: torch.Generator,
) -> Steps:
    """Make one Newton step after the other on all samples.

    Parameters
    ----------
    step : NewtonStep or StochasticStep
        Step to repeat.
    objective : Objective
        What to minimize.
    w0 : Tensor, shape (dim,)
        The start.
    memory : NewtonMemory
        The step's memory, which is changed.
    generator : torch.Generator
        The run's source of randomness.

    Yields
    ------
    Step
        The start, then each iterate.

    Returns
    -------
    str
        Why there is no direction of descent left.
    """
    point = objective.at(w0)
    yield Step(point)
    while True:
        made = step(point, memory, generator)
        if isinstance(made, str):
            return made
        point = made.point
        noted = filter(None, [memory.curvature.note])
        yield replace(made, notes=(*noted, *made.notes))
