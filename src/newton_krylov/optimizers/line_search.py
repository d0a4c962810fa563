"""Line searches along a ray phi(alpha) = f(w + alpha p)."""

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from newton_krylov.errors import ConfigError
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Point, Ray
from newton_krylov.registry import register

Fraction = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class LineSearchResult:
    """A line search's outcome.

    Attributes
    ----------
    alpha : float
        The step size; 0 when none was found.
    point : Point
        w + alpha p.
    """

    alpha: float
    point: Point

    @property
    def accepted(self) -> bool:
        """Whether a step was found."""
        return self.alpha > 0.0

    def moves(self, start: Point) -> bool:
        """Whether a step was found that is not lost in the rounding of the weights at its start."""
        return self.accepted and not torch.equal(self.point.w, start.w)


FIRST_STEP = 0.01
"""See `first_length`."""


def first_length(point: Point, before: float | None = None) -> float:
    """Return how long a first step along -gradient should be, where no curvature is known.

    A hundredth of the parameters' size, or where they are zero, what would bring a linear loss down
    by a hundredth of itself (Hager and Zhang 2005, step I0): other units of the parameters or of
    the loss change nothing.

    Parameters
    ----------
    point : Point
        The start; its gradient is not zero.
    before : float, optional
        Length of a step without curvature to learn, after which this one is to be twice as long.

    Returns
    -------
    float
        Above 0.
    """
    if before is not None:
        return 2 * before
    size = euclidean(point.w)
    length = FIRST_STEP * (size if size > 0 else abs(point.value) / point.grad_norm)
    return length if 0 < length < math.inf else 1.0


class LineSearch(Protocol):
    """Chooses alpha > 0 on a ray of descent, or refuses with alpha = 0."""

    def __call__(self, ray: Ray) -> LineSearchResult:
        """Search along the ray."""
        ...


@register("line_search", "none")
def none(ray: Ray) -> LineSearchResult:
    """Take the full step, whatever it does to the objective.

    Parameters
    ----------
    ray : Ray
        Where to step.

    Returns
    -------
    LineSearchResult
        alpha = 1.
    """
    return LineSearchResult(1.0, ray.point(1.0))


@register("line_search", "fixed")
def fixed(ray: Ray, *, step_size: PositiveFloat = 1.0) -> LineSearchResult:
    """Take the same step size every time.

    Parameters
    ----------
    ray : Ray
        Where to step.
    step_size : float
        alpha > 0.

    Returns
    -------
    LineSearchResult
        That alpha.
    """
    return LineSearchResult(step_size, ray.point(step_size))


@register("line_search", "armijo")
def armijo(
    ray: Ray,
    *,
    c1: Fraction = 1e-4,
    shrink: Fraction = 0.5,
    initial: PositiveFloat = 1.0,
    max_steps: PositiveInt = 40,
) -> LineSearchResult:
    """Backtrack from `initial` until phi(alpha) <= phi(0) + c1 alpha phi'(0) (Armijo, 1966).

    Near an optimum the decrease falls below the rounding error of phi; the test allows for that
    error, so a good step is not refused for the last bits of its value.

    Parameters
    ----------
    ray : Ray
        Ray along a descent direction: phi'(0) < 0.
    c1 : float
        Share of the predicted decrease to insist on, in (0, 1).
    shrink : float
        Factor of each backtracking step, in (0, 1).
    initial : float
        The first alpha to try.
    max_steps : int
        Trials before the search gives up.

    Returns
    -------
    LineSearchResult
        alpha = 0 when no trial was accepted.
    """
    start = ray.origin.value
    slack = ray.origin.objective.rounding(start)
    alpha = initial
    for _ in range(max_steps):
        # A nan (an overflow far out) fails the comparison, and the step shrinks.
        if ray.value(alpha) <= start + c1 * alpha * ray.slope + slack:
            return LineSearchResult(alpha, ray.point(alpha))
        alpha *= shrink
    return LineSearchResult(0.0, ray.origin)


