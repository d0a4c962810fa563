"""What every data set can have done to it: held-out samples, scaling, layout, a bias column."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from newton_krylov.data.dataset import Dataset, Split, Task
from newton_krylov.data.sparse import NUMPY_DTYPES, csr_to_torch
from newton_krylov.errors import ConfigError
from newton_krylov.files import require_memory

Matrix = sp.csr_array | NDArray[Any]

DENSE_FROM = 0.3
"""Share of nonzeros from which a dense matrix is both smaller and faster than CSR."""

_FORMAT_VERSION = 1  # part of every checksum: raise it when the same source gives other tensors


@dataclass(frozen=True)
class Options:
    """The options that all tabular sources share; the fields are configuration keys.

    Attributes
    ----------
    bias : bool
        Append a column of ones, after the scaling. Its weight is an ordinary weight to a loss.
    scaling : {"none", "standardize", "maxabs", "unit_rows"}
        `standardize`: columns of mean 0 and variance 1 (sparse ones are divided by their standard
        deviation and not centred, which would fill them); `maxabs`: columns divided by their
        largest absolute value; `unit_rows`: samples of Euclidean norm 1. Column statistics come
        from the train split alone.
    test_fraction : float
        Share of the samples held out for testing, where the source has no test set of its own.
    seed : int
        Chooses the held-out samples.
    format : {"auto", "sparse", "dense"}
        `auto` is dense when more than `DENSE_FROM` of the entries are nonzero.
    """

    bias: bool = False
    scaling: Literal["none", "standardize", "maxabs", "unit_rows"] = "none"
    test_fraction: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    seed: pydantic.NonNegativeInt = 0
    format: Literal["auto", "sparse", "dense"] = "auto"


@dataclass(frozen=True)
class Samples:
    """Samples as a source reads them.

    Attributes
    ----------
    X : csr_array or ndarray, shape (n, d)
        Finite values; a CSR array is sorted, without duplicates.
    y : ndarray, shape (n,)
        int64 class indices, or float64 targets.
    """

    X: Matrix
    y: NDArray[Any]


@dataclass(frozen=True)
class RawData:
    """What a source reads, before the common options.

    Attributes
    ----------
    train : Samples
        All samples, if the source has no test set.
    test : Samples or None
        The source's own test set.
    task : {"binary", "multiclass", "regression"}
        What `y` holds.
    n_classes : int
        0 for a regression.
    source : str
        Where the data came from.
    fingerprint : str
        A checksum of what defines the data.
    """

    train: Samples
    test: Samples | None
    task: Task
    n_classes: int
    source: str
    fingerprint: str


def prepare(name: str, raw: RawData, options: Options, dtype: torch.dtype) -> Dataset:
    """Apply the common options and make tensors.

    Parameters
    ----------
    name : str
        As the user asked for it.
    raw : RawData
        What the source read. Its arrays may end up inside the tensors.
    options : Options
        What to do to it.
    dtype : torch.dtype
        float32 or float64.

    Returns
    -------
    Dataset
        On the CPU.

    Raises
    ------
    ConfigError
        For a test fraction that leaves a split empty, or a dtype that is neither float32 nor
        float64.
    DataError
        If a dense matrix would not fit into memory.
    """
    if dtype not in NUMPY_DTYPES:
        raise ConfigError(f"Data sets are float32 or float64, not {str(dtype).split('.')[-1]}.")
    effective = asdict(options)
    if raw.test is None and options.test_fraction:
        raw = _hold_out(name, raw, options)
    else:  # what chose nothing must not tell equal data apart
        del effective["seed"], effective["test_fraction"]
    layout = _layout(raw.train.X, options.format)
    parts = [raw.train] if raw.test is None else [raw.train, raw.test]
    matrices = _scale([_in_layout(part.X, layout) for part in parts], options.scaling)
    if options.bias:
        matrices = [_with_ones(X) for X in matrices]
    splits = [
        Split(_tensor(X, dtype), _targets(part.y, raw.task, dtype))
        for X, part in zip(matrices, parts, strict=True)
    ]
    effective |= {"format": layout, "dtype": str(dtype), "version": _FORMAT_VERSION}
    return Dataset(
        name=name,
        train=splits[0],
        test=splits[1] if len(splits) > 1 else None,
        task=raw.task,
        n_classes=raw.n_classes,
        source=raw.source,
        checksum=checksum({"data": raw.fingerprint} | effective),
    )


def checksum(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of named plain values.

    Parameters
    ----------
    values : mapping
        Anything JSON can hold; the order of the keys does not matter.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _hold_out(name: str, raw: RawData, options: Options) -> RawData:
    n = len(raw.train.y)
    n_test = round(options.test_fraction * n)
    if not 0 < n_test < n:
        raise ConfigError(
            f"dataset.test_fraction={options.test_fraction} of the {n} samples of '{name}' "
            f"leaves {n_test} to test and {n - n_test} to train; both must be positive."
        )
    order = np.random.default_rng(options.seed).permutation(n)
    # Kept in the source's order, which costs nothing and reads memory in sequence.
    held_out, kept = np.sort(order[:n_test]), np.sort(order[n_test:])
    X, y = raw.train.X, raw.train.y
    return replace(raw, train=Samples(X[kept], y[kept]), test=Samples(X[held_out], y[held_out]))


def _layout(X: Matrix, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    nonzeros = X.nnz if isinstance(X, sp.csr_array) else np.count_nonzero(X)
    return "dense" if nonzeros > DENSE_FROM * X.shape[0] * X.shape[1] else "sparse"


def _in_layout(X: Matrix, layout: str) -> Matrix:
    if isinstance(X, sp.csr_array):
        if layout == "sparse":
            return X
        require_memory(
            8 * X.shape[0] * X.shape[1],
            f"A dense matrix of {X.shape[0]:,} samples and {X.shape[1]:,} features",
        )
        return X.toarray()
    return sp.csr_array(X) if layout == "sparse" else X


def _scale(matrices: list[Matrix], scaling: str) -> list[Matrix]:
    """Scale train and test by the train split's statistics."""
    if scaling == "none":
        return matrices
    if scaling == "unit_rows":
        return [_over_rows(X, _row_norms(X)) for X in matrices]
    if scaling == "maxabs":
        largest = _nonzero(_largest(matrices[0]))
        return [_over_columns(X, largest) for X in matrices]
    mean, deviation = _moments(matrices[0])
    if not isinstance(matrices[0], sp.csr_array):
        matrices = [X - mean for X in matrices]
    return [_over_columns(X, deviation) for X in matrices]


