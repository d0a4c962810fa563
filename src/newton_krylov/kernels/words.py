"""Neighbours in the rows of a matrix of ones that are read as one."""

import numpy as np
import scipy.sparse

Matrix = scipy.sparse.csr_matrix | scipy.sparse.csr_array

_TABLE = 4
"""The most pairs of columns that there could be, for each entry: their numbers are looked up."""
_LARGEST_TABLE = 2**24
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
    words: scipy.sparse.csr_matrix | None = None
    while (found := _paired(X)) is not None:
        X, pairs = found
        words = pairs if words is None else (pairs @ words).tocsr()
    if words is not None:
        words.sort_indices()
        words.indptr = words.indptr.astype(X.indptr.dtype)
    return X, words


def _paired(X: Matrix) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix] | None:
    """Make a word of every two neighbours, and of a row's last entry where that is alone."""
    n, d = X.shape
    if (d + 1) ** 2 > min(_TABLE * X.nnz, _LARGEST_TABLE):
        return None
    odd = np.diff(X.indptr) % 2
    ptr = (X.indptr + np.concatenate([[0], odd.cumsum()])) // 2
    before = np.repeat(ptr[:-1] - (X.indptr[:-1] - ptr[:-1]), np.diff(ptr))  # odd rows
    first = np.arange(0, 2 * len(before), 2) - before
    codes = X.indices * (d + 1)
    codes[:-1] += X.indices[1:]
    codes = codes[first]
    alone = ptr[1:][odd == 1] - 1
    codes[alone] += d - codes[alone] % (d + 1)
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