@register("line_search", "strong_wolfe")
def strong_wolfe(
    ray: Ray,
    *,
    c1: Fraction = 1e-4,
    c2: Fraction = 0.9,
    initial: PositiveFloat = 1.0,
    max_steps: PositiveInt = 25,
) -> LineSearchResult:
    """Find alpha with sufficient decrease and |phi'(alpha)| <= c2 |phi'(0)|.

    Nocedal and Wright, "Numerical Optimization" (2006), algorithms 3.5 and 3.6: grow a bracket,
    then shrink it by safeguarded cubic interpolation.

    Parameters
    ----------
    ray : Ray
        Ray along a descent direction: phi'(0) < 0.
    c1 : float
        Share of the predicted decrease to insist on, below c2.
    c2 : float
        How much of the slope may be left, in (c1, 1).
    initial : float
        The first alpha to try.
    max_steps : int
        Evaluations before the search gives up.

    Returns
    -------
    LineSearchResult
        Where the search gives up, the best alpha with sufficient decrease, or 0.

    Raises
    ------
    ConfigError
        If c1 >= c2.
    """
    if c1 >= c2:
        raise ConfigError(f"line_search.c1={c1} must be smaller than line_search.c2={c2}.")
    return _StrongWolfe(ray, c1, c2, max_steps).search(initial)


class _StrongWolfe:
    """The state of one search: its tolerances, its budget, its bracket's ends."""

    def __init__(self, ray: Ray, c1: float, c2: float, budget: int) -> None:
        self.ray, self.c1, self.c2, self.budget = ray, c1, c2, budget
        self.start = ray.origin.value

    def search(self, alpha: float) -> LineSearchResult:
        low = _Trial(0.0, self.ray.origin, self.start, self.ray.slope)
        while self.budget > 0:
            trial = self._try(alpha)
            if not self._decreases(trial) or (low.alpha > 0 and trial.value >= low.value):
                return self._zoom(low, trial)
            if self._flat(trial):
                return trial.found
            if trial.slope >= 0:
                return self._zoom(trial, low)
            low, alpha = trial, 2 * alpha
        return low.found

    def _zoom(self, low: "_Trial", high: "_Trial") -> LineSearchResult:
        # The bracket's width is judged by its place alone: a badly scaled p has tiny good steps.
        while self.budget > 0 and abs(high.alpha - low.alpha) > 1e-12 * low.alpha:
            rounding = self._rounding(low.value, high.value)
            trial = self._try(_interpolate(low, high, rounding))
            rise = trial.value - low.value
            if not self._decreases(trial) or rise > self._rounding(low.value, trial.value):
                high = trial
                continue
            if self._flat(trial):
                return trial.found
            if trial.slope * (high.alpha - low.alpha) >= 0:
                high = low
            low = trial
        return low.found

    def _try(self, alpha: float) -> "_Trial":
        self.budget -= 1
        point, slope = self.ray.point(alpha), self.ray.derivative(alpha)
        return _Trial(alpha, point, point.value, slope)  # which the gradient has brought

    def _decreases(self, trial: "_Trial") -> bool:
        slack = self._rounding(self.start, trial.value)
        return trial.value <= self.start + self.c1 * trial.alpha * self.ray.slope + slack

    def _rounding(self, *values: float) -> float:
        """Return how large a difference of two values may be by rounding alone."""
        largest = max(map(abs, values))
        # An overflow is no rounding error.
        return self.ray.origin.objective.rounding(largest) if math.isfinite(largest) else 0.0

    def _flat(self, trial: "_Trial") -> bool:
        return abs(trial.slope) <= -self.c2 * self.ray.slope


@dataclass(frozen=True)
class _Trial:
    """An evaluated alpha; keeps its point, for it may turn out the best one later."""

    alpha: float
    point: Point
    value: float
    slope: float

    @property
    def found(self) -> LineSearchResult:
        return LineSearchResult(self.alpha, self.point)


def _interpolate(low: _Trial, high: _Trial, rounding: float) -> float:
    """Return the minimizer of the cubic through both ends, kept away from them.

    Where the values differ by rounding alone, only the slopes still show where it is.
    """
    width = high.alpha - low.alpha
    if abs(high.value - low.value) <= rounding:
        share = low.slope / (low.slope - high.slope) if low.slope * high.slope < 0 else 0.5
        return low.alpha + min(max(share, 0.1), 0.9) * width
    d1 = low.slope + high.slope - 3 * (high.value - low.value) / width
    radicand = d1 * d1 - low.slope * high.slope
    middle = low.alpha + 0.5 * width
    if not radicand >= 0:  # no minimizer, or a nan at the far end
        return middle
    d2 = math.copysign(math.sqrt(radicand), width)
    denominator = high.slope - low.slope + 2 * d2
    if denominator == 0:
        return middle
    alpha = high.alpha - width * (high.slope + d2 - d1) / denominator
    margin = 0.1 * abs(width)
    inside = min(low.alpha, high.alpha) + margin, max(low.alpha, high.alpha) - margin
    return min(max(alpha, inside[0]), inside[1]) if math.isfinite(alpha) else middle
