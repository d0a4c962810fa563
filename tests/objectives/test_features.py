"""The data matrix and its products, on every layout and device."""

import pytest
import torch
from problems import DTYPES, assert_close, make_dataset, matrix, randn, ulps

from newton_krylov.objectives.features import Features, _csr_rows


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def dense(dtype, device):
    """With an empty row and an empty column, as LIBSVM's files have."""
    X = matrix(50, 6)
    X[7], X[:, 4] = 0, 0
    return X.to(device, dtype)


@pytest.fixture(params=[False, True], ids=["dense", "sparse"])
def features(request, dense):
    data = make_dataset("regression", X=dense, sparse=request.param, dtype=dense.dtype,
                        device=dense.device)  # fmt: skip
    return Features(data.train.X)


def test_both_products(features, dense):
    v, V = randn(6, seed=1).to(dense), randn(6, 3, seed=2).to(dense)
    u, U = randn(50, seed=3).to(dense), randn(50, 3, seed=4).to(dense)
    rtol = ulps(dense.dtype, 50)
    assert len(features) == 50
    assert_close(features.X @ v, dense @ v, rtol)
    assert_close(features.X @ V, dense @ V, rtol)
    assert_close(features.XT @ u, dense.T @ u, rtol)
    assert_close(features.XT @ U, dense.T @ U, rtol)


def test_the_transpose_keeps_small_indices(features):
    if features.sparse:
        assert features.XT.col_indices().dtype is torch.int32
        assert features.XT.crow_indices().dtype is torch.int32
        assert torch.equal(features.XT.to_dense(), features.X.to_dense().T)


@pytest.mark.parametrize("index", [[0], [7], [3, 1, 1, 49], list(range(50)), []])
def test_rows_in_any_order(features, dense, index):
    index = torch.tensor(index, dtype=torch.int64, device=dense.device)
    assert torch.equal(features.rows(index).X.to_dense(), dense[index])
    if features.sparse:
        gathered = _csr_rows(features.X, index)  # what a GPU does, on any device
        assert torch.equal(gathered.to_dense(), dense[index])
        assert gathered.col_indices().dtype is torch.int32


@pytest.mark.parametrize("index", [[0], [3, 1, 4], list(range(6)), []])
def test_columns_in_any_order(features, dense, index):
    index = torch.tensor(index, dtype=torch.int64, device=dense.device)
    found = features.columns(index)
    if features.sparse and dense.device.type != "cpu":
        assert found is None
    else:
        assert torch.equal(found.X.to_dense(), dense[:, index])


def test_gram_of_weights_of_either_sign_is_exactly_symmetric(features, dense):
    weights = randn(50, seed=5).to(dense)
    gram = features.gram(weights)
    assert_close(gram, dense.T @ (weights[:, None] * dense), ulps(dense.dtype, 100))
    assert torch.equal(gram, gram.T)


def test_the_samples_matrix_is_exactly_symmetric(features, dense):
    scale = randn(dense.shape[1], seed=5).to(dense).square()
    if features.outer_cost is None:
        pytest.skip("not of sparse data on a GPU")
    outer = features.outer(scale)
    assert_close(outer, (dense * scale) @ dense.T, ulps(dense.dtype, 100))
    assert torch.equal(outer, outer.T) and features.outer_cost > 0


@pytest.mark.parametrize("block", [1, 7, 50, 64])
def test_the_gram_matrix_by_blocks_is_the_same_for_every_block(features, dense, block):
    weights = randn(50, seed=5).to(dense)
    expected = dense.T @ (weights[:, None] * dense)
    assert_close(features._blocked_gram(weights, block), expected, ulps(dense.dtype, 100))


def test_sums_of_squares_of_columns_and_rows(features, dense):
    weights = randn(50, 2, seed=6).to(dense)
    rtol = ulps(dense.dtype, 50)
    assert_close(features.column_square_sums(weights), dense.square().T @ weights, rtol)
    one = weights[:, 0].contiguous()
    assert_close(features.column_square_sums(one), dense.square().T @ one, rtol)
    assert_close(features.row_square_norms, dense.square().sum(1), rtol)
