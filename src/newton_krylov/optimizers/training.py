"""The mini-batch loop that the stochastic optimizers share: epochs, schedules, their record."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import Memory, Step, Steps
from newton_krylov.optimizers.minibatch import batches
from newton_krylov.optimizers.schedule import Progress, Schedule

_LOOK = 16
"""Updates from one look at the loss, which may have diverged, to the next."""

Momentum = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Update:
    """The result of one mini-batch.

    Attributes
    ----------
    w : Tensor, shape (dim,)
        The new iterate, which the next update may change in place.
    loss : callable
        Returns the loss at the mini-batch, where the step began: asked for after some updates only,
        since it makes the processor wait for a GPU.
    grad_norm : callable
        Returns the gradient's norm there: asked for after an epoch's last update alone, since it
        costs a pass over as many numbers as there are weights, and a wait for a GPU.
    step_size : float
        0 where the step was refused.
    inner_iterations : float
        Iterations of the linear solver.
    notes : tuple of str
        What else happened, in words that repeat: they are counted over the epoch.
    """

    w: Tensor
    loss: Callable[[], float]
    grad_norm: Callable[[], float]
    step_size: float
    inner_iterations: float = 0
    notes: tuple[str, ...] = ()


Advance = Callable[[Objective, Tensor, float, torch.Generator], Update]
"""Makes one update: from a mini-batch's objective, w, the schedule's factor and the generator."""


class EpochMemory(Memory):
    """What a mini-batch method carries from one epoch to the next.

    Attributes
    ----------
    epochs : int
        Epochs so far.
    """

    def __init__(self) -> None:
        self.epochs = 0


def no_notes() -> tuple[str, ...]:
    """Note nothing."""
    return ()


class Epochs:
    """Goes through the samples in random mini-batches, again and again; a step is one epoch.

    Parameters
    ----------
    batch_size : int
        Samples in a mini-batch; the last one of an epoch may have fewer.
    schedule : Schedule
        Multiplies the step's length.
    memory : EpochMemory
        Counts the epochs.
    """

    def __init__(self, batch_size: int, schedule: Schedule, memory: EpochMemory) -> None:
        self.batch_size = batch_size
        self.schedule = schedule
        self.memory = memory

    def steps(
        self,
        objective: Objective,
        w: Tensor,
        generator: torch.Generator,
        advance: Advance,
        remark: Callable[[], tuple[str, ...]] = no_notes,
    ) -> Steps:
        """Yield the start, then an iterate after each epoch, without end.

        Parameters
        ----------
        objective : Objective
            Over all samples.
        w : Tensor, shape (dim,)
            The start.
        generator : torch.Generator
            Draws the order of the samples, and what is random in the model.
        advance : callable
            See `Advance`.
        remark : callable
            Asked after each epoch for notes.

        Yields
        ------
        Step
            The step; its gradient norm is the last mini-batch's, its step size the epoch's mean.

        Returns
        -------
        str
            Never; a loss that is not finite ends the epoch early, for the runner to see.
        """
        yield Step(objective.at(w), grad_norm=math.nan, needed=False)
        n = objective.n_samples
        size = min(self.batch_size, n)
        count = math.ceil(n / size)
        indices = batches(n, size, generator)
        while True:
            epoch = _Epoch()
            for k in range(count):
                rate = self.schedule(Progress(self.memory.epochs + k / count))
                batch = objective.batch(next(indices), generator)
                update = advance(batch, w, rate, generator)
                w = update.w
                epoch.add(update)
                if k % _LOOK == 0 and not math.isfinite(update.loss()):
                    break
            self.memory.epochs += 1
            yield epoch.step(objective, remark())


@dataclass
class _Epoch:
    """Sums over an epoch's updates."""

    last: Update | None = None
    updates: int = 0
    step_sizes: float = 0.0
    inner_iterations: float = 0.0
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, update: Update) -> None:
        self.last = update
        self.updates += 1
        self.step_sizes += update.step_size
        self.inner_iterations += update.inner_iterations
        self.notes.update(update.notes)

    def step(self, objective: Objective, remarks: tuple[str, ...]) -> Step:
        assert self.last is not None
        counted = [f"{n} of {self.updates}: {what}" for what, n in self.notes.most_common()]
        return Step(
            objective.at(self.last.w.clone()),
            self.step_sizes / self.updates,
            self.inner_iterations,
            (*remarks, *counted),
            grad_norm=self.last.grad_norm(),
            needed=False,
        )
