"""Generated data with chosen size, density, conditioning and noise."""

import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pydantic
import scipy.sparse as sp
from numpy.typing import NDArray

from newton_krylov.data.catalogue import Task
from newton_krylov.data.columns import Matrix
from newton_krylov.data.prepare import RawData, Samples, checksum
from newton_krylov.data.sources import source
from newton_krylov.data.sparse import index_dtype
from newton_krylov.files import require_memory

MARGIN = 3.0
"""Standard deviation of the planted margins x'w: the best classifier errs on 15% of the samples."""

_GENERATOR_VERSION = 1  # part of the checksum: raise it when the same arguments give other data
_BLOCK = 2**20  # entries worked on at a time: bounds the memory beyond the matrix itself
_WIDE_BLOCK = 2**24  # the same for columns, where narrow blocks would touch every page often

Density = Annotated[float, pydantic.Field(gt=0, le=1)]
ConditionNumber = Annotated[float, pydantic.Field(ge=1, allow_inf_nan=False)]


@source("synthetic", generated=True)
def synthetic(
    *,
    n: Annotated[int, pydantic.Field(ge=2)] = 10_000,
    n_test: pydantic.NonNegativeInt = 2_000,
    d: pydantic.PositiveInt = 100,
    density: Density = 1.0,
    condition_number: ConditionNumber = 100.0,
    task: Task = "binary",
    n_classes: Annotated[int, pydantic.Field(ge=3)] = 10,
    label_noise: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0,
    seed: pydantic.NonNegativeInt = 0,
) -> RawData:
    """Generate n x d samples with chosen density, conditioning, task, noise and seed.

    The mean square of the entries of X is 1, zeros included, whatever the density.

    Dense (density 1): X = U diag(s) V' with orthonormal U and V (randomized cosine transforms)
    and logarithmically spaced s, so that X'X has the asked condition number exactly (for n < d,
    on its range). Test samples have the same second moments.

    Sparse: every entry is nonzero with probability `density`, nonzeros are Gaussian, and the
    columns are scaled so that diag(X'X), the squared column norms, is logarithmically spaced over
    exactly `condition_number`. The condition number of X'X itself is at least that, and close to
    it when n density is much larger than d. A column that happens to be empty stays so.

    Parameters
    ----------
    n, n_test : int
        Samples to train and to test with.
    d : int
        Features.
    density : float
        Share of nonzeros.
    condition_number : float
        Largest over smallest eigenvalue, as said above.
    task : {"binary", "multiclass", "regression"}
        Labels drawn from the (multinomial) logistic model of a planted Gaussian w, with margins
        of standard deviation `MARGIN`; a regression's targets are the margins themselves.
    n_classes : int
        Number of classes of a multiclass task.
    label_noise : float
        Probability that a label is replaced by one of the others; for a regression the standard
        deviation of Gaussian noise, in units of the targets'.
    seed : int
        Seed of everything random.

    Returns
    -------
    RawData
        The samples.

    Raises
    ------
    DataError
        If X does not fit into memory.
    """
    arguments = dict(locals())
    # A value takes 8 bytes, and in a sparse matrix its column index 4.
    entries = density * (n + n_test) * d
    require_memory(
        math.ceil((8 if density == 1 else 12) * entries), f"A synthetic {n + n_test:,} x {d:,} set"
    )
    rng = np.random.default_rng(seed)
    X: Matrix
    X_test: Matrix
    if density == 1:
        X, X_test = _dense(rng, n, n_test, d, condition_number)
    else:
        X, X_test = _sparse(rng, n, n_test, d, density, condition_number)
    classes = {"binary": 2, "multiclass": n_classes, "regression": 0}[task]
    y, y_test = _labels(rng, X, X_test, classes, label_noise)
    return RawData(
        train=Samples(X, y),
        test=Samples(X_test, y_test) if n_test else None,
        task=task,
        n_classes=classes,
        source="synthetic",
        fingerprint=checksum(arguments | {"generator": _GENERATOR_VERSION}),
    )


def spectrum(count: int, condition_number: float) -> NDArray[Any]:
    """Return `count` log-spaced numbers of mean 1."""
    values = np.geomspace(condition_number, 1.0, count)
    return np.asarray(values / values.mean())


