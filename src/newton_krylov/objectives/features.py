"""The data matrix with both its products, sparse or dense."""

import math
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from newton_krylov.data.on_disk import OnDisk
from newton_krylov.kernels.rows import Rows, worthwhile
from newton_krylov.kernels.secants import Pairs
from newton_krylov.operators import times_transpose

_COMPILED = (torch.float32, torch.float64)
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Features:
    """A data matrix X with products by X and by its transpose.

    Products of a sparse matrix on the CPU that is large enough are compiled loops over its rows
    (`newton_krylov.kernels`), which need no transpose. All others are torch's, which multiplies by
    the transpose of a CSR matrix about eighty times slower than by the matrix itself (12 ms against
    0.14 ms on a9a), so there the transpose is stored as CSR as well. A dense matrix is stored once.

    Parameters
    ----------
    X : Tensor, shape (n, d)
        Dense, sparse CSR, or on disk.
    """

    def __init__(self, X: Tensor) -> None:
        self.X = X
        self.sparse = X.layout is torch.sparse_csr
        self.shape = (X.shape[0], X.shape[1])
        self.dtype, self.device = X.dtype, X.device

    @classmethod
    def of(cls, rows: Rows) -> "Features":
        """Return what was laid out for compiled loops alone; a tensor is made when asked for."""
        found = cls.__new__(cls)
        found.sparse, found.shape = True, rows.shape
        found.dtype, found.device = _DTYPES[rows.dtype.name], torch.device("cpu")
        found.compiled = rows
        return found

    @cached_property
    def X(self) -> Tensor:
        """The matrix, shape (n, d), sparse CSR, where it was laid out for compiled loops alone."""
        assert self.compiled is not None
        crow, col, values = map(torch.from_numpy, self.compiled.arrays())
        return _csr(crow, col, values, self.shape)

    @cached_property
    def compiled(self) -> Rows | None:
        """The matrix laid out for compiled loops, where these are worth it."""
        X = self.X
        if not self.sparse or X.device.type != "cpu" or X.dtype not in _COMPILED:
            return None
        if not worthwhile(X.values().numel()):
            return None
        return Rows(_to_scipy(X), threads=torch.get_num_threads(), merges=True)

    def lay_out(self, columns: int = 1, weighted: bool = False) -> None:
        """Make now what products will need, so that the first of them has not to.

        Parameters
        ----------
        columns : int
            Of the matrices that it is multiplied by; 1 for vectors.
        weighted : bool
            Whether the samples have weights.
        """
        if self.compiled is None:
            _ = self.XT
        else:
            self.compiled.compile(columns, weighted)
            if columns == 1:
                Pairs(1, 1, self.compiled.dtype).compile()
        if self.sparse:
            _ = self.forming_cost, self.entries

    def times(self, V: Tensor) -> Tensor:
        """Return X V, V of shape (d,) or (d, k)."""
        if self.compiled is None:
            return self.X @ V
        return torch.from_numpy(self.compiled.times(V.numpy()))

    def adjoint(self, U: Tensor) -> Tensor:
        """Return X'U, U of shape (n,) or (n, k)."""
        if self.compiled is None:
            return self.XT @ U
        return torch.from_numpy(self.compiled.adjoint(U.numpy()))

    def normal(self, weights: Tensor, V: Tensor) -> Tensor:
        """Return X' diag(weights) X V, V of shape (d,) or (d, k)."""
        if self.compiled is None:
            return self.XT @ (self.X @ V).mul_(weights if V.ndim == 1 else weights[:, None])
        return torch.from_numpy(self.compiled.normal(weights.numpy(), V.numpy()))

    @cached_property
    def XT(self) -> Tensor:
        """The transpose, shape (d, n): sparse CSR, or a view of what is dense or on disk."""
        if not self.sparse:
            return self.X.T
        if self.X.device.type == "cpu":
            # SciPy transposes by counting, torch by sorting: ten times slower.
            return _from_scipy(_to_scipy(self.X).T.tocsr())
        XT = self.X.to_sparse_csc()
        shape = (self.X.shape[1], len(self))
        return _csr(XT.ccol_indices(), XT.row_indices(), XT.values(), shape)

    def __len__(self) -> int:
        return self.shape[0]

    def cast(self, dtype: torch.dtype) -> "Features":
        """Return the same matrix in another precision; sparse ones share the indices.

        Parameters
        ----------
        dtype : torch.dtype
            Precision of the values.

        Returns
        -------
        Features
            With its transpose, where this one's is there.
        """
        if not self.sparse:
            return Features(self.X.to(dtype))
        other = Features(_with_values(self.X, self.X.values().to(dtype)))
        if self.compiled is not None and dtype in _COMPILED:
            other.compiled = self.compiled.cast(other.X.values().numpy())
        elif "XT" in vars(self):
            other.XT = _with_values(self.XT, self.XT.values().to(dtype))
        return other

    def rows(self, index: Tensor) -> "Features":
        """Return some of the rows.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Row numbers.

        Returns
        -------
        Features
            A copy of those rows.
        """
        if not self.sparse:
            return Features(self.X[index])
        if self.compiled is not None:  # a part is, too, however small: the code is there
            return Features.of(self.compiled.take(index.numpy()))
        if self.X.device.type == "cpu":
            part = Features(_from_scipy(_to_scipy(self.X)[index.numpy()]))
            part.compiled = None
            return part
        return Features(_csr_rows(self.X, index))

    def columns(self, index: Tensor) -> "Features | None":
        """Return a copy of some of the columns; those of a sparse matrix by its transpose.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Column numbers.

        Returns
        -------
        Features or None
            None for data on disk, and for sparse ones elsewhere than on the CPU.
        """
        if isinstance(self.X, OnDisk) or (self.sparse and self.device.type != "cpu"):
            return None
        if not self.sparse:
            return Features(self.X[:, index])
        chosen = _to_scipy(self.XT)[index.numpy()].T.tocsr()
        if self.compiled is not None:
            return Features.of(Rows(chosen, self.compiled.ones, self.compiled.threads))
        part = Features(_from_scipy(chosen))
        part.compiled = None
        return part

    def every(self, every: int, first: int) -> "Features":
        """Return the rows first, first + every, ...; a copy."""
        if self.compiled is None:
            return self.rows(torch.arange(first, len(self), every, device=self.X.device))
        return Features.of(self.compiled.every(every, first))

    def gram(
        self, weights: Tensor, every: int = 1, first: int = 0, *, upper: bool = False
    ) -> Tensor:
        """Return X' diag(weights) X, shape (d, d), dense.

        Parameters
        ----------
        weights : Tensor
            Any sign; one for each row that is taken.
        every, first : int
            Only the rows first, first + every, ... are taken.
        upper : bool
            Whether what is below the diagonal may be left out.

        Returns
        -------
        Tensor, shape (d, d)
            Exactly symmetric, where nothing is left out.
        """
        if self.compiled is not None:
            found = self.compiled.gram(weights.numpy(), every, first, upper=upper)
            return torch.from_numpy(found)
        if every > 1:
            index = torch.arange(first, len(self), every, device=self.X.device)
            return self.rows(index).gram(weights)
        if isinstance(self.X, OnDisk):
            product = self.X.gram(weights)
        elif self.sparse and self.X.device.type == "cpu":
            scaled = _to_scipy(self.XT)
            scaled = scipy.sparse.csr_matrix(
                (scaled.data * weights.numpy()[scaled.indices], scaled.indices, scaled.indptr),
                shape=scaled.shape,
            )
            product = torch.from_numpy((scaled @ _to_scipy(self.X)).toarray())
        else:
            product = self._blocked_gram(weights)
        return (product + product.T).mul_(0.5)

    def outer(self, scale: Tensor) -> Tensor:
        """Return X diag(scale) X', shape (n, n), dense.

        Parameters
        ----------
        scale : Tensor, shape (d,)
            At least 0.

        Returns
        -------
        Tensor, shape (n, n)
            Exactly symmetric.
        """
        if not self.sparse:
            return times_transpose(self.X * scale.sqrt())
        X = _to_scipy(self.X)
        scaled = X @ scipy.sparse.diags_array(scale.sqrt().numpy())
        product = torch.from_numpy((scaled @ scaled.T).toarray())
        return (product + product.T).mul_(0.5)

    @cached_property
    def outer_cost(self) -> float | None:
        """The time of `outer` in products, as `forming_cost`; None for data that it does not do.

        Of sparse data SciPy's, measured with 600 and 3,000 rows of 80 to 200 entries.
        """
        if isinstance(self.X, OnDisk) or (self.sparse and self.device.type != "cpu"):
            return None
        if not self.sparse:
            return self.shape[0] / 16
        lengths = torch.bincount(self.X.col_indices().long(), minlength=self.shape[1]).numpy()
        return 8.0 * _row_of_an_entry(lengths) + 4.0 * len(self) ** 2 / self.entries

    def _blocked_gram(self, weights: Tensor, block: int = 8192) -> Tensor:
        """Sum over blocks of rows, so that no second copy of X is ever held."""
        d = self.X.shape[1]
        total = torch.zeros(d, d, dtype=self.X.dtype, device=self.X.device)
        for start in range(0, len(self), block):
            rows = torch.arange(
                start, min(start + block, len(self)), device=self.X.device, dtype=torch.int64
            )
            part = self.rows(rows).X
            part = part.to_dense() if self.sparse else part
            total.addmm_(part.T, part * weights[rows, None])
        return total

    @cached_property
    def entries(self) -> int:
        """Numbers that the matrix has: the stored ones of a sparse one."""
        if self.compiled is not None:
            return int(self.compiled.lengths().sum())
        return self.X.values().numel() if self.sparse else math.prod(self.X.shape)

    @cached_property
    def forming_cost(self) -> float | None:
        """The time of `gram` in products X' diag(weights) X v, roughly; None for data on disk.

        Two operations an entry make a product by X and two one by its transpose; the matrix takes
        half of an entry's row's length, each at the speed that was measured on a9a and w8a, of
        products that read every entry by itself.
        """
        if isinstance(self.X, OnDisk):
            return None
        if not self.sparse:
            return self.X.shape[1] / 16  # products of matrices use the cache, and others wait
        if self.compiled is not None:
            return 0.3 * _row_of_an_entry(self.compiled.lengths())
        return 5.0 * _row_of_an_entry(self.X.crow_indices().diff().numpy(force=True))

    def column_square_sums(self, weights: Tensor) -> Tensor:
        """Return sum_i weights_i X_ij^2 for every column j.

        Parameters
        ----------
        weights : Tensor, shape (n,) or (n, k)
            Any sign.

        Returns
        -------
        Tensor, shape (d,) or (d, k)
            The diagonal of X' diag(weights) X, per column of weights.
        """
        if self.compiled is not None:
            return torch.from_numpy(self.compiled.column_square_sums(weights.numpy()))
        if not self.sparse:
            return self._squared.T @ weights
        return self._squared @ weights

    @cached_property
    def row_square_norms(self) -> Tensor:
        """|x_i|^2 of every row, shape (n,)."""
        if self.compiled is not None:
            return torch.from_numpy(self.compiled.row_square_norms())
        if not self.sparse:
            return self.X.square().sum(1)
        ones = torch.ones(self.X.shape[1], dtype=self.X.dtype, device=self.X.device)
        return _with_values(self.X, self.X.values().square()) @ ones

    @cached_property
    def _squared(self) -> Tensor:
        if not self.sparse:
            return self.X.square()
        squares = self.XT.values().square()
        if torch.equal(squares, self.XT.values()):  # zeros and ones: no second copy
            return self.XT
        return _with_values(self.XT, squares)


