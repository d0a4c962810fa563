"""Schedules: what becomes of a stochastic method's step as its epochs go by."""

import math
from dataclasses import dataclass
from typing import Protocol

from pydantic import PositiveInt

from newton_krylov.registry import register


@dataclass(frozen=True)
class Progress:
    """How far the training has come.

    Attributes
    ----------
    epochs : float
        Done so far, with the part of the present one.
    """

    epochs: float


class Schedule(Protocol):
    """Gives the factor of the step's length, or of the learning rate."""

    def __call__(self, progress: Progress) -> float:
        """Return a factor from 0 to 1."""
        ...


@register("schedule", "constant", idle=("epochs",))
def constant(progress: Progress, *, epochs: PositiveInt | None = 4) -> float:
    """Leave the step as it is.

    Parameters
    ----------
    progress : Progress
        The epochs so far.
    epochs : int or None
        Changes nothing; every schedule has it, so that one can take another's place.

    Returns
    -------
    float
        1.
    """
    return 1.0


@register("schedule", "linear")
def linear(progress: Progress, *, epochs: PositiveInt | None = 4) -> float:
    """Go from 1 down to 0 along a line.

    Parameters
    ----------
    progress : Progress
        The epochs so far.
    epochs : int or None
        When it has come to its end, where it stays; None, where no end is known, leaves the step as
        it is.

    Returns
    -------
    float
        Between 0 and 1.
    """
    return 1 - _share(progress, epochs)


@register("schedule", "cosine")
def cosine(progress: Progress, *, epochs: PositiveInt | None = 4) -> float:
    """Go from 1 down to 0 along half a cosine.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, without
    the restarts.

    Parameters
    ----------
    progress : Progress
        The epochs so far.
    epochs : int or None
        When it has come to its end, where it stays; None, where no end is known, leaves the step as
        it is.

    Returns
    -------
    float
        Between 0 and 1.
    """
    return 0.5 * (1 + math.cos(math.pi * _share(progress, epochs)))


def _share(progress: Progress, epochs: int | None) -> float:
    """Return which part of its way a schedule has come."""
    return 0.0 if epochs is None else min(progress.epochs / epochs, 1.0)
