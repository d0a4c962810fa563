"""Schedules: what becomes of a stochastic method's step as its epochs go by."""

import math
from typing import Protocol

from pydantic import PositiveInt

from newton_krylov.registry import register


class Schedule(Protocol):
    """Gives the factor of the step's length, or of the learning rate."""

    def __call__(self, done: float) -> float:
        """Return a factor from 0 to 1, after so many epochs (with fractions of them)."""
        ...


@register("schedule", "constant")
def constant(done: float, *, epochs: PositiveInt = 4) -> float:
    """Leave the step as it is.

    Parameters
    ----------
    done : float
        Epochs so far.
    epochs : int
        Changes nothing; every schedule has it, so that one can take another's place.

    Returns
    -------
    float
        1.
    """
    return 1.0


@register("schedule", "linear")
def linear(done: float, *, epochs: PositiveInt = 4) -> float:
    """Go from 1 down to 0 along a line.

    Parameters
    ----------
    done : float
        Epochs so far.
    epochs : int
        When it has come to its end, where it stays.

    Returns
    -------
    float
        1 - done / epochs.
    """
    return 1 - min(done / epochs, 1.0)


@register("schedule", "cosine")
def cosine(done: float, *, epochs: PositiveInt = 4) -> float:
    """Go from 1 down to 0 along half a cosine.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, without
    the restarts.

    Parameters
    ----------
    done : float
        Epochs so far.
    epochs : int
        When it has come to its end, where it stays.

    Returns
    -------
    float
        (1 + cos(pi done / epochs)) / 2.
    """
    return 0.5 * (1 + math.cos(math.pi * min(done / epochs, 1.0)))
