"""What every data set can have done to it: held-out samples, scaling, layout, a bias column.

Why not scikit-learn's scalers and splitter: importing them takes longer than reading a data set
from the cache, columns of 1e200 overflow in their variance, and other draws of the held-out samples
would change what every record's checksum stands for.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from newton_krylov.data.catalogue import Task
from newton_krylov.data.columns import Matrix, largest, moments, over_columns, over_rows, row_norms
from newton_krylov.data.dataset import Split, Table, Whole
from newton_krylov.data.sparse import NUMPY_DTYPES, canonical, csr_to_torch
from newton_krylov.errors import ConfigError, DataError
from newton_krylov.files import require_memory

DENSE_FROM = 0.3
"""Share of nonzeros from which a dense matrix is both smaller and faster than CSR."""

_FORMAT_VERSION = 1  # part of every checksum: raise it when the same source gives other tensors


@dataclass(frozen=True)
class Options:
    """The options that all tabular sources share; the fields are configuration keys.

    Attributes
    ----------
    bias : bool or "auto"
        Append a column of ones, after the scaling. Its weight is an ordinary weight to a loss.
        `auto`: where a run's loss cannot add an intercept without a penalty by itself; else not.
    scaling : {"none", "standardize", "maxabs", "unit_rows"}
        `standardize`: columns of mean 0 and variance 1 (sparse ones are divided by their standard
        deviation and not centred, which would fill them); `maxabs`: columns divided by their
        largest absolute value; `unit_rows`: samples of Euclidean norm 1. Column statistics come
        from the train split alone.
    test_fraction : float
        Share of the samples held out for testing, where the source has no test set of its own.
    folds : int, optional
        Cut the training samples into so many parts for cross-validation (of classes each with its
        share of each class). The test samples, if there are any, are left aside.
    fold : int, optional
        Which of the parts, from 1 on, is held out and tested with; the others are trained with.
    seed : int
        Chooses the held-out samples, and the parts.
    format : {"auto", "sparse", "dense"}
        `auto` is dense when more than `DENSE_FROM` of the entries are nonzero.
    """

    bias: bool | Literal["auto"] = False
    scaling: Literal["none", "standardize", "maxabs", "unit_rows"] = "none"
    test_fraction: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    folds: Annotated[int, pydantic.Field(ge=2)] | None = None
    fold: pydantic.PositiveInt | None = None
    seed: pydantic.NonNegativeInt = 0
    format: Literal["auto", "sparse", "dense"] = "auto"


Places = Callable[[int], str]


@dataclass(frozen=True)
class Samples:
    """Samples as a source reads them.

    Attributes
    ----------
    X : csr_array or ndarray, shape (n, d)
        Finite values. A CSR array is made canonical: sorted, entries that are there twice added.
    y : ndarray, shape (n,)
        int64 class indices, or float64 targets.
    weights : ndarray or None, shape (n,)
        How much each sample counts, >= 0; brought to mean 1.
    offset : ndarray or None, shape (n,)
        As in `Split`.
    places : callable or None
        Says of a sample's number where it stands, for messages: "FILE, line 7".
    """

    X: Matrix
    y: NDArray[Any]
    weights: NDArray[np.float64] | None = None
    places: Places | None = None
    offset: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.X, sp.csr_array):
            object.__setattr__(self, "X", canonical(self.X))
        if self.weights is not None:
            if not self.weights.any():
                raise DataError(f"All {len(self.weights)} samples of a part have weight 0.")
            mean_one = self.weights * (len(self.weights) / self.weights.sum())
            object.__setattr__(self, "weights", mean_one)

    def take(self, rows: NDArray[Any]) -> "Samples":
        """Return some of the samples."""
        places = self.places
        return Samples(
            self.X[rows],
            self.y[rows],
            None if self.weights is None else self.weights[rows],
            None if places is None else (lambda number: places(int(rows[number]))),
            None if self.offset is None else self.offset[rows],
        )


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
    title : str or None
        What the data are called where the source's own name says little, such as a file's name.
    remarks : tuple of str
        What the source decided by itself, in sentences without a full stop.
    classes : tuple of str
        The classes' names, in the order of their indices; empty where they have none.
    folded : bool
        Whether `test` is the fold asked for: taken by the source, whose encoding depends on it.
    """

    train: Samples
    test: Samples | None
    task: Task
    n_classes: int
    source: str
    fingerprint: str
    title: str | None = None
    remarks: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    folded: bool = False


