"""Optimal transport problems: a cost matrix and two marginals."""

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray

from newton_krylov.capabilities import GENERATED, TRANSPORT
from newton_krylov.data.dataset import TransportProblem
from newton_krylov.data.prepare import checksum
from newton_krylov.data.sparse import NUMPY_DTYPES
from newton_krylov.errors import ConfigError, DataError
from newton_krylov.files import require_memory
from newton_krylov.registry import register

Metric = Literal["sqeuclidean", "euclidean", "cityblock"]
Source = Literal["random_assignment", "gaussian_mixtures", "digits"]
Index = Annotated[int, pydantic.Field(ge=0, lt=1797)]

_GENERATOR_VERSION = 1  # part of the checksum: raise it when the same arguments give other data
_DEFAULT_SIZE = {"random_assignment": 500, "gaussian_mixtures": 500, "digits": 784}
_COMPONENTS, _DEVIATION = 3, 0.1  # of each mixture


@dataclass(frozen=True)
class _Problem:
    cost: NDArray[np.float64]
    row_marginal: NDArray[np.float64]
    column_marginal: NDArray[np.float64]


@register("dataset", "transport", offers=(GENERATED, TRANSPORT))
def transport(
    *,
    source: Source = "random_assignment",
    n: pydantic.PositiveInt | None = None,
    metric: Metric = "sqeuclidean",
    images: tuple[Index, Index] = (0, 1),
    background: pydantic.PositiveFloat = 0.01,
    seed: pydantic.NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> TransportProblem:
    """Make an optimal transport problem of size n x n; its costs are scaled to a maximum of 1.

    - `random_assignment`: independent costs, uniform on [0, 1]; uniform marginals.
    - `gaussian_mixtures`: the cost between n points each of two mixtures of three Gaussians in
      the plane (centres uniform in the unit square, standard deviation 0.1); uniform marginals.
    - `digits`: two of scikit-learn's 1,797 digit images as histograms over their pixels, the cost
      between pixels' positions. The images have 8 x 8 pixels and are interpolated linearly to
      sqrt(n) x sqrt(n): they are smoother than MNIST's, which have 28 x 28 of their own.

    Parameters
    ----------
    source : {"random_assignment", "gaussian_mixtures", "digits"}
        Kind of problem.
    n : int or None
        Rows and columns of the cost; a square number for `digits`. None: 500, 500, 784.
    metric : {"sqeuclidean", "euclidean", "cityblock"}
        Cost between positions (SciPy's names; `cityblock` is the L1 distance). Not for
        `random_assignment`.
    images : pair of int
        Numbers of the digit images: the rows' and the columns' marginal.
    background : float
        Added to every pixel of a digit image whose brightest has 1, since a marginal must be
        positive.
    seed : int
        Seed of the generated problems.
    dtype : torch.dtype
        Precision of cost and marginals.

    Returns
    -------
    TransportProblem
        On the CPU.

    Raises
    ------
    ConfigError
        If n is not a square number where the source is `digits`.
    DataError
        If the cost does not fit into memory.
    """
    n = _DEFAULT_SIZE[source] if n is None else n
    require_memory(8 * n * n, f"The cost of a {n:,} x {n:,} transport problem")
    defining: dict[str, Any] = {"source": source, "n": n, "version": _GENERATOR_VERSION}
    if source == "digits":
        problem = _digits(n, metric, images, background)
        defining |= {"metric": metric, "images": images, "background": background}
    elif source == "gaussian_mixtures":
        problem = _gaussian_mixtures(n, metric, seed)
        defining |= {"metric": metric, "seed": seed}
    else:
        problem = _random_assignment(n, seed)
        defining |= {"seed": seed}
    return _dataset(problem, f"transport {source}", _ORIGIN[source], defining, dtype)


def transport_problem(
    cost: NDArray[np.float64],
    row_marginal: NDArray[np.float64],
    column_marginal: NDArray[np.float64],
    *,
    name: str = "transport",
    dtype: torch.dtype = torch.float64,
) -> TransportProblem:
    """Make a data set of the user's own transport problem.

    Parameters
    ----------
    cost : ndarray, shape (n, m)
        Finite; in any unit.
    row_marginal : ndarray, shape (n,)
        Positive masses of the sources.
    column_marginal : ndarray, shape (m,)
        Positive masses of the targets, of the same total.
    name : str
        For logs and tables.
    dtype : torch.dtype
        Precision of the tensors.

    Returns
    -------
    TransportProblem
        On the CPU.

    Raises
    ------
    DataError
        If shapes do not fit, a cost is not real and finite in the dtype, a mass is not positive and
        finite, or the totals differ by more than rounding in the marginals' own dtype.
    """
    problem = _checked(cost, row_marginal, column_marginal)
    digest = hashlib.sha256(b"".join(np.float64(part).tobytes() for part in vars(problem).values()))
    return _dataset(problem, name, "user", {"data": digest.hexdigest()}, dtype)


_ORIGIN = {
    "random_assignment": "synthetic",
    "gaussian_mixtures": "synthetic",
    "digits": "scikit-learn, sklearn.datasets.load_digits",
}


def _dataset(
    problem: _Problem, name: str, source: str, defining: dict[str, Any], dtype: torch.dtype
) -> TransportProblem:
    def tensor(values: NDArray[np.float64]) -> torch.Tensor:
        kind, largest = NUMPY_DTYPES[dtype], float(np.abs(values).max())
        if largest > float(np.finfo(kind).max):
            raise DataError(
                f"The transport problem has a number of {largest:.4g}, more than "
                f"{np.dtype(kind)} can hold; take dtype=float64, or another unit."
            )
        return torch.from_numpy(np.array(values, dtype=kind))

    return TransportProblem(
        name=name,
        cost=tensor(problem.cost),
        row_marginal=tensor(problem.row_marginal),
        column_marginal=tensor(problem.column_marginal),
        source=source,
        checksum=checksum(defining | {"dtype": str(dtype)}),
    )


def _checked(*given: Any) -> _Problem:
    """Return a user's cost and marginals in double precision, or refuse them."""
    arrays = [np.asarray(part) for part in given]
    if any(array.dtype.kind not in "biuf" for array in arrays):
        kinds = ", ".join(str(array.dtype) for array in arrays)
        raise DataError(f"A transport problem needs real numbers; the types are {kinds}.")
    eps = max(np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0.0 for a in arrays[1:])
    cost, rows, columns = (np.asarray(array, dtype=np.float64) for array in arrays)
    if cost.ndim != 2 or rows.shape != cost.shape[:1] or columns.shape != cost.shape[1:]:
        raise DataError(
            f"A transport problem needs a cost of shape (n, m) and marginals of shapes (n,) and "
            f"(m,); the shapes are {cost.shape}, {rows.shape} and {columns.shape}."
        )
    if not cost.size:
        raise DataError("A transport problem needs at least one source and one target.")
    if not np.isfinite(cost).all():
        raise DataError("Every cost of a transport problem must be finite.")
    masses = np.concatenate([rows, columns])
    if not (masses.min() > 0 and np.isfinite(masses).all()):
        raise DataError(
            "Every mass of a transport problem must be positive and finite: leave out what has "
            "none."
        )
    # Histograms that were normalized in single precision sum to 1 in single precision.
    if not math.isclose(rows.sum(), columns.sum(), rel_tol=max(1e-12, 16 * float(eps))):
        raise DataError(
            f"The marginals of a transport problem must have the same total; theirs are "
            f"{rows.sum():.10g} and {columns.sum():.10g}."
        )
    return _Problem(cost, rows, columns)


def _random_assignment(n: int, seed: int) -> _Problem:
    cost = np.random.default_rng(seed).random((n, n))
    return _Problem(cost / cost.max(), np.full(n, 1 / n), np.full(n, 1 / n))


def _gaussian_mixtures(n: int, metric: Metric, seed: int) -> _Problem:
    rng = np.random.default_rng(seed)
    sources, targets = (_mixture(rng, n) for _ in range(2))
    return _Problem(_cost(sources, targets, metric), np.full(n, 1 / n), np.full(n, 1 / n))


def _mixture(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    centres = rng.random((_COMPONENTS, 2))
    return centres[rng.integers(_COMPONENTS, size=n)] + _DEVIATION * rng.standard_normal((n, 2))


def _digits(n: int, metric: Metric, images: tuple[int, int], background: float) -> _Problem:
    from sklearn.datasets import load_digits

    side = math.isqrt(n)
    if side * side != n:
        raise ConfigError(
            f"dataset.n={n} is not a square number, and a digit image of n pixels is square: "
            f"{side * side} or {(side + 1) ** 2} would do."
        )
    positions = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1).reshape(n, 2)
    rows, columns = (
        _histogram(load_digits().images[number], side, background) for number in images
    )
    return _Problem(_cost(positions, positions, metric), rows, columns)


def _histogram(image: NDArray[np.float64], side: int, background: float) -> NDArray[np.float64]:
    from scipy.ndimage import zoom

    pixels = zoom(image, side / len(image), order=1, mode="nearest", grid_mode=True).ravel()
    masses = pixels / pixels.max() + background
    return np.asarray(masses / masses.sum())


def _cost(sources: NDArray[Any], targets: NDArray[Any], metric: Metric) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    cost = cdist(sources, targets, metric)
    return np.asarray(cost / cost.max())