def _row_of_an_entry(lengths: np.ndarray) -> float:
    """Return the mean length of an entry's row."""
    lengths = lengths.astype(np.float64)
    return float(lengths @ lengths / max(lengths.sum(), 1.0))


def with_ones(X: Tensor) -> Tensor:
    """Return a copy of X, dense or sparse CSR, with a column of ones at the right."""
    n, d = X.shape
    if X.layout is not torch.sparse_csr:
        return torch.cat([X, X.new_ones(n, 1)], 1)
    crow, nonzeros = X.crow_indices(), X.values().numel()
    added = torch.arange(n + 1, dtype=crow.dtype, device=X.device)
    old = torch.ones(nonzeros + n, dtype=torch.bool, device=X.device)
    old[(crow[1:] + added[:-1]).long()] = False
    columns = torch.full((nonzeros + n,), d, dtype=crow.dtype, device=X.device)
    columns[old] = X.col_indices()
    values = torch.ones(nonzeros + n, dtype=X.dtype, device=X.device)
    values[old] = X.values()
    return _csr(crow + added, columns, values, (n, d + 1))


def _csr(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Make a CSR tensor whose indices are right by construction; not to be checked again."""
    return torch.sparse_csr_tensor(crow, col, values, size=shape, check_invariants=False)


def _with_values(X: Tensor, values: Tensor) -> Tensor:
    """Make a CSR tensor with the entries where X has them; no copy of the indices."""
    return _csr(X.crow_indices(), X.col_indices(), values, X.shape)


def _to_scipy(X: Tensor) -> scipy.sparse.csr_matrix:
    """View a CPU tensor as a SciPy matrix; no copy."""
    return scipy.sparse.csr_matrix(
        (X.values().numpy(), X.col_indices().numpy(), X.crow_indices().numpy()),
        shape=(X.shape[0], X.shape[1]),
    )


def _from_scipy(X: scipy.sparse.csr_matrix) -> Tensor:
    """View a SciPy matrix as a CPU tensor with int32 indices."""
    return _csr(
        torch.from_numpy(X.indptr.astype(np.int32, copy=False)),
        torch.from_numpy(X.indices.astype(np.int32, copy=False)),
        torch.from_numpy(X.data),
        X.shape,
    )


def _csr_rows(X: Tensor, index: Tensor) -> Tensor:
    """Gather rows of a CSR tensor on its own device."""
    crow, col, values = X.crow_indices(), X.col_indices(), X.values()
    starts = crow[index].long()
    lengths = crow[index + 1].long() - starts
    new_crow = torch.zeros(len(index) + 1, dtype=torch.int64, device=X.device)
    torch.cumsum(lengths, 0, out=new_crow[1:])
    offsets = torch.repeat_interleave(starts - new_crow[:-1], lengths)
    take = torch.arange(int(new_crow[-1]), device=X.device) + offsets
    return _csr(new_crow.to(crow.dtype), col[take], values[take], (len(index), X.shape[1]))
