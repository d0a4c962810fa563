"""Secants of short vectors, by compiled loops."""

from collections.abc import Iterable, Iterator

import numpy as np

from newton_krylov.kernels.rows import Array, load


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
        self._curvature = np.empty(most + 1)
        self._oldest = self._known = 0

    def __iter__(self) -> Iterator[tuple[Array, Array, float]]:
        """Iterate over (s, y, s'y), the oldest first; views."""
        for i in range(self._known):
            k = (self._oldest + i) % len(self._s)
            yield self._s[k], self._y[k], float(self._curvature[k])

    def compile(self) -> None:
        """Compile the loops, or load them, so that no step has to."""
        w = np.zeros(self._s.shape[1], self._s.dtype)
        self.add(w, w, w, w)
        self.descent(w, np.eye(len(w), dtype=w.dtype))

    def take(self, pairs: Iterable[tuple[Array, Array, float]]) -> None:
        """Keep these pairs in place of all others, the oldest first."""
        self._oldest = self._known = 0
        for s, y, sy in pairs:
            self._s[self._known], self._y[self._known] = s, y
            self._curvature[self._known] = sy
            self._known += 1

    def add(self, new_w: Array, new_g: Array, w: Array, g: Array) -> float:
        """Learn from a step from w to new_w, shape (d,) each, with their gradients; return |s|."""
        places = len(self._s)
        new = (self._oldest + self._known) % places
        sy, stride, bend = load().secant(new_w, new_g, w, g, self._s, self._y, new)
        if sy > np.finfo(w.dtype).eps * bend * stride:
            self._curvature[new] = sy
            if self._known < places - 1:
                self._known += 1
            else:
                self._oldest = (self._oldest + 1) % places
        return float(stride)

    def descent(self, g: Array, factor: Array) -> Array:
        """Return -B g, B the approximate inverse.

        Parameters
        ----------
        g : ndarray, shape (d,)
            A gradient.
        factor : ndarray, shape (d, d)
            Upper triangular R: the pairs correct the inverse of R'R.

        Returns
        -------
        ndarray, shape (d,)
            A new vector.
        """
        p = np.empty_like(g)
        load().descent(g, self._s, self._y, self._curvature, self._oldest, self._known, factor, p)
        return p