def _moments(X: Matrix) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the columns' means and standard deviations; 1 for a constant column."""
    n, d = X.shape
    if isinstance(X, sp.csr_array):
        mean = np.bincount(X.indices, X.data, minlength=d) / n
        squares = np.bincount(X.indices, (X.data - mean[X.indices]) ** 2, minlength=d)
        zeros = n - np.bincount(X.indices, minlength=d)
        deviation = np.sqrt((squares + zeros * mean**2) / n)
    else:
        mean, deviation = X.mean(axis=0), X.std(axis=0)
    # Rounding gives a constant column a tiny deviation; to divide by it would make noise of it.
    rounding = n * np.finfo(np.float64).eps * abs(mean)
    return mean, np.where(deviation > rounding, deviation, 1.0)


def _largest(X: Matrix) -> NDArray[Any]:
    """Return the columns' largest absolute values."""
    if not isinstance(X, sp.csr_array):
        return np.asarray(np.abs(X).max(axis=0))
    largest = np.zeros(X.shape[1])
    np.maximum.at(largest, X.indices, np.abs(X.data))
    return largest


def _nonzero(divisors: NDArray[Any]) -> NDArray[Any]:
    return np.where(divisors == 0, 1.0, divisors)


def _row_norms(X: Matrix) -> NDArray[Any]:
    squares = X.multiply(X) if isinstance(X, sp.csr_array) else np.square(X)
    return _nonzero(np.sqrt(squares.sum(axis=1)))


def _over_columns(X: Matrix, divisors: NDArray[Any]) -> Matrix:
    if not isinstance(X, sp.csr_array):
        return np.asarray(X / divisors)
    return sp.csr_array((X.data / divisors[X.indices], X.indices, X.indptr), shape=X.shape)


def _over_rows(X: Matrix, divisors: NDArray[Any]) -> Matrix:
    if not isinstance(X, sp.csr_array):
        return np.asarray(X / divisors[:, None])
    values = X.data / np.repeat(divisors, np.diff(X.indptr))
    return sp.csr_array((values, X.indices, X.indptr), shape=X.shape)


def _with_ones(X: Matrix) -> Matrix:
    ones = np.ones((X.shape[0], 1))
    if not isinstance(X, sp.csr_array):
        return np.hstack([X, ones])
    return sp.csr_array(sp.hstack([X, sp.csr_array(ones)], format="csr"))


def _tensor(X: Matrix, dtype: torch.dtype) -> Tensor:
    if isinstance(X, sp.csr_array):
        return csr_to_torch(X, dtype)
    return torch.from_numpy(np.ascontiguousarray(X, dtype=NUMPY_DTYPES[dtype]))


def _targets(y: NDArray[Any], task: Task, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(y.astype(NUMPY_DTYPES[dtype] if task == "regression" else np.int64))
