"""Coordinate descent on a quadratic function with corners, compiled where that pays."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from newton_krylov.kernels.rows import load, worthwhile
from newton_krylov.kernels.sweep import sweep

Array = NDArray[Any]
_LEAST = 64 * 64
"""Numbers of a matrix from which on the compiled loop is worth loading Numba."""
_SWEEPS = 10


def sweeps(H: Array) -> Callable[[Array, Array, Array, Array, int], int]:
    """Return the loop for a matrix: compiled, or as Python runs it."""
    return load().sweep if worthwhile(H.size, _LEAST) else sweep


def minimize(
    H: Array, s: Array, x: Array, m: Array, tolerance: float, rounds: int = 50
) -> tuple[Array, int, float]:
    """Minimize x'Hx/2 + c'x + sum_j s_j |x_j| by coordinate descent and Cholesky's factorization.

    Sweeps over the coordinates find which x_j are 0 and the signs of the others. Given these the
    minimum is that of a linear system, which ends what sweeps alone would approach for long where
    columns resemble each other. Where its solution has other signs, these are cut off at 0, or if
    that is no lower, the way to it ends at the first change of a sign; and so on with the rest.

    Parameters
    ----------
    H, s
        As in `sweep`.
    x : ndarray, shape (n,)
        The start; not changed.
    m : ndarray, shape (n,)
        Hx + c at the start; not changed.
    tolerance : float
        Of the least subgradient's norm.
    rounds : int
        Times that the sweeps and the system take turns, at most.

    Returns
    -------
    tuple of ndarray, int and float
        Where it ends, the sweeps and systems made, and the norm of the least subgradient.
    """
    loop, start, slopes, made = sweeps(H), x, m, 0
    x, m = x.copy(), m.copy()
    for _ in range(rounds):
        made += loop(H, s, x, m, _SWEEPS) + 1
        x = _on_the_face(H, s, x, m)
        m = slopes + H @ (x - start)
        size = float(np.linalg.norm(_least(s, x, m)))
        if not size > tolerance:
            break
    return x, made, size


def _least(s: Array, x: Array, m: Array) -> Array:
    """Return the subgradient of least norm."""
    outside = np.sign(m) * np.maximum(np.abs(m) - s, 0)
    least: Array = np.where(x == 0, outside, m + s * np.sign(x))
    return least


def _on_the_face(H: Array, s: Array, x: Array, m: Array) -> Array:
    """Return the minimum of those with the same signs or zeros; as far as H gives it."""
    x = x.copy()
    free = np.flatnonzero((x != 0) | (s == 0))
    slopes = m[free] + s[free] * np.sign(x[free])
    while len(free):
        part, old = H[np.ix_(free, free)], x[free]
        try:
            factor = scipy.linalg.cho_factor(part, check_finite=False)
        except np.linalg.LinAlgError:
            break
        p = scipy.linalg.cho_solve(factor, -slopes, check_finite=False)
        crossing = (s[free] > 0) & ((old + p) * old < 0)
        q = np.where(crossing, -old, p)
        if not q @ (slopes + part @ q / 2) < 0:
            if not crossing.any():
                break  # a factor of rounding errors, or nothing left to gain
            shares = np.full(len(p), math.inf, p.dtype)
            np.divide(-old, p, out=shares, where=crossing)
            first = int(shares.argmin())
            q = p * shares[first]
            q[first] = -old[first]
        x[free] = old + q
        if not crossing.any():
            break
        kept = (x[free] != 0) | (s[free] == 0)
        free, slopes = free[kept], (slopes + part @ q)[kept]
    return x
