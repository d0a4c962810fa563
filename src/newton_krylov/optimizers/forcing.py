"""Forcing terms: how exactly to solve the inner system of a Newton step.

Each returns eta, the relative residual |H p + g| <= eta |g| to ask of the linear solver.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field

from newton_krylov.registry import register

Fraction = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Inner:
    """The last step's inner solve and the step it led to.

    Attributes
    ----------
    eta : float
        The forcing term that was asked.
    grad_norm : float
        |g| where the step started.
    residual_norm : float
        |H p + g| that the solver reached.
    step_size : float
        The line search's alpha; 0 where the solution was refused, or another step was taken.
    """

    eta: float
    grad_norm: float
    residual_norm: float
    step_size: float


@dataclass(frozen=True)
class Outer:
    """What a forcing term sees: the gradient now and, after the first step, the last solve."""

    grad_norm: float
    last: Inner | None = None


class Forcing(Protocol):
    """Gives the relative tolerance of the next inner solve."""

    def __call__(self, outer: Outer) -> float:
        """Return eta in (0, 1)."""
        ...


@register("forcing", "fixed")
def fixed(outer: Outer, *, eta: Fraction = 1e-2) -> float:
    """Use the same eta in every step: linear convergence with factor about eta.

    Parameters
    ----------
    outer : Outer
        State of the outer loop.
    eta : float
        In (0, 1).

    Returns
    -------
    float
        eta.
    """
    return eta


@register("forcing", "superlinear")
def superlinear(outer: Outer, *, eta: Fraction = 0.5) -> float:
    """Use min(eta, sqrt|g|): convergence of order 3/2 (Nocedal and Wright, section 7.1).

    Parameters
    ----------
    outer : Outer
        State of the outer loop.
    eta : float
        The loosest tolerance, in (0, 1).

    Returns
    -------
    float
        The relative tolerance.
    """
    return min(eta, math.sqrt(outer.grad_norm))


@register("forcing", "eisenstat_walker")
def eisenstat_walker(
    outer: Outer,
    *,
    choice: Literal[1, 2] = 2,
    eta0: Fraction = 0.5,
    eta_max: Fraction = 0.9,
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9,
    alpha: Annotated[float, Field(gt=1, le=2)] = 2.0,
) -> float:
    """Adapt eta to the last step's success (Eisenstat and Walker, 1996).

    Choice 1 compares the new gradient norm with the one the linear model predicted, choice 2 asks
    gamma (|g_k| / |g_k-1|)^alpha. Both keep the paper's safeguards: eta falls no faster than the
    power of the last eta while that power is above 0.1, and stays below `eta_max`.

    After a refused step the ratio says nothing (the gradient is the same, and the formulas would
    ask for a looser solve of the same system); the last eta is halved instead. After a shortened
    step, choice 1 uses the model's bound at the point reached,
    (1 - step) |g_k-1| + step |r_k-1|.

    Parameters
    ----------
    outer : Outer
        State of the outer loop.
    choice : {1, 2}
        Formula (2.2) or (2.6) of the paper.
    eta0 : float
        The first step's eta.
    eta_max : float
        The loosest tolerance.
    gamma, alpha : float
        Constants of choice 2.

    Returns
    -------
    float
        The relative tolerance.
    """
    last = outer.last
    if last is None:
        return eta0
    if last.step_size == 0.0:
        return last.eta / 2
    if choice == 1:
        step = min(last.step_size, 1.0)
        predicted = (1 - step) * last.grad_norm + step * last.residual_norm
        eta = abs(outer.grad_norm - predicted) / last.grad_norm
        floor = last.eta ** ((1 + math.sqrt(5)) / 2)
    else:
        eta = gamma * (outer.grad_norm / last.grad_norm) ** alpha
        floor = gamma * last.eta**alpha
    if floor > 0.1:
        eta = max(eta, floor)
    # Below the unit roundoff no solver can deliver, and exactly zero would never be met.
    return min(max(eta, 1e-15), eta_max)
