"""The optimizer: a generator of steps over an objective."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective, Point

State = dict[str, Any]
"""What an optimizer must remember beside w: nested dicts and lists of tensors, numbers, texts."""


@dataclass(frozen=True)
class Step:
    """Where an optimizer stands after a step.

    Attributes
    ----------
    point : Point
        The new iterate. What the optimizer itself will need of it (value, gradient) it has
        computed before it yields the step: metrics are evaluated outside the timed region, and
        must not do its work for it.
    step_size : float
        Of this step; nan where the method has none (or for the start).
    inner_iterations : float
        Of the linear solver, in this step; nan where a library does not tell.
    note : str
        What else happened, in words a user reads: the solver's status, a fallback taken.
    seconds : float or None
        The step's own duration, where only the optimizer can know it (a library that runs in one
        call); None lets the runner's clock decide.
    iterations : int
        How many iterations of the method led here from the step before, where it does not yield
        each.
    grad_norm : float or None
        The gradient norm to record, where that at the new iterate would cost a pass over the data
        that the method does not need: a mini-batch method gives its last batch's. None lets the
        runner ask the point.
    """

    point: Point
    step_size: float = float("nan")
    inner_iterations: float = 0
    note: str = ""
    seconds: float | None = None
    iterations: int = 1
    grad_norm: float | None = None


Steps = Generator[Step, None, str]
"""Yields the start as the first step, then one step an iteration; returns the reason for ending
by itself (an optimizer may also never end)."""


class Optimizer(ABC):
    """The outer loop w_t -> w_t+1."""

    @abstractmethod
    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0.

        Parameters
        ----------
        objective : Objective
            What to minimize.
        w0 : Tensor, shape (dim,)
            The start; not changed.
        generator : torch.Generator
            The run's source of randomness, on the CPU.

        Yields
        ------
        Step
            The start, then each iterate.

        Returns
        -------
        str
            Why it ended, as a generator's return value.
        """

    def state_dict(self) -> State | None:
        """Return what a later process needs, beside w and the generator, to go on from here.

        Asked for after a step, while `steps` waits.

        Returns
        -------
        dict or None
            See `State`; None where this method cannot be continued.
        """
        return None

    def load_state_dict(self, state: State) -> None:
        """Let the next `steps` go on from a state, its w0 being the w that belongs to it.

        Parameters
        ----------
        state : dict
            Of `state_dict`, of an optimizer with the same settings.
        """
        raise UnsupportedError(f"{type(self).__name__} cannot be continued from a checkpoint.")


def settled(point: Point) -> Point:
    """Evaluate value and gradient now, inside the timed region, and return the point."""
    _ = point.grad_norm, point.value  # in this order: a network's gradient brings its value
    return point
