"""Coordinate descent's loop, which is compiled, or run as it is on small matrices."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


def sweep(H: Array, s: Array, x: Array, m: Array, most: int) -> int:
    """Minimize x'Hx/2 + c'x + sum_j s_j |x_j| one x_j after the other, all of them `most` times.

    Parameters
    ----------
    H : ndarray, shape (n, n)
        Symmetric, positive semidefinite.
    s : ndarray, shape (n,)
        At least 0.
    x : ndarray, shape (n,)
        The start; changed.
    m : ndarray, shape (n,)
        Hx + c, changed with x.
    most : int
        Sweeps; fewer where one changes nothing.

    Returns
    -------
    int
        Sweeps made.
    """
    for made in range(most):
        still = True
        for j in range(len(x)):
            h = H[j, j]
            if not h > 0:
                continue
            z, t = x[j] - m[j] / h, s[j] / h
            new = z - t if z > t else (z + t if z < -t else 0.0)
            change = new - x[j]
            if change != 0:
                x[j] = new
                m += change * H[j]
                still = False
        if still:
            return made + 1
    return most
