"""Hager and Zhang's line search, which trusts slopes where values are rounding."""

import math
from contextlib import suppress
from dataclasses import dataclass

from pydantic import PositiveFloat, PositiveInt

from newton_krylov.errors import ConfigError
from newton_krylov.objectives.base import Point, Ray
from newton_krylov.optimizers.line_search import Fraction, LineSearchResult
from newton_krylov.registry import register

_EXPANSION, _BISECTION, _REDUCTION = 5.0, 0.5, 0.66
"""The paper's rho, theta and gamma."""
_FAR = 0.1
"""In the place of theta where phi is above its start: the bracket may be too long by any factor."""


@register("line_search", "hager_zhang")
def hager_zhang(
    ray: Ray,
    *,
    delta: Fraction = 0.1,
    sigma: Fraction = 0.9,
    initial: PositiveFloat = 1.0,
    max_steps: PositiveInt = 40,
) -> LineSearchResult:
    """Find alpha that meets Wolfe's conditions, or the approximate ones.

    Wolfe's: phi(alpha) <= phi(0) + delta alpha phi'(0) and phi'(alpha) >= sigma phi'(0). The
    approximate: (2 delta - 1) phi'(0) >= phi'(alpha) >= sigma phi'(0), which is the same of a
    parabola, and phi(alpha) <= phi(0) within rounding: slopes keep their digits where the decrease
    of phi has none left. A bracket is found by expansion, and shrunk by pairs of secant steps for
    the slope, by bisection where these are slow.

    Hager and Zhang, "A new conjugate gradient method with guaranteed descent and an efficient line
    search", SIAM Journal on Optimization 16 (2005), section 4, and "Algorithm 851: CG_DESCENT", ACM
    Transactions on Mathematical Software 32 (2006). By how much phi may rise in the approximate
    conditions is the rounding error of its values here, where they take 1e-6 of |phi(0)|.

    Parameters
    ----------
    ray : Ray
        Ray along a descent direction: phi'(0) < 0.
    delta : float
        Share of the predicted decrease to insist on, below 1/2 and at most sigma.
    sigma : float
        How much of the slope may be left, in [delta, 1).
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
        If delta is not below 1/2, or above sigma.
    """
    if not delta < 0.5:
        raise ConfigError(f"line_search.delta={delta} must be below 0.5.")
    if delta > sigma:
        raise ConfigError(f"line_search.delta={delta} must be at most line_search.sigma={sigma}.")
    search = _Search(ray, delta, sigma, max_steps)
    with suppress(_EndedError):
        search.run(initial)
    return search.best


@dataclass(frozen=True)
class _Trial:
    """An evaluated alpha."""

    alpha: float
    value: float
    slope: float


class _EndedError(Exception):
    """An accepted trial, or the end of the budget."""


class _Search:
    """The state of one search; names and steps (B, U, S, L) are the paper's."""

    def __init__(self, ray: Ray, delta: float, sigma: float, budget: int) -> None:
        self.ray, self.delta, self.sigma, self.budget = ray, delta, sigma, budget
        self.origin = _Trial(0.0, ray.origin.value, ray.slope)
        self.slack = ray.origin.objective.rounding(self.origin.value)
        self.best = LineSearchResult(0.0, ray.origin)
        self._lowest = math.inf

    def run(self, alpha: float) -> None:
        """Search until a trial ends it."""
        a, b = self._bracket(alpha)
        while b.alpha - a.alpha > 1e-15 * b.alpha:
            low, high = self._secant2(a, b)
            if high.alpha - low.alpha > _REDUCTION * (b.alpha - a.alpha):  # L2
                share = _BISECTION if self._low(high) else _FAR
                low, high = self._update(low, high, low.alpha + share * (high.alpha - low.alpha))
            a, b = low, high

    def _bracket(self, alpha: float) -> tuple[_Trial, _Trial]:
        """Return a < b: phi falls at a, which is not above the origin; it rises at b."""
        a = self.origin
        while True:
            trial = self._try(alpha)
            if trial.slope >= 0:  # B1
                return a, trial
            if not self._low(trial):  # B2
                return self._bisect(a, alpha)
            a, alpha = trial, _EXPANSION * alpha  # B3

    def _update(self, a: _Trial, b: _Trial, c: float) -> tuple[_Trial, _Trial]:
        if not a.alpha < c < b.alpha:  # U0; a nan, too
            return a, b
        trial = self._try(c)
        if trial.slope >= 0:  # U1
            return a, trial
        return (trial, b) if self._low(trial) else self._bisect(a, c)  # U2, U3

    def _bisect(self, a: _Trial, high: float) -> tuple[_Trial, _Trial]:
        """Bring the upper end down to where the slope is positive (U3)."""
        while True:
            middle = a.alpha + _BISECTION * (high - a.alpha)
            trial = self._try(middle)
            if trial.slope >= 0:
                return a, trial
            if self._low(trial):
                a = trial
            else:
                high = middle

    def _secant2(self, a: _Trial, b: _Trial) -> tuple[_Trial, _Trial]:
        c = _secant(a, b)  # S1
        low, high = self._update(a, b, c)
        if high.alpha == c:  # S2
            return self._update(low, high, _secant(b, high))
        if low.alpha == c:  # S3
            return self._update(low, high, _secant(a, low))
        return low, high

    def _try(self, alpha: float) -> _Trial:
        """Evaluate, remember the best, and end the search with what meets the conditions."""
        if self.budget == 0:
            raise _EndedError
        self.budget -= 1
        point, slope = self.ray.point(alpha), self.ray.derivative(alpha)
        trial = _Trial(alpha, point.value, slope)  # which the gradient has brought
        if self._accepted(trial):
            self.best = LineSearchResult(alpha, point)
            raise _EndedError
        self._remember(trial, point)
        return trial

    def _remember(self, trial: _Trial, point: Point) -> None:
        enough = trial.value <= self._line(trial) + self.slack
        if enough and trial.value < self._lowest:
            self.best, self._lowest = LineSearchResult(trial.alpha, point), trial.value

    def _accepted(self, trial: _Trial) -> bool:
        start = self.origin.slope
        if not trial.slope >= self.sigma * start:
            return False
        approximate = trial.slope <= (2 * self.delta - 1) * start and self._low(trial)
        return trial.value <= self._line(trial) or approximate

    def _line(self, trial: _Trial) -> float:
        return self.origin.value + self.delta * trial.alpha * self.origin.slope

    def _low(self, trial: _Trial) -> bool:
        return trial.value <= self.origin.value + self.slack


def _secant(a: _Trial, b: _Trial) -> float:
    """Return where the line through two slopes is zero; nan where they are equal."""
    rise = b.slope - a.slope
    return (a.alpha * b.slope - b.alpha * a.slope) / rise if rise != 0 else math.nan
