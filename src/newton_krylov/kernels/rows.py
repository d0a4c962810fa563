"""A sparse matrix laid out for the compiled loops."""

import copy
import functools
import importlib.util
import itertools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from newton_krylov.kernels.threads import together
from newton_krylov.kernels.words import merge

Array = NDArray[Any]
Loss = Literal["logistic", "squared_hinge", "least_squares"]

VARIABLE = "NEWTON_KRYLOV_KERNELS"
"""Environment variable: `off` leaves every product to torch."""

_LEAST = 50_000
"""Entries from which on the compiled loops are worth loading Numba, which takes some tenths of a
second; torch needs about a tenth of a millisecond for the product of such a matrix."""


_LEAST_OF_A_THREAD = 200_000
"""Entries of a thread: they take a tenth of a millisecond or two, and handing work to a thread and
waiting for it some hundredths."""


def worthwhile(entries: int, least: int | None = None) -> bool:
    """Return whether a matrix with so many entries is to be laid out for the compiled loops.

    Parameters
    ----------
    entries : int
        Stored entries.
    least : int, optional
        From how many on, where that is no matrix of data.

    Returns
    -------
    bool
        False for a small matrix, without Numba, and where `NEWTON_KRYLOV_KERNELS` is `off`.
    """
    if entries < (_LEAST if least is None else least) or os.environ.get(VARIABLE) == "off":
        return False
    return importlib.util.find_spec("numba") is not None


class Evaluation(NamedTuple):
    """A mean loss of the outputs z = X w, and the penalty sum_j ridge_j w_j^2 / 2.

    Attributes
    ----------
    loss, penalty : float
        The two.
    gradient : ndarray, shape (d,)
        Of their sum.
    squares : float
        The gradient's squared norm.
    outputs : ndarray, shape (n,), or None
        z, where they were asked for.
    """

    loss: float
    penalty: float
    gradient: Array
    squares: float
    outputs: Array | None

    @property
    def value(self) -> float:
        """The loss with the penalty."""
        return self.loss + self.penalty


