"""The mini-batch loop that the stochastic optimizers share: epochs, schedules, their record."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import State, Step, Steps
from newton_krylov.optimizers.minibatch import batches

Schedule = Literal["constant", "linear", "cosine"]
Momentum = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Update:
    """What one mini-batch came to.

    Attributes
    ----------
    w : Tensor, shape (dim,)
        The new iterate.
    loss, grad_norm : float
        Of the mini-batch, where the step began.
    step_size : float
        0 where the step was refused.
    inner_iterations : float
        Of the linear solver.
    notes : tuple of str
        What else happened, in words that repeat: they are counted over the epoch.
    """

    w: Tensor
    loss: float
    grad_norm: float
    step_size: float
    inner_iterations: float = 0
    notes: tuple[str, ...] = ()


Advance = Callable[[Objective, Tensor, float, torch.Generator], Update]
"""Makes one update: from a mini-batch's objective, w, the schedule's factor and the generator."""


def factor(schedule: Schedule, progress: float) -> float:
    """Return what a schedule multiplies the step by.

    Parameters
    ----------
    schedule : {"constant", "linear", "cosine"}
        1 all the way, or from 1 down to 0 along a line or half a cosine (Loshchilov and Hutter,
        "SGDR: stochastic gradient descent with warm restarts", 2017, without the restarts).
    progress : float
        Share of the schedule that is done; beyond 1 it stays where it ended.

    Returns
    -------
    float
        Between 0 and 1.
    """
    done = min(progress, 1.0)
    if schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0


class Epochs:
    """Goes through the samples in random mini-batches, again and again; a step is one epoch.

    Parameters
    ----------
    batch_size : int
        Samples in a mini-batch; the last one of an epoch may have fewer.
    schedule : {"constant", "linear", "cosine"}
        See `factor`.
    length : int
        Epochs until the schedule has come to its end.

    Attributes
    ----------
    done : int
        Epochs so far, which a checkpoint remembers.
    """

    def __init__(self, batch_size: int, schedule: Schedule = "constant", length: int = 1) -> None:
        self.batch_size = batch_size
        self.schedule = schedule
        self.length = length
        self.done = 0

    def steps(
        self,
        objective: Objective,
        w: Tensor,
        generator: torch.Generator,
        advance: Advance,
        remark: Callable[[], str] = str,
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
            Asked after each epoch for words to note.

        Yields
        ------
        Step
            Not evaluated: what is recorded of it is not the optimizer's work. Its gradient norm
            is the last mini-batch's, its step size the mean over the epoch.

        Returns
        -------
        str
            Never; a loss that is not finite ends the epoch early, for the runner to see.
        """
        yield Step(objective.at(w), grad_norm=math.nan)
        n = objective.n_samples
        size = min(self.batch_size, n)
        count = math.ceil(n / size)
        indices = batches(n, size, generator)
        while True:
            epoch = _Epoch()
            for k in range(count):
                rate = factor(self.schedule, (self.done + k / count) / self.length)
                batch = objective.batch(next(indices), generator)
                update = advance(batch, w, rate, generator)
                w = update.w
                epoch.add(update)
                if not math.isfinite(update.loss):
                    break
            self.done += 1
            yield epoch.step(objective, remark())

    def state_dict(self) -> State:
        """Return what goes into a checkpoint."""
        return {"epochs": self.done}

    def load_state_dict(self, state: State) -> None:
        """Go on from a checkpoint."""
        self.done = state["epochs"]


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

    def step(self, objective: Objective, remark: str) -> Step:
        assert self.last is not None
        counted = [f"{n} of {self.updates}: {what}" for what, n in self.notes.most_common()]
        return Step(
            objective.at(self.last.w),
            self.step_sizes / self.updates,
            self.inner_iterations,
            "; ".join(filter(None, [remark, *counted])),
            grad_norm=self.last.grad_norm,
        )
