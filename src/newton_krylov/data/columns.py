"""Statistics of a matrix's columns and rows whose squares neither overflow nor vanish."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Matrix = sp.csr_array | NDArray[Any]

_EXTREME = 200  # binary exponent beyond which a sum of squares may leave float64's range


def moments(
    X: Matrix, weights: NDArray[Any] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the columns' means and standard deviations.

    Parameters
    ----------
    X : csr_array or ndarray, shape (n, d)
        Finite values.
    weights : ndarray, shape (n,), optional
        How often each row counts, of sum n.

    Returns
    -------
    mean, deviation : ndarray, shape (d,)
        float64; the deviation is 0 where it is rounding error alone, as of a constant column.
    """
    unit = units(largest(X, 0))
    mean, deviation = _moments(over_columns(X, unit), weights)
    # Rounding gives a constant column a tiny deviation; to divide by it would make noise of it.
    rounding = X.shape[0] * np.finfo(np.float64).eps * abs(mean)
    return mean * unit, np.where(deviation > rounding, deviation, 0.0) * unit


def _moments(
    X: Matrix, weights: NDArray[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n, d = X.shape
    if isinstance(X, sp.csr_array):
        count = np.ones(X.nnz) if weights is None else np.repeat(weights, np.diff(X.indptr))
        mean = np.bincount(X.indices, count * X.data, minlength=d) / n
        squares = np.bincount(X.indices, count * (X.data - mean[X.indices]) ** 2, minlength=d)
        zeros = n - np.bincount(X.indices, count, minlength=d)
        return mean, np.sqrt((squares + zeros * mean**2) / n)
    if weights is None:
        return X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
    mean = weights @ X / n
    return mean, np.sqrt(weights @ np.square(X - mean) / n)


def row_norms(X: Matrix) -> NDArray[np.float64]:
    """Return the rows' Euclidean norms, shape (n,)."""
    unit = units(largest(X, 1))
    scaled = over_rows(X, unit)
    squares = scaled.multiply(scaled) if isinstance(scaled, sp.csr_array) else np.square(scaled)
    return np.asarray(np.sqrt(np.asarray(squares.sum(axis=1))) * unit)


def largest(X: Matrix, axis: int) -> NDArray[Any]:
    """Return the largest absolute values of the columns (axis 0) or the rows (axis 1)."""
    if not isinstance(X, sp.csr_array):
        return np.asarray(np.maximum(X.max(axis=axis), -X.min(axis=axis)))
    found = np.zeros(X.shape[1 - axis])
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    np.maximum.at(found, X.indices if axis == 0 else rows, np.abs(X.data))
    return found


def units(sizes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the power of two near each size that is extreme, and 1 for the others."""
    exponents = np.frexp(sizes.astype(np.float64))[1]
    extreme = (np.abs(exponents) > _EXTREME) & (sizes != 0)
    return np.asarray(np.ldexp(1.0, np.clip(np.where(extreme, exponents, 0), -1000, 1000)))


def over_columns(X: Matrix, divisors: NDArray[Any]) -> Matrix:
    """Divide the columns; X itself where every divisor is 1."""
    if (divisors == 1).all():
        return X
    if not isinstance(X, sp.csr_array):
        return np.asarray(X / divisors)
    return sp.csr_array((X.data / divisors[X.indices], X.indices, X.indptr), shape=X.shape)


def over_rows(X: Matrix, divisors: NDArray[Any]) -> Matrix:
    """Divide the rows; X itself where every divisor is 1."""
    if (divisors == 1).all():
        return X
    if not isinstance(X, sp.csr_array):
        return np.asarray(X / divisors[:, None])
    values = X.data / np.repeat(divisors, np.diff(X.indptr))
    return sp.csr_array((values, X.indices, X.indptr), shape=X.shape)
