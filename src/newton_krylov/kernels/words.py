"""Neighbours in the rows of a matrix of ones that are read as one."""

import numpy as np
import scipy.sparse

Matrix = scipy.sparse.csr_matrix | scipy.sparse.csr_array

_TABLE = 4
"""The most pairs of columns that there could be, for each entry: their numbers are looked up."""
_WORTH = 8
"""Entries that have to be spared for each word, which every product sets and adds up."""


def merge(X: Matrix) -> tuple[Matrix, Matrix | None]:
    """Write a matrix of ones as a product of two: rows of words, and the columns of every word.

    Tables of categories turned into ones have the same few columns next to each other in most
    rows. A pair of such neighbours becomes a word, as long as the words are few against the
    entries that are spared, and neighbouring words become one again.

    Parameters
    ----------
    X : csr_matrix or csr_array, shape (n, d)
        Of ones; rows sorted, without a column twice.

    Returns
    -------
    tuple of two matrices
        P, shape (n, m), and E, shape (m, d), with X = P E; or X itself and None. The values of P
        are not set.
    """
    words: Matrix | None = None
    while (found := _paired(X)) is not None:
        X, pairs = found
        words = pairs if words is None else pairs @ words
    if words is not None:
        words.sort_indices()
        words.indptr = words.indptr.astype(X.indptr.dtype)
    return X, words


def _paired(X: Matrix) -> tuple[Matrix, Matrix] | None:
    """Make a word of every two neighbours, and of a row's last entry where that is alone."""
    n, d = X.shape
    if X.nnz == 0 or (d + 1) ** 2 > _TABLE * X.nnz:
        return None
    lengths = np.diff(X.indptr)
    ptr = np.zeros_like(X.indptr)
    np.cumsum((lengths + 1) // 2, out=ptr[1:])
    first = 2 * np.arange(ptr[-1]) + np.repeat(X.indptr[:-1] - 2 * ptr[:-1], np.diff(ptr))
    second = X.indices[np.minimum(first + 1, X.nnz - 1)]
    second[ptr[1:][lengths % 2 == 1] - 1] = d  # there is none
    codes = X.indices[first].astype(np.int64) * (d + 1) + second
    counts = np.bincount(codes)
    known = np.flatnonzero(counts)
    if X.nnz - len(codes) < _WORTH * len(known):
        return None
    known = known[np.argsort(-counts[known], kind="stable")]  # frequent ones close to each other
    numbers = np.zeros(len(counts), dtype=X.indices.dtype)
    numbers[known] = np.arange(len(known))
    columns = np.stack(np.divmod(known, d + 1), axis=1)
    there = columns < d
    begins = np.concatenate([[0], there.sum(1).cumsum()])
    parts = np.ones(begins[-1], X.dtype), columns[there], begins
    words = scipy.sparse.csr_matrix(parts, shape=(len(known), d))
    unset = np.empty(len(codes), dtype=np.int8)
    return scipy.sparse.csr_matrix((unset, numbers[codes], ptr), shape=(n, len(known))), words