class Rows:
    """The rows of a sparse matrix, with its products by compiled loops.

    Beside the matrix's own arrays it holds the column numbers once more, in 8 or 16 bits where the
    width allows; no transpose, which is why everything is done row by row. Values that are all 1
    are not read, and entries that are often neighbours in such a row are read as one; see `words`.

    Parameters
    ----------
    X : csr_matrix or csr_array, shape (n, d)
        In float32 or float64; not copied where rows are sorted and have no column twice. Else they
        are sorted, and entries given twice are added, in a copy.
    ones : bool, optional
        Whether all values are 1, where that is known.
    threads : int
        Threads that may share a product, each of which is to have entries enough. Their sums are
        added in a fixed order, so the same number of threads gives the same result.
    merges : bool
        Whether neighbours may be read as one, which takes as long as some ten products.
    """

    def __init__(
        self,
        X: scipy.sparse.csr_matrix | scipy.sparse.csr_array,
        ones: bool | None = None,
        threads: int = 1,
        merges: bool = False,
    ) -> None:
        if not X.has_canonical_format:
            X, ones = X.copy(), None
            X.sum_duplicates()
        self.shape: tuple[int, int] = X.shape
        self.dtype = X.dtype
        self.ones = _all_ones(X.data) if ones is None else ones
        self._words: Rows | None = None
        merged, words = merge(X) if merges and self.ones else (X, None)
        self._ptr = _unsigned(merged.indptr)
        self._col = _small(merged.indices, merged.shape[1])
        if words is not None:
            self._words = Rows(words, ones=True)
            self._words._col = words.indices.astype(self._col.dtype)  # for the same loops
        self._val = None if self.ones else X.data
        self.threads = threads
        self._parts = self._divided()

    def _divided(self) -> list[tuple[int, int]]:
        """Return the rows begin <= i < end of each thread: whole blocks with equal work."""
        n, entries = self.shape[0], len(self._col)
        parts = max(1, min(self.threads, entries // _LEAST_OF_A_THREAD))
        if parts == 1:
            return [(0, n)]
        block = load().BLOCK
        # A row costs about as much as its entries and four more.
        work = self._ptr[::block].astype(np.int64) + 4 * np.arange(0, n + 1, block)
        wanted = np.arange(1, parts) * (entries + 4 * n) / parts
        cuts = [0, *(int(k) * block for k in np.searchsorted(work, wanted)), n]
        return list(itertools.pairwise(cuts))

    def _shared(self, loop: Callable[..., Any], *operands: Any) -> list[Any]:
        """Call loop(a, b, ptr, col, val, *operands) for each thread's rows a to b.

        A function among the operands is called with the thread's number, and gives its own.
        """
        if len(self._parts) == 1:
            own = [each(0) if callable(each) else each for each in operands]
            return [loop(0, self.shape[0], self._ptr, self._col, self._val, *own)]

        def work(t: int, a: int, b: int) -> Callable[[], Any]:
            own = [each(t) if callable(each) else each for each in operands]
            return lambda: loop(a, b, self._ptr, self._col, self._val, *own)

        return together([work(t, a, b) for t, (a, b) in enumerate(self._parts)])

    def _summed(self, loop: Callable[..., Any], columns: tuple[int, ...], *operands: Any) -> Array:
        """Return the sum over all rows that a loop adds up in its last argument."""
        sums = self._sums(len(self._parts), self._width(), *columns)
        self._shared(loop, *operands, sums.__getitem__)
        total: Array = sums[0] if len(sums) == 1 else sums.sum(0)
        return total if self._words is None else self._words.adjoint(total)

    def cast(self, values: Array) -> "Rows":
        """Return the same matrix with its values in another precision; all else is shared."""
        other = copy.copy(self)
        other.dtype = values.dtype
        other._val = None if self.ones else values
        if self._words is not None:
            other._words = self._words.cast(values)
        return other

    def compile(self, columns: int = 1, weighted: bool = False) -> None:
        """Compile the loops for this kind of matrix, or load them, so that no product has to.

        Parameters
        ----------
        columns : int
            Of the matrices that it is multiplied by; 1 for vectors.
        weighted : bool
            Whether the samples have weights.
        """
        empty, d = self.every(1, self.shape[0]), self.shape[1]
        shape = () if columns == 1 else (columns,)
        h, u, v = self._sums(0), self._sums(0, *shape), self._sums(d, *shape)
        empty.adjoint(empty.times(v))
        empty.column_square_sums(u)
        empty._add_upper_gram(h, 1, 0, self._sums(0, 0))
        empty.row_square_norms()
        if columns == 1:
            empty.normal(h, v)
            signs, weights = np.ones(0, np.int8), h if weighted else None
            empty.evaluate("logistic", v, signs, weights, v)
            empty.curvature("logistic", h, signs, weights)

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads of the matrix."""
        own = sum(part.nbytes for part in (self._ptr, self._col, self._val) if part is not None)
        return own if self._words is None else own + self._words.nbytes

    @property
    def entries(self) -> int:
        """Numbers of columns, or of words, that a product reads."""
        return len(self._col)

    def lengths(self) -> Array:
        """Return how many entries every row has, shape (n,)."""
        if self._words is None:
            return np.diff(self._ptr.astype(np.int64))
        return self.times(np.ones(self.shape[1]))

    def _sums(self, *shape: int) -> Array:
        return np.zeros(shape, dtype=self.dtype)

    def _of_words(self, v: Array) -> Array:
        """Return the words' outputs E v, or v where there are no words."""
        return _like(self, v) if self._words is None else self._words.times(v)

    def _width(self) -> int:
        return self.shape[1] if self._words is None else self._words.shape[0]

    def times(self, v: Array) -> Array:
        """Return X v, v of shape (d,) or (d, k)."""
        if _few(v):
            return _by_column(self.times, v)
        out = np.empty((self.shape[0], *v.shape[1:]), dtype=self.dtype)
        loop = load().times if v.ndim == 1 else load().times_many
        self._shared(loop, self._of_words(v), out)
        return out

    def adjoint(self, u: Array) -> Array:
        """Return X'u, u of shape (n,) or (n, k)."""
        if _few(u):
            return _by_column(self.adjoint, u)
        loop = load().adjoint if u.ndim == 1 else load().adjoint_many
        return self._summed(loop, u.shape[1:], _like(self, u))

    def normal(self, weights: Array, v: Array) -> Array:
        """Return X' diag(weights) X v in one reading, v of shape (d,) or (d, k)."""
        if _few(v):
            return _by_column(lambda column: self.normal(weights, column), v)
        loop = load().normal if v.ndim == 1 else load().normal_many
        return self._summed(loop, v.shape[1:], _like(self, weights), self._of_words(v))

    def gram(
        self,
        weights: Array,
        every: int = 1,
        first: int = 0,
        *,
        upper: bool = False,
    ) -> Array:
        """Return X' diag(weights) X, shape (d, d).

        Parameters
        ----------
        weights : ndarray
            Any sign; one for each row that is taken.
        every, first : int
            Only the rows first, first + every, ... are taken.
        upper : bool
            Whether what is below the diagonal may be left out.

        Returns
        -------
        ndarray, shape (d, d)
            Exactly symmetric, where nothing is left out.
        """
        d = self.shape[1]
        half = self._sums(d, d)
        self._add_upper_gram(weights, every, first, half)
        if upper:
            return half
        whole = half + half.T
        whole.reshape(-1)[:: d + 1] /= 2
        return whole

    def _add_upper_gram(self, weights: Array, every: int, first: int, out: Array) -> None:
        load().upper_gram(
            first, every, self._ptr, self._col, self._val, *self._dictionary,
            _like(self, weights), out,
        )  # fmt: skip

    @property
    def _dictionary(self) -> tuple[Array | None, Array | None]:
        """Where the columns of each word begin, and the columns."""
        return (None, None) if self._words is None else (self._words._ptr, self._words._col)

    def row_square_norms(self) -> Array:
        """Return |x_i|^2 of every row, shape (n,)."""
        if self._val is None:
            return _like(self, self.lengths())
        out = np.empty(self.shape[0], self.dtype)
        self._shared(load().row_squares, out)
        return out

    def column_square_sums(self, weights: Array) -> Array:
        """Return sum_i weights_i X_ij^2 for every column j; weights of shape (n,) or (n, k)."""
        if self.ones:
            return self.adjoint(weights)
        many = _like(self, weights if weights.ndim == 2 else weights[:, None])
        out = self._summed(load().squares, many.shape[1:], many)
        return out.reshape(self.shape[1], *weights.shape[1:])

    def evaluate(
        self,
        loss: Loss,
        w: Array,
        y: Array,
        sample_weight: Array | None,
        ridge: Array,
        *,
        outputs: bool = True,
    ) -> Evaluation:
        """Return a mean loss with a penalty, and its gradient, in one reading.

        Parameters
        ----------
        loss : str
            Its name; y is -1 or 1 for the first two.
        w : ndarray, shape (d,)
            Parameters.
        y : ndarray, shape (n,)
            Targets; signs may be of 8 bits.
        sample_weight : ndarray or None, shape (n,)
            Factors of the samples' losses; None where all are 1.
        ridge : ndarray, shape (d,)
            >= 0.
        outputs : bool
            Whether to return them: a new array of n numbers, which costs more than filling it.

        Returns
        -------
        Evaluation
            With new arrays.
        """
        n, d = self.shape
        z = np.empty(n if outputs else 0, self.dtype)
        gradients = np.empty((len(self._parts), d), self.dtype)
        ridge, weights = _like(self, ridge), _optional(self, sample_weight)
        found = self._shared(
            getattr(load(), loss), *self._dictionary, _like(self, w), _targets(self, y), weights,
            1 / max(n, 1), lambda t: ridge if t == 0 else np.zeros_like(ridge), z,
            gradients.__getitem__,
        )  # fmt: skip
        kept = z if outputs else None
        if len(found) == 1:
            mean, penalty, squares = found[0]
            return Evaluation(mean, penalty, gradients[0], squares, kept)
        losses, penalties, _ = zip(*found, strict=True)
        gradient = gradients.sum(0)
        squares = float(np.square(gradient, dtype=np.float64).sum())
        return Evaluation(sum(losses), sum(penalties), gradient, squares, kept)

    def curvature(self, loss: Loss, z: Array, y: Array, sample_weight: Array | None) -> Array:
        """Return the second derivatives of a mean loss by its outputs.

        Parameters
        ----------
        loss : str
            Its name.
        z, y : ndarray, shape (m,)
            Outputs and targets, of all rows or of some.
        sample_weight : ndarray or None, shape (m,)
            Factors of the losses, as `evaluate` has them.

        Returns
        -------
        ndarray, shape (m,)
            For the mean over these m.
        """
        h = np.empty(len(z), self.dtype)
        operands = _like(self, z), _targets(self, y), _optional(self, sample_weight)
        getattr(load(), f"{loss}_curvature")(*operands, 1 / max(len(z), 1), h)
        return h

    def every(self, every: int, first: int) -> "Rows":
        """Return the rows first, first + every, ... as a matrix of their own."""
        which = slice(first, None, every)
        lengths = self._ptr[1:][which] - self._ptr[:-1][which]
        return self._taken(np.arange(first, self.shape[0], every), lengths)

    def take(self, index: Array) -> "Rows":
        """Return some rows, by their numbers, as a matrix of their own."""
        return self._taken(index, self._ptr[index + 1] - self._ptr[index])

    def _taken(self, index: Array, lengths: Array) -> "Rows":
        part = copy.copy(self)
        ptr = np.zeros(len(index) + 1, self._ptr.dtype)
        np.cumsum(lengths, out=ptr[1:])
        part.shape, part._ptr = (len(index), self.shape[1]), ptr

        def copied(entries: Array) -> Array:
            found = np.empty(int(ptr[-1]), entries.dtype)
            load().copy_rows(index, self._ptr, entries, ptr, found)
            return found

        part._col = copied(self._col)
        part._val = None if self._val is None else copied(self._val)
        part._parts = part._divided()
        return part

    def arrays(self) -> tuple[Array, Array, Array]:
        """Return the row pointers, column numbers and values as a CSR matrix has them; copies."""
        values = np.ones(len(self._col), self.dtype) if self._val is None else self._val.copy()
        arrays = self._ptr.astype(np.int32), self._col.astype(np.int32), values
        if self._words is None:
            return arrays
        found = _scipy(arrays, self._width()) @ _scipy(self._words.arrays(), self.shape[1])
        found.sort_indices()
        return found.indptr, found.indices, found.data


def _scipy(arrays: tuple[Array, Array, Array], width: int) -> scipy.sparse.csr_matrix:
    ptr, col, values = arrays
    return scipy.sparse.csr_matrix((values, col, ptr), shape=(len(ptr) - 1, width))


def _all_ones(values: Array) -> bool:
    """Look at one block after the other, without another array of that length."""
    return all((values[i : i + _LEAST] == 1).all() for i in range(0, len(values), _LEAST))


_FEW = 8
"""Columns from which on the loops that go through a row of them are the faster ones."""


def _few(V: Array) -> bool:
    return V.ndim == 2 and 0 < V.shape[1] < _FEW


def _by_column(product: Callable[[Array], Array], V: Array) -> Array:
    return np.stack([product(V[:, j]) for j in range(V.shape[1])], axis=1)


def _small(columns: Array, width: int) -> Array:
    """Return column numbers as unsigned ones: of 8 or 16 bits, or the same memory."""
    for kind in (np.uint8, np.uint16):
        if width <= np.iinfo(kind).max + 1:
            return columns.astype(kind)
    return _unsigned(columns)


def _unsigned(numbers: Array) -> Array:
    return numbers.view(f"u{numbers.itemsize}")


def _like(rows: Rows, x: Array) -> Array:
    """Return an operand in the type and the memory order that the loops are compiled for."""
    return np.ascontiguousarray(x, dtype=rows.dtype)


def _optional(rows: Rows, x: Array | None) -> Array | None:
    return None if x is None else _like(rows, x)


def _targets(rows: Rows, y: Array) -> Array:
    """Return targets as the loops take them: signs in 8 bits as they are, numbers as operands."""
    return np.ascontiguousarray(y) if y.dtype == np.int8 else _like(rows, y)


@functools.cache
def load() -> ModuleType:
    """Return the compiled loops; the first call imports Numba."""
    from newton_krylov.kernels import loops

    return loops
