"""Samples, targets and weights as callers have them, made what scikit-learn's checks understand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from newton_krylov.data.frames import to_pandas
from newton_krylov.data.sparse import tensor_to_array, tensor_to_csr


def features(X: Any) -> Any:
    """Return samples with tensors made arrays, and dicts and other libraries' frames pandas'.

    Parameters
    ----------
    X : array-like, sparse matrix, frame, Tensor or mapping, shape (n, d)
        Samples; a mapping is of columns by their names.

    Returns
    -------
    array-like, sparse matrix or frame, shape (n, d)
        The same; what is no such thing as it came.

    Raises
    ------
    ValueError
        For a frame's column that holds no numbers.
    """
    X = to_pandas(plain(X))
    if isinstance(X, Mapping) and not scipy.sparse.issparse(X):  # one of SciPy's formats is both
        import pandas as pd

        X = pd.DataFrame(X)
    if type(X).__module__.partition(".")[0] == "pandas" and X.ndim == 2:
        for name, column in X.items():
            _check_column(name, column)
    return X


def targets(y: Any, *, numeric: bool = False) -> Any:
    """Return targets with torch's tensors made arrays, and objects that are numbers numbers.

    Parameters
    ----------
    y : array-like or Tensor, shape (n,)
        Targets.
    numeric : bool
        Whether texts that are numbers become such.

    Returns
    -------
    array-like, shape (n,)
        The same; what is no such thing as it came.

    Raises
    ------
    ValueError
        For texts that are no numbers where these are needed.
    """
    y = plain(y)
    if y is None or scipy.sparse.issparse(y):
        return y
    found = np.asarray(y)
    if found.dtype == object or (found.dtype.kind in "US" and isinstance(y, list | tuple)):
        _check_objects(np.asarray(y, dtype=object), numeric=numeric)
    if found.dtype == object and not isinstance(y, np.ndarray | list | tuple):
        return y  # of a frame, whose missing values scikit-learn knows
    if found.dtype == object and all(isinstance(v, int | np.integer) for v in found.ravel()):
        return found.astype(np.int64 if _fits(found) else np.float64)
    if numeric and found.dtype.kind in "US":
        try:
            return found.astype(np.float64)
        except ValueError as error:
            raise ValueError(
                f"y holds texts, and a regression's targets are numbers: {error}"
            ) from None
    return y


def _check_objects(y: NDArray[Any], *, numeric: bool) -> None:
    """Refuse missing targets, and texts among other labels: NumPy makes texts of both."""
    import pandas as pd

    flat = y.ravel()
    if (missing := pd.isna(flat)).any():
        raise ValueError(f"y contains NaN: a target is missing in row {missing.argmax() + 1}")
    if not numeric and len({isinstance(value, str) for value in flat}) > 1:
        raise ValueError("y mixes texts and other values: make all of its labels texts")


def plain(values: Any) -> Any:
    """Return a tensor as an array, or in CSR format where it is sparse; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    return tensor_to_array(values) if values.layout is torch.strided else tensor_to_csr(values)


def _check_column(name: Any, column: Any) -> None:
    if column.dtype.kind in "biuf":
        return
    known = column.dropna()
    try:
        known.astype(float)
    except (TypeError, ValueError):
        wrong = next((value for value in known if not _is_number(value)), known.iloc[0])
        raise ValueError(
            f"column {name!r} of X holds {column.dtype} and no numbers, such as "
            f"{str(wrong)[:40]!r}: make numbers of it, as by scikit-learn's OneHotEncoder, or "
            f"let newton_krylov.run(dataset=frame) do it"
        ) from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _fits(whole: Any) -> bool:
    return all(abs(int(value)) < 2**63 for value in whole.ravel())