def prepare(name: str, raw: RawData, options: Options, dtype: torch.dtype) -> Table:
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
    Table
        On the CPU.

    Raises
    ------
    ConfigError
        For a test fraction that leaves a split empty, a fold that is none, or a dtype that is
        neither float32 nor float64.
    DataError
        If a dense matrix would not fit into memory.
    """
    if dtype not in NUMPY_DTYPES:
        raise ConfigError(f"Data sets are float32 or float64, not {_short(dtype)}.")
    bias = options.bias is True
    effective = asdict(options) | {"bias": bias}
    for key in ("fold", "folds"):
        del effective[key]
    if raw.test is None and options.test_fraction:
        raw = _hold_out(name, raw, options)
    else:  # options that changed nothing must not distinguish equal data
        del effective["seed"], effective["test_fraction"]
    whole: Whole | None = None
    if (place := checked_fold(options.folds, options.fold)) is not None:
        effective |= {"folds": place[0], "seed": options.seed}
        whole = Whole(checksum({"data": raw.fingerprint} | effective), *place)
        effective["fold"] = place[1]
        if not raw.folded:
            kept, held = fold_rows(raw.train.y, raw.task, *place, options.seed)
            raw = replace(raw, train=raw.train.take(kept), test=raw.train.take(held))
    layout = _layout(raw.train.X, options.format)
    parts = [raw.train] if raw.test is None else [raw.train, raw.test]
    matrices = [_in_layout(part.X, layout) for part in parts]
    matrices = _scale(matrices, options.scaling, parts[0].weights)
    if bias:
        matrices = [_with_ones(X) for X in matrices]
    splits = [
        Split(
            _tensor(X, part, raw, dtype),
            _targets(part, raw, dtype),
            *(
                None if values is None else torch.from_numpy(values).to(dtype)
                for values in (part.weights, part.offset)
            ),
        )
        for X, part in zip(matrices, parts, strict=True)
    ]
    _refuse_vanished(matrices[0], splits[0], name, dtype)
    effective |= {"format": layout, "dtype": str(dtype), "version": _FORMAT_VERSION}
    return Table(
        name=raw.title or name,
        train=splits[0],
        test=splits[1] if len(splits) > 1 else None,
        task=raw.task,
        n_classes=raw.n_classes,
        source=raw.source,
        checksum=checksum({"data": raw.fingerprint} | effective),
        bias=bias,
        remarks=raw.remarks,
        classes=raw.classes,
        whole=whole,
    )


def checked_fold(folds: int | None, fold: int | None) -> tuple[int, int] | None:
    """Return into how many parts samples are cut, and which is held out; None for no parts.

    Raises
    ------
    ConfigError
        Where one of the two says nothing without the other, or there is no such part.
    """
    if folds is None and fold is None:
        return None
    if folds is None:
        raise ConfigError(f"dataset.fold={fold} is one of how many? Set dataset.folds, 5, say.")
    if fold is None or fold > folds:
        said = "needs dataset.fold" if fold is None else f"has no dataset.fold={fold}"
        raise ConfigError(
            f"dataset.folds={folds} {said}: it is 1 to {folds}, the part that is held out, or in a "
            f"sweep (-m) dataset.fold={','.join(map(str, range(1, min(folds, 5) + 1)))}"
            f"{',...' if folds > 5 else ''}."
        )
    return folds, fold


def fold_rows(
    y: NDArray[Any], task: Task, folds: int, fold: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train with and those held out, both rising.

    Parameters
    ----------
    y : ndarray, shape (n,)
        Targets; each part gets its share of each class.
    task : {"binary", "multiclass", "regression"}
        What they are.
    folds, fold : int
        Number of the parts, whose sizes differ by 1 at most, and which is held out, from 1 on.
    seed : int
        Shuffles the rows before.

    Returns
    -------
    tuple of two ndarrays
        Indices.

    Raises
    ------
    ConfigError
        For more parts than samples.
    """
    if folds > len(y):
        raise ConfigError(f"dataset.folds={folds} are more than the {len(y)} samples.")
    order = np.random.default_rng(seed).permutation(len(y))
    if task != "regression":
        order = order[np.argsort(y[order], kind="stable")]
    held = np.zeros(len(y), dtype=bool)
    held[order[fold - 1 :: folds]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


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
    return replace(raw, train=raw.train.take(kept), test=raw.train.take(held_out))


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


def _scale(matrices: list[Matrix], scaling: str, weights: NDArray[Any] | None) -> list[Matrix]:
    """Scale train and test by the train split's statistics, of samples that may be weighted."""
    if scaling == "none":
        return matrices
    if scaling == "unit_rows":
        return [over_rows(X, _nonzero(row_norms(X))) for X in matrices]
    if scaling == "maxabs":
        divisors = _nonzero(largest(matrices[0], 0))
        return [over_columns(X, divisors) for X in matrices]
    mean, deviation = moments(matrices[0], weights)
    if not isinstance(matrices[0], sp.csr_array):
        with np.errstate(over="ignore"):  # what is not finite is refused with its place
            matrices = [X - mean for X in matrices]
    return [over_columns(X, _nonzero(deviation)) for X in matrices]


def _nonzero(divisors: NDArray[Any]) -> NDArray[Any]:
    return np.where(divisors == 0, 1.0, divisors)


def _with_ones(X: Matrix) -> Matrix:
    ones = np.ones((X.shape[0], 1))
    if not isinstance(X, sp.csr_array):
        return np.hstack([X, ones])
    return sp.csr_array(sp.hstack([X, sp.csr_array(ones)], format="csr"))


def _tensor(X: Matrix, samples: Samples, raw: RawData, dtype: torch.dtype) -> Tensor:
    values = X.data if isinstance(X, sp.csr_array) else X
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values, dtype=NUMPY_DTYPES[dtype])
    if not np.isfinite(cast).all():
        bad = np.argwhere(~np.isfinite(cast))[0]
        row = (
            np.searchsorted(X.indptr, bad[0], "right") - 1
            if isinstance(X, sp.csr_array)
            else bad[0]
        )
        raise _too_large("a value", values[tuple(bad)], int(row), samples, raw, dtype)
    if isinstance(X, sp.csr_array):
        return csr_to_torch(sp.csr_array((cast, X.indices, X.indptr), shape=X.shape), dtype)
    return torch.from_numpy(cast)