def _dense(
    rng: np.random.Generator, n: int, n_test: int, d: int, kappa: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    rank = min(n, d)
    singular = np.sqrt(spectrum(rank, kappa) * (d / rank))
    right = np.zeros((rank, d))  # becomes diag(s) V'
    right[np.arange(rank), rng.permutation(d)[:rank]] = singular
    right = _mix(rng, right, axis=1)
    return _rows_of(rng, right, n), _rows_of(rng, right, n_test)


def _rows_of(rng: np.random.Generator, right: NDArray[Any], n: int) -> NDArray[Any]:
    """Return n rows of sqrt(m) U right, U with m = max(n, rank) orthonormal rows.

    With n >= rank these are all the rows, and their second moments exactly right' right; with
    fewer they are a random part of them.
    """
    rank, d = right.shape
    m = max(n, rank)
    chosen = np.sort(rng.permutation(m)[:n]) if n < m else slice(None)
    places, seed = rng.permutation(m)[:rank], rng.integers(2**63)
    X = np.empty((n, d))
    width = max(1, _WIDE_BLOCK // m)
    for start in range(0, d, width):  # a copy of some columns, not of all
        columns = slice(start, start + width)
        block = np.zeros((m, len(right[0, columns])))
        block[places] = math.sqrt(m) * right[:, columns]
        block = _mix(np.random.default_rng(seed), block, axis=0)  # the same U for every block
        X[:, columns] = block[chosen]
    return X


def _mix(rng: np.random.Generator, A: NDArray[Any], axis: int) -> NDArray[Any]:
    """Multiply by a random orthogonal matrix, signs and cosine transforms twice; overwrites A."""
    import scipy.fft

    shape = [1, 1]
    shape[axis] = A.shape[axis]
    for _ in range(2):
        A *= rng.choice([-1.0, 1.0], size=shape)
        A = scipy.fft.dct(A, axis=axis, norm="ortho", overwrite_x=True, workers=-1)
    return A


def _sparse(
    rng: np.random.Generator, n: int, n_test: int, d: int, density: float, kappa: float
) -> tuple[sp.csr_array, sp.csr_array]:
    X = gaussian_csr(rng, n, d, density)
    squares = np.zeros(d)
    for block in _blocks(X.nnz):
        squares += np.bincount(X.indices[block], X.data[block] ** 2, minlength=d)
    wanted = np.sqrt(n * rng.permutation(spectrum(d, kappa)))
    scales = wanted / np.sqrt(np.where(squares > 0, squares, 1.0))
    X_test = gaussian_csr(rng, n_test, d, density)
    for part in (X, X_test):
        for block in _blocks(part.nnz):
            part.data[block] *= scales[part.indices[block]]
    return X, X_test


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def gaussian_csr(rng: np.random.Generator, n: int, d: int, density: float) -> sp.csr_array:
    """Return a matrix whose entries are nonzero independently, then standard Gaussian."""
    rows = max(1, int(_BLOCK / (density * d)))
    parts = [_bernoulli(rng, min(rows, n - start), d, density) for start in range(0, n, rows)]
    counts = np.concatenate([np.zeros(1, np.int64), *(counts for counts, _ in parts)])
    nnz = int(counts.sum())
    dtype = index_dtype((n, d), nnz)
    indices = np.concatenate([np.empty(0, dtype), *(columns for _, columns in parts)], dtype=dtype)
    del parts
    values = rng.standard_normal(nnz)
    return sp.csr_array((values, indices, np.cumsum(counts).astype(dtype)), shape=(n, d))


def _bernoulli(
    rng: np.random.Generator, n: int, d: int, density: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Choose each entry of an n x d grid with the same probability, in the order of the grid.

    The gaps between chosen entries are geometric, so the work is that of the chosen ones alone,
    and they come sorted and unique. Returned are the rows' counts and the entries' columns.
    """
    size, last, parts = n * d, -1, []
    expected = size * density
    while last < size:
        gaps = rng.geometric(density, int(expected + 4 * math.sqrt(expected) + 10))
        parts.append(last + np.cumsum(gaps))
        last, expected = int(parts[-1][-1]), 0.0
    chosen = np.concatenate(parts)
    chosen = chosen[: np.searchsorted(chosen, size)]
    bounds = np.searchsorted(chosen, np.arange(n + 1) * d)
    return np.diff(bounds), (chosen % d).astype(np.int32)


def _labels(
    rng: np.random.Generator, X: Matrix, X_test: Matrix, classes: int, noise: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Plant weights, and draw the labels of both splits from them."""
    weights = rng.standard_normal((X.shape[1], classes if classes > 2 else 1))
    scores = X @ weights
    spread = scores.std(axis=0)
    weights *= MARGIN / np.where(spread > 0, spread, 1.0)
    train, test = (_draw(rng, part @ weights, classes, noise) for part in (X, X_test))
    return train, test


def _draw(
    rng: np.random.Generator, scores: NDArray[Any], classes: int, noise: float
) -> NDArray[Any]:
    if classes == 0:
        return scores[:, 0] + noise * MARGIN * rng.standard_normal(len(scores))
    if classes == 2:
        y = (rng.logistic(size=len(scores)) < scores[:, 0]).astype(np.int64)
    else:  # the largest of scores with Gumbel noise follows the softmax of the scores
        y = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)
    others = (y + rng.integers(1, classes, size=len(y))) % classes
    return np.where(rng.random(len(y)) < noise, others, y)
