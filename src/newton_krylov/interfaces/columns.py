"""The scaling of columns that the estimators solve in."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from newton_krylov.data.columns import moments
from newton_krylov.data.sparse import canonical, csr_to_torch
from newton_krylov.objectives.features import with_ones


@dataclass(frozen=True)
class Columns:
    """The scaling of the columns, which the solve sees and the caller does not."""

    # Subtracted; 0 where the data are sparse or the intercept is penalized.
    centre: NDArray[Any]
    # sqrt(mean square + l2), about the root of the Hessian's diagonal, so that it is above 0 but
    # for an empty column without a penalty (then 1).
    size: NDArray[Any]
    mean: NDArray[Any]
    deviation: NDArray[Any]
    intercept: bool

    @classmethod
    def of(
        cls, X: Any, weights: NDArray[Any] | None, l2: float, *, centred: bool, intercept: bool
    ) -> "Columns":
        """Look at the data."""
        sparse = scipy.sparse.issparse(X)
        mean, deviation = moments(_csr(X) if sparse else X, weights)
        centre = mean if centred and not sparse else np.zeros_like(mean)
        root = math.sqrt(l2)
        size = _nonzero(np.hypot(np.hypot(mean - centre, deviation), root))
        if not intercept:
            return cls(centre, size, np.zeros_like(mean), size, intercept)
        return cls(centre, size, mean - centre, _nonzero(np.hypot(deviation, root)), intercept)

    def scaled(self, X: Any) -> Tensor:
        """Return the scaled data as a tensor, with a column of ones if there is an intercept."""
        dtype = torch.float32 if X.dtype == np.float32 else torch.float64
        if scipy.sparse.issparse(X):
            csr = _csr(X)
            values = csr.data / self.size[csr.indices]
            parts = (values, csr.indices, csr.indptr)
            tensor = csr_to_torch(scipy.sparse.csr_array(parts, shape=csr.shape), dtype)
        else:
            scaled = X / self.size
            scaled -= self.centre / self.size
            tensor = torch.from_numpy(np.ascontiguousarray(scaled)).to(dtype)
        return with_ones(tensor) if self.intercept else tensor

    def into(self, coef: NDArray[Any], intercept: NDArray[Any]) -> NDArray[Any]:
        """Return the scaled data's weights, shape (n_outputs, width), that mean the same."""
        if not self.intercept:
            return np.asarray(coef * self.size)
        return np.column_stack([coef * self.size, intercept + coef @ self.centre])

    def back(self, W: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return weights of the columns as given, and the intercepts."""
        if not self.intercept:
            return W / self.size, np.zeros(len(W))
        coef = W[:, :-1] / self.size
        return coef, W[:, -1] - coef @ self.centre

    def gradient_size(self, G: NDArray[Any]) -> float:
        """Return the largest entry of a gradient by weights of centred, standardized columns."""
        if not self.intercept:
            return float(np.abs(G).max())
        centred = (G[:, :-1] * self.size - self.mean * G[:, -1:]) / self.deviation
        return float(max(np.abs(centred).max(), np.abs(G[:, -1]).max()))


def _csr(X: Any) -> scipy.sparse.csr_array:
    return canonical(scipy.sparse.csr_array(X))


def _nonzero(sizes: NDArray[Any]) -> NDArray[Any]:
    return np.where(sizes == 0, 1.0, sizes)


def of_mean_one(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return samples' weights, >= 0, scaled to mean 1; refuse those whose sum says nothing."""
    with np.errstate(over="ignore"):
        total = float(weights.sum())
    if not 0 < total < math.inf:
        raise ValueError("the samples' weights must have a positive, finite sum")
    return np.asarray(weights / total * len(weights))


def checked_penalty(penalty: Any, d: int) -> NDArray[np.float64]:
    """Return the factors of the penalty, shape (d,), all 1 by default; refuse what are none."""
    if penalty is None:
        return np.ones(d)
    values = np.asarray(penalty, dtype=np.float64)
    if values.shape != (d,):
        raise ValueError(f"penalty must be of shape ({d},), one of each column, not {values.shape}")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"penalty, of shape {values.shape}, must be finite numbers of at least 0")
    return values
