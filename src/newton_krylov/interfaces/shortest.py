"""Least squares without a penalty: the shortest of the best weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from newton_krylov.interfaces.parts import named

SOLVERS = ("minres_qlp", "lsmr", "lsqr", "qr")
"""Those that find the shortest solution, from zero."""

_RTOL = 1e-12


@dataclass(frozen=True)
class Shortest:
    """A solution.

    Attributes
    ----------
    coef : ndarray, shape (d,)
        The weights of least norm.
    intercept : float
        No part of the norm.
    size : float
        The largest entry of the gradient by weights of standardized columns.
    """

    coef: NDArray[np.float64]
    intercept: float
    size: float


def shortest(
    X: Any, y: NDArray[Any], v: NDArray[Any] | None, *, intercept: bool, solver: str
) -> Shortest:
    """Minimize the weighted mean of (x'w + b - y)^2 / 2; of all minima take that of least |w|.

    An intercept is eliminated: it makes the weighted mean of the residuals zero, which leaves least
    squares of the centred columns, by products that do not fill a sparse X.

    Parameters
    ----------
    X : ndarray or sparse matrix, shape (n, d)
        Samples.
    y : ndarray, shape (n,)
        Targets.
    v : ndarray or None, shape (n,)
        Samples' weights, of mean 1.
    intercept : bool
        Whether the model has an intercept b.
    solver : str
        One of `SOLVERS`.

    Returns
    -------
    Shortest
        In float64.
    """
    n, d = X.shape
    share = np.full(n, 1 / n) if v is None else v / n
    y = y.astype(np.float64)
    mean, level = (share @ X, share @ y) if intercept else (np.zeros(d), 0.0)
    root = np.sqrt(share)
    J: Any = LinearOperator(
        (n, d),
        matvec=lambda p: root * (X @ p - mean @ p),
        rmatvec=lambda u: X.T @ (root * u) - mean * (root @ u),
        dtype=np.float64,
    )
    u = torch.from_numpy(root * (y - level))
    solve = named("solver", solver).build({})
    if solver == "minres_qlp":
        b = torch.from_numpy(J.rmatvec(u.numpy()))
        found = solve(lambda p: torch.from_numpy(J.rmatvec(J.matvec(p.numpy()))), b, rtol=_RTOL)
    else:
        found = solve(J, u, rtol=_RTOL)
    w = found.x.numpy()
    squares = share @ (X.multiply(X) if hasattr(X, "multiply") else np.square(X))
    sizes = np.sqrt(np.maximum(squares - mean**2, 0))
    gradient = np.abs(J.rmatvec(u.numpy() - J.matvec(w)))
    size = float((gradient / np.where(sizes > 0, sizes, 1.0)).max())
    return Shortest(w, float(level - mean @ w), size)
