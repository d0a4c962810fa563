"""Between SciPy's CSR arrays and torch's, and the order of samples that makes products fast."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from newton_krylov.data.dataset import Split
from newton_krylov.data.sparse import (
    by_row_length,
    canonical,
    coalesced,
    csr_to_torch,
    index_dtype,
    to_numpy,
    torch_to_csr,
)


@pytest.fixture
def X():
    return sp.random_array((20, 7), density=0.3, rng=np.random.default_rng(0), format="csr")


def test_there_and_back(X):
    tensor = csr_to_torch(X, torch.float64)
    assert np.array_equal(tensor.to_dense().numpy(), X.toarray())
    back = torch_to_csr(tensor)
    assert (back != X).nnz == 0
    assert np.shares_memory(back.data, X.data)


def test_indices_are_small_wherever_they_fit(X):
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    tensor = csr_to_torch(X, torch.float32)
    assert tensor.col_indices().dtype is tensor.crow_indices().dtype is torch.int32
    assert tensor.dtype is torch.float32
    assert index_dtype((5, 2**31 - 1), 9) is np.int32
    assert index_dtype((5, 2**31), 9) is index_dtype((2**31, 5), 9) is np.int64
    assert index_dtype((5, 5), 2**31) is np.int64


def test_torch_warns_nobody(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        csr_to_torch(X, torch.float64)


def test_what_scipy_and_scikit_learn_take(X, device):
    dense = torch.from_numpy(X.toarray()).to(device)
    assert np.array_equal(to_numpy(dense), X.toarray())
    assert (to_numpy(csr_to_torch(X, torch.float64).to(device)) != X).nnz == 0


def test_rows_are_ordered_by_length_with_their_targets() -> None:
    dense = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 6.0]])
    ordered = by_row_length(Split(dense.to_sparse_csr(), torch.tensor([0, 1, 2, 3])))
    assert ordered.y.tolist() == [2, 1, 3, 0]
    torch.testing.assert_close(ordered.X.to_dense(), dense[ordered.y])
    assert ordered.X.crow_indices().dtype is torch.int32


def test_what_is_in_order_or_dense_is_left_alone() -> None:
    dense = Split(torch.eye(3), torch.arange(3))
    assert by_row_length(dense) is dense
    sparse = Split(torch.eye(3).to_sparse_csr(), torch.arange(3))
    assert by_row_length(sparse) is sparse


def test_entries_in_two_parts_are_added_in_any_order(X):
    halves = (np.repeat(X.data, 2) * np.tile([3.0, -2.0], X.nnz), np.repeat(X.indices, 2))
    twice = sp.csr_array((*halves, 2 * X.indptr), shape=X.shape)
    for row in range(len(X.indptr) - 1):  # the last first
        part = slice(twice.indptr[row], twice.indptr[row + 1])
        twice.data[part], twice.indices[part] = twice.data[part][::-1], twice.indices[part][::-1]
    before = twice.indices.copy()
    tensor = csr_to_torch(twice, torch.float64)
    found = coalesced(tensor)
    assert np.array_equal(found.col_indices().numpy(), X.indices)
    assert np.allclose(found.to_dense().numpy(), X.toarray(), rtol=1e-14)
    assert np.array_equal(tensor.col_indices().numpy(), before)
    assert coalesced(found) is found
    assert canonical(twice).nnz == X.nnz
    for empty in (sp.csr_array((3, 4)), sp.csr_array((0, 4)), X[:1]):
        tensor = csr_to_torch(empty, torch.float64)
        assert coalesced(tensor) is tensor
