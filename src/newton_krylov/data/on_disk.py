"""A sparse matrix that stays on disk: products stream through it, shard by shard.

A matrix is a folder of shards, each some consecutive rows in CSR form as three NumPy files. A
shard is mapped into memory, used and let go, so beside vectors of n and of d numbers a product
holds one shard, whatever the size of the whole; what the system keeps of the files in its own
cache, it gives up when memory is needed.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from newton_krylov.data.sparse import NUMPY_DTYPES, csr_to_torch
from newton_krylov.errors import DataError, UnsupportedError
from newton_krylov.files import require_inside

PARTS = ("values", "columns", "starts")
"""The three files of a shard: CSR's data, indices and indptr."""


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a matrix, as three files.

    Attributes
    ----------
    folder : Path
        Folder of the files.
    number : int
        Number of the shard, from 0; names the files.
    rows, nnz : int
        Numbers of rows and of entries.
    width : int
        Columns of the matrix.
    dtype : str
        Precision of the values: "float64" or "float32".
    """

    folder: Path
    number: int
    rows: int
    nnz: int
    width: int
    dtype: str

    def path(self, part: str) -> Path:
        """Return where one of `PARTS` lies."""
        return self.folder / f"{self.number:05}.{part}.npy"

    def open(self) -> sp.csr_array:
        """Map the shard into memory.

        Returns
        -------
        csr_array, shape (rows, width)
            Read-only; lets go of the files when it is let go of.
        """
        values, columns, starts = (np.load(self.path(part), mmap_mode="r") for part in PARTS)
        return sp.csr_array((values, columns, starts), shape=(self.rows, self.width))

    def check(self) -> str:
        """Read the files through and see that they are what they should be.

        A column index out of range would be read from, and written to, outside of a vector: so
        nothing in the files is trusted.

        Returns
        -------
        str
            SHA-256 of the three files' contents.

        Raises
        ------
        DataError
            If a file is missing, or anything in it is wrong.
        """
        arrays = [self._array(part, *self._expected(part)) for part in PARTS]
        values, columns, starts = arrays
        if problem := self._problem(values, columns, starts):
            raise DataError(f"{self.folder}, shard {self.number}, is damaged: {problem}.")
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(array.data)
        return digest.hexdigest()

    def _expected(self, part: str) -> tuple[str, int]:
        if part == "values":
            return self.dtype, self.nnz
        return "int32", self.nnz if part == "columns" else self.rows + 1

    def _array(self, part: str, dtype: str, length: int) -> NDArray[Any]:
        path = self.path(part)
        try:
            require_inside(path, self.folder)
            array = np.load(path, mmap_mode="r" if length else None, allow_pickle=False)
        except Exception as error:  # a damaged header makes NumPy raise anything
            reason = str(error).rstrip(".")
            raise DataError(f"{path} cannot be read ({reason}).") from None
        if array.dtype != dtype or array.shape != (length,):
            raise DataError(
                f"{path} holds {array.shape} numbers of {array.dtype}, not {length:,} of {dtype}."
            )
        return np.asarray(array)

    def _problem(
        self, values: NDArray[Any], columns: NDArray[Any], starts: NDArray[Any]
    ) -> str | None:
        lengths = np.diff(starts)
        if starts[0] != 0 or starts[-1] != self.nnz or (lengths < 0).any():
            return "its rows do not follow one another"
        if not self.nnz:
            return None
        if columns.min() < 0 or columns.max() >= self.width:
            return f"it names a column beyond the {self.width:,} there are"
        ascending = np.diff(columns) > 0
        ends = starts[1:-1]  # between rows the columns may descend
        ascending[ends[(ends > 0) & (ends < self.nnz)] - 1] = True
        if not ascending.all():
            return "a row's columns do not ascend"
        return None if np.isfinite(values).all() else "it holds a value that is not finite"


@dataclass(frozen=True)
class Piece:
    """Some consecutive rows of a shard.

    Attributes
    ----------
    shard : Shard
        Shard that the rows are in.
    start, stop : int
        The first row, and the first that is no more of it.
    """

    shard: Shard
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def nnz(self) -> int:
        """Entries of these rows."""
        starts = np.load(self.shard.path("starts"), mmap_mode="r")
        return int(starts[self.stop] - starts[self.start])

    def open(self, dtype: torch.dtype, *, squared: bool) -> sp.csr_array:
        """Map the rows into memory, shape (rows, width); a copy where values are converted."""
        X = self.shard.open()
        if len(self) < self.shard.rows:
            X = X[self.start : self.stop]
        values = X.data.astype(NUMPY_DTYPES[dtype], copy=False)
        if squared:
            values = np.square(values)
        return sp.csr_array((values, X.indices, X.indptr), shape=X.shape)


class OnDisk(Tensor):
    """A sparse matrix on disk that can be multiplied by, cut by rows and squared, and no more.

    A tensor to whoever asks for shape, dtype or device; what would need the whole matrix in
    memory is refused in a sentence.

    Parameters
    ----------
    pieces : sequence of Piece
        The rows, in order.
    dtype : torch.dtype
        Precision of the products; values stored in another one are converted shard by shard.
    squared : bool
        Whether it stands for the matrix of the squared entries.
    """

    pieces: Sequence[Piece]
    squared: bool
    # The methods below are all there is; everything else comes to __torch_dispatch__.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls, pieces: Sequence[Piece], dtype: torch.dtype, *, squared: bool = False
    ) -> "OnDisk":
        """Make a tensor that has a shape and no storage."""
        shape = (sum(map(len, pieces)), pieces[0].shard.width)
        made: OnDisk = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        made.pieces, made.squared = list(pieces), squared
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        _refuse(getattr(func, "__name__", str(func)).partition(".")[0])

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDisk(shape={tuple(self.shape)}, dtype={self.dtype}, nnz={self.nnz})"

    @property
    def nnz(self) -> int:
        """Entries stored."""
        return sum(piece.nnz for piece in self.pieces)

    def blocks(self) -> Iterator[tuple[slice, sp.csr_array]]:
        """Yield the matrix piece by piece.

        Yields
        ------
        rows : slice
            Rows of this matrix.
        X : csr_array
            These rows; not to be kept.
        """
        stops = itertools.accumulate(map(len, self.pieces))
        for piece, stop in zip(self.pieces, stops, strict=True):
            yield slice(stop - len(piece), stop), piece.open(self.dtype, squared=self.squared)

    def __matmul__(self, v: Tensor) -> Tensor:  # type: ignore[override]
        """Multiply by a vector of shape (d,), or by columns of shape (d, k)."""
        V = v.numpy()
        out = np.empty((self.shape[0], *v.shape[1:]), dtype=V.dtype)
        for rows, X in self.blocks():
            out[rows] = X @ V
        return torch.from_numpy(out)

    @property
    def T(self) -> "Transposed":  # type: ignore[override]
        """The transpose, for products alone."""
        return Transposed(self)

    def gram(self, weights: Tensor) -> Tensor:
        """Return X' diag(weights) X, dense, shape (d, d); weights of shape (n,), any sign."""
        w, d = weights.numpy(), self.shape[1]
        total = np.zeros((d, d), dtype=w.dtype)
        for rows, X in self.blocks():
            scaled = sp.csr_array(
                (X.data * np.repeat(w[rows], np.diff(X.indptr)), X.indices, X.indptr), shape=X.shape
            )
            total += (X.T @ scaled).toarray()
        return torch.from_numpy(total)

    def __getitem__(self, rows: Any) -> Tensor:
        """Cut out rows: a slice stays on disk, numbered rows (int64, any order) are read."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step != 1:
                return self[torch.arange(start, stop, step)]
            return OnDisk(self._cut(start, stop), self.dtype, squared=self.squared)
        index = rows.numpy()
        order = np.argsort(index, kind="stable")
        parts = []
        for block, X in self.blocks():
            low, high = np.searchsorted(index[order], (block.start, block.stop))
            if low < high:
                parts.append(X[index[order[low:high]] - block.start])
        if not parts:
            return csr_to_torch(sp.csr_array((0, self.shape[1]), dtype=X.dtype), self.dtype)
        found = sp.csr_array(sp.vstack(parts, format="csr"))
        return csr_to_torch(found[np.argsort(order, kind="stable")], self.dtype)

    def _cut(self, start: int, stop: int) -> list[Piece]:
        pieces, first = [], 0
        for piece in self.pieces:
            low, high = max(start - first, 0), min(stop - first, len(piece))
            if low < high:
                pieces.append(Piece(piece.shard, piece.start + low, piece.start + high))
            first += len(piece)
        return pieces or [Piece(self.pieces[0].shard, 0, 0)]

    def square(self) -> "OnDisk":
        """Return the matrix of the squared entries, which stays on disk as well."""
        return OnDisk(self.pieces, self.dtype, squared=True)

    def sum(self, dim: int) -> Tensor:  # type: ignore[override]
        """Sum each row (dim 1), shape (n,)."""
        if dim != 1:
            raise UnsupportedError("The rows of a matrix on disk can be summed, not its columns.")
        return self @ torch.ones(self.shape[1], dtype=self.dtype)

    def to(self, *args: Any, **kwargs: Any) -> "OnDisk":
        """Return the same matrix for products of another dtype; it stays where it is."""
        wanted = torch.empty(0, dtype=self.dtype).to(*args, **kwargs)
        if wanted.device.type != "cpu":
            raise UnsupportedError(
                "dataset=shards streams through the processor; choose device=cpu (or "
                "device=distributed with device.backend=gloo)."
            )
        return OnDisk(self.pieces, wanted.dtype, squared=self.squared)

    def double(self) -> "OnDisk":
        """Return the same matrix for products in float64."""
        return self.to(torch.float64)

    def numpy(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: it would have to be read whole."""
        _refuse("numpy")

    def to_dense(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: it would have to be read whole."""
        _refuse("to_dense")

    def clone(self) -> "OnDisk":  # type: ignore[override]
        """Return the matrix itself: files are not copied."""
        return self


def _refuse(operation: str) -> NoReturn:
    raise UnsupportedError(
        f"The data stays on disk (dataset=shards), where it is multiplied by, but '{operation}' "
        f"would need it in memory; choose a method that uses products alone."
    )


class Transposed:
    """The transpose of a matrix on disk.

    Parameters
    ----------
    matrix : OnDisk, shape (n, d)
        The matrix.
    """

    def __init__(self, matrix: OnDisk) -> None:
        self._matrix = matrix
        self.shape = matrix.shape[::-1]

    def __matmul__(self, u: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,), or by columns of shape (n, k)."""
        U = u.numpy()
        out = np.zeros((self.shape[0], *u.shape[1:]), dtype=U.dtype)
        for rows, X in self._matrix.blocks():
            out += X.T @ U[rows]
        return torch.from_numpy(out)
