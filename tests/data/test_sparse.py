"""Between SciPy's CSR arrays and torch's."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from newton_krylov.data.sparse import csr_to_torch, index_dtype, to_numpy, torch_to_csr


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
