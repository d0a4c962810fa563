"""Secants of short vectors, by compiled loops."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from newton_krylov.kernels.rows import Array, Evaluation, load

_TRIALS = 40
"""Of a line search."""


class Descent(NamedTuple):
    """A direction from a point.

    Attributes
    ----------
    p : ndarray, shape (d,)
        The direction.
    slope : float
        The gradient's product with it.
    end : ndarray, shape (d,)
        Where it leads to at full length.
    """

    p: Array
    slope: float
    end: Array


class Pairs:
    """The last steps s, changes of the gradient y, and s'y, as the compiled loops take them.

    Parameters
    ----------
    most : int
        Pairs kept.
    size : int
        Length of the vectors.
    dtype : numpy.dtype
        float32 or float64.
    """

    def __init__(self, most: int, size: int, dtype: np.dtype[np.floating]) -> None:
        # One more than are kept: a new pair is looked at before the oldest one goes.
        self._s, self._y = np.empty((most + 1, size), dtype), np.empty((most + 1, size), dtype)
        self._curvature, self._factors = np.empty(most + 1), np.empty(most)
        self._none = np.empty((0, 0), dtype)
        self._eps = float(np.finfo(dtype).eps)
        self.clear()

    def clear(self) -> None:
        """Forget all pairs."""
        self._oldest = self._known = 0

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return self._known

    def __iter__(self) -> Iterator[tuple[Array, Array, float]]:
        """Iterate over (s, y, s'y), the oldest first; views."""
        for i in range(self._known):
            k = (self._oldest + i) % len(self._s)
            yield self._s[k], self._y[k], float(self._curvature[k])

    def compile(self) -> None:
        """Compile the loops, or load them, so that no step has to."""
        w = np.zeros(self._s.shape[1], self._s.dtype)
        self.add(w, w, w, w)
        self.descent(w, w)

    def take(self, pairs: Iterable[tuple[Array, Array, float]]) -> None:
        """Keep these pairs in place of all others, the oldest first."""
        self.clear()
        for s, y, sy in pairs:
            self._s[self._known], self._y[self._known] = s, y
            self._curvature[self._known] = sy
            self._known += 1

    def add(self, new_w: Array, new_g: Array, w: Array, g: Array) -> float:
        """Learn from a step from w to new_w, shape (d,) each, with their gradients; return |s|."""
        places = len(self._s)
        new = (self._oldest + self._known) % places
        sy, stride, bend = load().secant(new_w, new_g, w, g, self._s, self._y, new)
        if sy > self._eps * bend * stride:
            self._curvature[new] = sy
            if self._known < places - 1:
                self._known += 1
            else:
                self._oldest = (self._oldest + 1) % places
        return float(stride)

    def descent(
        self, g: Array, w: Array, factor: Array | None = None, scale: float = 1.0
    ) -> Descent:
        """Return the direction of descent -B g from w, B the approximate inverse.

        Parameters
        ----------
        g, w : ndarray, shape (d,)
            A gradient, and where it is of.
        factor : ndarray, shape (d, d), optional
            Upper triangular R: the pairs correct the inverse of R'R. By default they correct the
            unit matrix times the newest pair's s'y / y'y.
        scale : float
            Times the unit matrix, where there is neither a factor nor a pair.

        Returns
        -------
        Descent
            With new vectors.
        """
        if factor is None:
            factor = self._none
            if self._known:
                newest = (self._oldest + self._known - 1) % len(self._s)
                y = self._y[newest]
                scale = self._curvature[newest] / float(y @ y)
        p, end = np.empty_like(g), np.empty_like(g)
        slope = load().descent(
            g, w, self._s, self._y, self._curvature, self._oldest, self._known, scale, factor,
            self._factors, p, end,
        )  # fmt: skip
        return Descent(p, slope, end)


def descend(
    evaluate: Callable[[Array], Evaluation],
    w: Array,
    *,
    tolerance: float,
    steps: int,
    memory: int,
    first_step: float,
) -> tuple[Array, int, int]:
    """Minimize by L-BFGS with Armijo's backtracking.

    It makes the steps of `optimizers.lbfgs` with `line_search.armijo`, for samples that are so few
    that these two would take longer than the loss.

    Parameters
    ----------
    evaluate : callable
        From w, shape (d,), to the loss and its gradient.
    w : ndarray, shape (d,)
        The start.
    tolerance : float
        Of the gradient's norm.
    steps, memory : int
        Most steps, and pairs kept.
    first_step : float
        What share of the parameters' size, or of the loss's, a step without known curvature is to
        change.

    Returns
    -------
    tuple of ndarray, int and int
        Where it ended, shape (d,), the steps made, and how often the loss was evaluated.
    """
    pairs, here, stride = Pairs(memory, len(w), w.dtype), evaluate(w), 0.0
    made, evaluated = 0, 1
    while (size := math.sqrt(here.squares)) > tolerance and made < steps:
        scale = 2 * stride / size
        if not stride > 0.0:
            length = math.sqrt(w @ w)
            scale = first_step * (length if length > 0.0 else abs(here.value) / size) / size
        scale = scale if 0.0 < scale * size < math.inf else 1 / size
        to = pairs.descent(here.gradient, w, scale=scale)
        new, there, trials = _armijo(evaluate, w, to, here)
        evaluated += trials
        if there is not None:
            stride = pairs.add(new, there.gradient, w, here.gradient)
            w, here, made = new, there, made + 1
        elif len(pairs):
            pairs.clear()
            stride = 0.0
        else:
            break
    return w, made, evaluated


def _armijo(
    evaluate: Callable[[Array], Evaluation], w: Array, to: Descent, here: Evaluation
) -> tuple[Array, Evaluation | None, int]:
    """Halve a step until the loss is lower; return where it ends, and the trials."""
    slack = 10 * float(np.finfo(w.dtype).eps) * abs(here.value)
    for trial in range(_TRIALS):
        alpha = 0.5**trial
        new = to.end if trial == 0 else w + alpha * to.p
        there = evaluate(new)
        if there.value <= here.value + 1e-4 * alpha * to.slope + slack:
            return new, there, trial + 1
    return w, None, _TRIALS