def _targets(samples: Samples, raw: RawData, dtype: torch.dtype) -> Tensor:
    if raw.task != "regression":
        return torch.from_numpy(samples.y.astype(np.int64))
    with np.errstate(over="ignore"):
        y = samples.y.astype(NUMPY_DTYPES[dtype])
    if not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(y)))
        raise _too_large("a target", samples.y[row], row, samples, raw, dtype)
    return torch.from_numpy(y)


def _too_large(
    what: str, value: float, row: int, samples: Samples, raw: RawData, dtype: torch.dtype
) -> DataError:
    place = f"{raw.source}, sample {row + 1}," if samples.places is None else samples.places(row)
    return DataError(
        f"{place} has {what} of {value:.4g} (after the scaling), which {_short(dtype)} cannot "
        f"hold; {_remedy(dtype)}."
    )


def _refuse_vanished(X: Matrix, split: Split, name: str, dtype: torch.dtype) -> None:
    """Refuse a column whose every value is rounded to zero."""
    if dtype == torch.float64:
        return
    before = largest(X, 0)
    after = before.astype(NUMPY_DTYPES[dtype])
    if (lost := (before > 0) & (after == 0)).any():
        column = int(np.argmax(lost))
        raise DataError(
            f"Column {column + 1} of '{name}' has values of at most {before[column]:.4g}, which "
            f"{_short(dtype)} rounds to zero; {_remedy(dtype)}."
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _remedy(dtype: torch.dtype) -> str:
    scaling = "set dataset.scaling=standardize"
    return scaling if dtype == torch.float64 else f"take dtype=float64, or {scaling}"
