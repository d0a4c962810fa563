"""Sample weights, a free intercept and a penalty for each weight, against their definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch
from problems import (
    CONVEX_LOSSES,
    DTYPES,
    LOSSES,
    assert_close,
    make_dataset,
    randn,
    ulps,
)
from sklearn.linear_model import LogisticRegression

from newton_krylov.data.dataset import Dataset
from newton_krylov.data.shards import read_shards, write_shards
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.features import with_ones
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.optimizers.minibatch import GradientTable
from newton_krylov.registry import entry
from newton_krylov.runs.optimum import certified_optimum

each_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)
each_convex_loss = pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_layout = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


def repeated(data: Dataset, times: torch.Tensor) -> Dataset:
    """Repeat each row as often as said."""
    rows = torch.repeat_interleave(torch.arange(len(times)), times)
    X = data.train.X
    dense = (X.to_dense() if X.layout is torch.sparse_csr else X)[rows]
    sparse = X.layout is torch.sparse_csr
    return make_dataset(
        data.task, X=dense, y=data.train.y[rows], sparse=sparse, dtype=X.dtype,
        n_classes=data.n_classes or 4,
    )  # fmt: skip


def weighted(data: Dataset, weights: torch.Tensor) -> Dataset:
    weights = (weights / weights.double().mean()).to(data.train.X.dtype)
    return replace(data, train=replace(data.train, weights=weights))


def bind(loss, data: Dataset, **options) -> LinearModel:
    return entry("loss", loss.name).target(data, **{"l2": 0.03} | options)


@each_loss
@each_dtype
@each_layout
@pytest.mark.parametrize("intercept", ["none", "free"])
def test_a_weight_is_a_repetition_of_the_row(loss, dtype, sparse, intercept):
    data = make_dataset(loss.task, sparse=sparse, dtype=dtype)
    times = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(5))
    f = bind(loss, weighted(data, times), intercept=intercept)
    g = bind(loss, repeated(data, times), intercept=intercept)
    w = randn(f.dim, seed=1, dtype=dtype)
    ours, theirs = f.at(w), g.at(w)
    tolerance = ulps(dtype, 100)
    assert_close(ours.value, theirs.value, tolerance)
    assert_close(ours.grad, theirs.grad, tolerance)
    for name in ("hessian", "gauss_newton", "empirical_fisher"):
        A, B = getattr(ours, name)(), getattr(theirs, name)()
        assert_close(A.dense(), B.dense(), tolerance, name)
        assert_close(A @ w, B @ w, tolerance, name)
        assert_close(A.diagonal(), B.diagonal(), tolerance, name)
    split, copies = weighted(data, times).train, repeated(data, times).train
    accuracies = f.accuracy(w, split), g.accuracy(w, copies)
    assert accuracies[0] == accuracies[1] or accuracies[0] == pytest.approx(accuracies[1])
    assert f.data_loss(w, split) == pytest.approx(g.data_loss(w, copies), rel=tolerance)


@each_loss
@each_layout
def test_a_free_intercept_is_a_column_of_ones_without_its_penalty(loss, sparse):
    data = make_dataset(loss.task, sparse=sparse)
    f = bind(loss, data, intercept="free")
    ones = replace(data.train, X=with_ones(data.train.X))
    penalized = bind(loss, replace(data, train=ones))
    own = bind(loss, replace(data, train=ones, bias=True), intercept="free")
    w = randn(f.dim, seed=2)
    b = torch.zeros_like(w)
    b[-f.n_outputs :] = w[-f.n_outputs :]
    point = f.at(w)
    assert own.at(w).value == point.value
    assert torch.equal(own.at(w).grad, point.grad)
    assert point.value == pytest.approx(penalized.at(w).value - 0.03 / 2 * float(b @ b), rel=1e-14)
    assert_close(point.grad, penalized.at(w).grad - 0.03 * b, 1e-13)
    diagonal = torch.diag((torch.arange(f.dim) >= f.dim - f.n_outputs).double())
    H = penalized.at(w).hessian().dense() - 0.03 * diagonal
    V = randn(f.dim, 3, seed=4)
    assert_close(point.hessian().dense(), H, 1e-13)
    assert_close(point.hessian() @ V, H @ V, 1e-12)
    assert_close(point.hessian().diagonal(), H.diagonal(), 1e-12)
    p = randn(f.dim, seed=3)
    ray, step = point.ray(p), 1e-6
    difference = (ray.value(0.5 + step) - ray.value(0.5 - step)) / (2 * step)
    assert ray.derivative(0.5) == pytest.approx(difference, rel=1e-6)
    assert f.data_loss(w, data.train) == pytest.approx(
        point.value - 0.03 / 2 * float(w @ w - b @ b), rel=1e-12
    )


@each_layout
def test_with_ones_appends_a_column(sparse):
    X = make_dataset("binary", sparse=sparse).train.X
    dense = X.to_dense() if sparse else X
    expected = torch.cat([dense, torch.ones(60, 1, dtype=X.dtype)], 1)
    found = with_ones(X)
    assert torch.equal(found.to_dense() if sparse else found, expected)
    assert found.layout is X.layout


@each_convex_loss
@each_layout
@pytest.mark.parametrize("weights", [False, True])
def test_the_certificate_of_a_free_intercept_holds(loss, sparse, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path))
    data = make_dataset(loss.task, sparse=sparse)
    if weights:
        times = torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(5))
        data = weighted(data, times)
    options = {"l2": 0.02, "intercept": "free"}
    optimum = certified_optimum(data, entry("loss", loss.name), options, torch.float64)
    assert optimum is not None
    assert optimum.gap_bound <= 1e-11
    f = bind(loss, data, **options)
    for seed, scale in enumerate([0.0, 1e-3, 0.1, 1.0, 10.0]):
        point = f.at(scale * randn(f.dim, seed=seed))
        gap = point.value - optimum.value
        assert -1e-15 <= gap <= f.suboptimality_bound(point) + 1e-15


def test_a_class_without_samples_has_no_certificate():
    data = make_dataset("multiclass")
    y = data.train.y.clone()
    y[y == 3] = 2
    f = bind(LOSSES[3], replace(data, train=replace(data.train, y=y)), intercept="free")
    assert math.isinf(f.suboptimality_bound(f.at(torch.ones(f.dim).double())))


@each_layout
@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[3]], ids=str)
def test_the_optimum_with_weights_and_a_free_intercept_is_scikit_learns(loss, sparse, tmp_path):
    data = make_dataset(loss.task, n=200, sparse=sparse)
    weights = 0.1 + randn(200, seed=8).abs()
    data = weighted(data, weights)
    X = data.train.X.to_dense() if sparse else data.train.X
    model = LogisticRegression(
        C=1 / (200 * 0.01), tol=1e-12, max_iter=10_000, solver="newton-cholesky"
    ).fit(X.numpy(), data.train.y.numpy(), sample_weight=data.train.weights.numpy())
    W = torch.from_numpy(np.column_stack([model.coef_, model.intercept_]).T.reshape(-1))
    f = bind(loss, data, l2=0.01, intercept="free")
    assert f.suboptimality_bound(f.at(W)) < 1e-6
    optimum = certified_optimum(
        data, entry("loss", loss.name), {"l2": 0.01, "intercept": "free"}, torch.float64
    )
    assert f.at(W).value == pytest.approx(optimum.value, abs=1e-12)


@each_loss
def test_a_penalty_for_each_weight(loss):
    data = make_dataset(loss.task)
    plain = bind(loss, data, l2=1.0)
    factors = randn(plain.dim, seed=9).abs()
    f, none = plain.with_factors(factors), bind(loss, data, l2=0.0)
    w = randn(f.dim, seed=1)
    assert f.at(w).value == pytest.approx(
        none.at(w).value + float(w @ (factors * w)) / 2, rel=1e-14
    )
    assert_close(f.at(w).grad, none.at(w).grad + factors * w, 1e-13)
    if loss.convex:
        assert f.convexity == float(factors.min())


@each_convex_loss
def test_the_mean_over_subsets_is_the_whole(loss):
    """Without bias: what SAGA, SVRG and sub-sampled Hessians stand on."""
    data = weighted(make_dataset(loss.task), 0.2 + randn(60, seed=3).abs())
    f = bind(loss, data)
    w = randn(f.dim, seed=1)
    parts = torch.randperm(60, generator=torch.Generator().manual_seed(0)).split(20)
    assert_close(torch.stack([f.subset(i).at(w).grad for i in parts]).mean(0), f.at(w).grad, 1e-13)
    table = GradientTable(f, 0.5 * w)
    estimates = [table.estimate(w, index, remember=False) for index in parts]
    assert_close(torch.stack(estimates).mean(0), f.at(w).grad - f.l2 * w, 1e-12)


def test_other_precisions_keep_weights_and_the_free_intercept():
    data = weighted(make_dataset("binary"), 0.2 + randn(60, seed=3).abs())
    f = bind(LOSSES[0], data, intercept="free")
    w = randn(f.dim, seed=1)
    low = f.cast(torch.float32).at(w.float())
    assert low.grad.dtype is torch.float32
    assert_close(low.grad, f.at(w).grad, 1e-5)
    assert_close(low.hessian() @ w.float(), f.at(w).hessian() @ w, 1e-5)


def test_data_on_disk_say_that_they_keep_their_columns(tmp_path):
    data = make_dataset("binary")
    part = scipy.sparse.csr_array(data.train.X.numpy()), data.train.y.numpy()
    write_shards(
        tmp_path / "s", {"train": [part]}, task="binary", source="here", n_features=7,
        dtype="float64", shard_bytes=500,
    )  # fmt: skip
    on_disk = read_shards(tmp_path / "s", torch.float64)
    with pytest.raises(UnsupportedError, match="intercept=free adds a column"):
        bind(LOSSES[0], on_disk, intercept="free")


def test_a_mean_over_no_samples_is_refused():
    f = bind(LOSSES[0], make_dataset("binary"))
    with pytest.raises(ValueError, match="at least one sample"):
        f.subset(torch.zeros(0, dtype=torch.int64))
