"""Between SciPy's CSR arrays and torch's CSR tensors, sharing memory where types allow."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from newton_krylov.data.dataset import Split

NUMPY_DTYPES: dict[torch.dtype, type[np.floating[Any]]] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
}
_INT32_MAX = np.iinfo(np.int32).max


def index_dtype(shape: tuple[int, int], nnz: int) -> type[np.signedinteger[Any]]:
    """Return int32 where every index fits: half the traffic, and the fast sparse products.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    nnz : int
        Stored entries.

    Returns
    -------
    type
        `numpy.int32` or `numpy.int64`.
    """
    return np.int32 if max(nnz, *shape) <= _INT32_MAX else np.int64


def csr_to_torch(X: sp.csr_array, dtype: torch.dtype) -> Tensor:
    """Turn a SciPy CSR array into a torch CSR tensor on the CPU.

    Parameters
    ----------
    X : csr_array, shape (n, d)
        Indices sorted and unique within each row.
    dtype : torch.dtype
        float32 or float64.

    Returns
    -------
    Tensor, shape (n, d)
        Sparse CSR, int32 indices wherever they fit; shares the arrays that have the right type.
    """
    indices = index_dtype(X.shape, X.nnz)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(X.indptr.astype(indices, copy=False)),
            torch.from_numpy(X.indices.astype(indices, copy=False)),
            torch.from_numpy(X.data.astype(NUMPY_DTYPES[dtype], copy=False)),
            size=X.shape,
            check_invariants=False,  # SciPy's own have been checked where the data came in
        )


def tensor_to_array(X: Tensor) -> NDArray[Any]:
    """Return a dense tensor of any device as an array; bfloat16, which NumPy lacks, as float64."""
    return (X.double() if X.dtype is torch.bfloat16 else X).numpy(force=True)


def tensor_to_csr(X: Tensor) -> sp.csr_array:
    """Turn a torch tensor of any sparse layout into a SciPy CSR array of its own.

    Parameters
    ----------
    X : Tensor, shape (n, d)
        Of any device; entries that are there twice are added.

    Returns
    -------
    csr_array, shape (n, d)
        The same matrix.
    """
    coo = torch.Tensor.to_sparse(X.detach().cpu(), layout=torch.sparse_coo).coalesce()
    at = tuple(coo.indices().numpy())
    return sp.csr_array(sp.coo_array((tensor_to_array(coo.values()), at), shape=tuple(coo.shape)))


def torch_to_csr(X: Tensor) -> sp.csr_array:
    """Turn a torch CSR tensor into a SciPy CSR array that shares its memory (on the CPU).

    Parameters
    ----------
    X : Tensor, shape (n, d)
        Sparse CSR; a tensor of another device is copied.

    Returns
    -------
    csr_array, shape (n, d)
        The same matrix.
    """
    parts = (X.values(), X.col_indices(), X.crow_indices())
    data, indices, indptr = (part.cpu().numpy() for part in parts)
    return sp.csr_array((data, indices, indptr), shape=(X.shape[0], X.shape[1]))


def canonical(X: sp.csr_array) -> sp.csr_array:
    """Return a CSR array whose rows are sorted and have no column twice; entries that had add up.

    Parameters
    ----------
    X : csr_array, shape (n, d)
        Not changed.

    Returns
    -------
    csr_array, shape (n, d)
        X itself where it is so already.
    """
    if X.has_canonical_format:
        return X
    found = X.copy()
    found.sum_duplicates()
    return found


def coalesced(X: Tensor) -> Tensor:
    """Return a CSR tensor whose rows are sorted and have no column twice, as `canonical` does.

    Sums of squares of a matrix's entries are wrong where an entry is in two parts.

    Parameters
    ----------
    X : Tensor, shape (n, d)
        Sparse CSR; not changed.

    Returns
    -------
    Tensor, shape (n, d)
        X itself where it is so already.
    """
    csr = torch_to_csr(X)
    return X if csr.has_canonical_format else csr_to_torch(canonical(csr), X.dtype).to(X.device)


def to_numpy(X: Tensor) -> sp.csr_array | NDArray[Any]:
    """Return a split's X as what SciPy and scikit-learn take.

    Parameters
    ----------
    X : Tensor, shape (n, d)
        Dense, or sparse CSR.

    Returns
    -------
    csr_array or ndarray, shape (n, d)
        Shares the tensor's memory on the CPU.
    """
    return torch_to_csr(X) if X.layout is torch.sparse_csr else X.cpu().numpy()


def by_row_length(split: Split) -> Split:
    """Put samples with equally many entries next to each other; other than CSR stay as they are.

    A product by a CSR matrix loops over each row's entries, and where rows vary in length the
    processor mispredicts the end of every loop: on w8a (0 to 114 entries a row) X v takes 0.17 ms
    in this order and 0.60 ms in the file's. A mean over samples does not ask for their order.

    Parameters
    ----------
    split : Split
        On the CPU.

    Returns
    -------
    Split
        The same samples, ordered by their number of entries; equal ones in their old order.
    """
    X = split.X
    if getattr(X, "layout", None) is not torch.sparse_csr:  # dense, or on disk
        return split
    lengths = X.crow_indices().diff()
    if bool((lengths[1:] >= lengths[:-1]).all()):
        return split
    order = torch.argsort(lengths, stable=True)
    return split.rows(csr_to_torch(torch_to_csr(X)[order.numpy()], X.dtype), order)
