"""The common options: held-out samples, scaling, layout, a bias column."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from newton_krylov.data import prepare as prepare_module
from newton_krylov.data.prepare import Options, RawData, Samples, checksum, fold_rows, prepare
from newton_krylov.errors import ConfigError, DataError


def raw(X, y=None, X_test=None, task="binary"):
    y = np.arange(X.shape[0]) % 2 if y is None else y
    test = None if X_test is None else Samples(X_test, np.arange(X_test.shape[0]) % 2)
    return RawData(Samples(X, y), test, task, 2, "here", "fingerprint")


def draw(n=30, d=5, density=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * (rng.random((n, d)) < density) * np.geomspace(1, 50, d)


def made(X, X_test=None, dtype=torch.float64, **options):
    return prepare("it", raw(X, X_test=X_test), Options(**options), dtype)


@pytest.fixture(params=["dense", "sparse"])
def layout(request):
    return request.param


def dense(X):
    return X.to_dense().numpy()


def test_without_options_the_data_is_as_it_was(layout):
    X = draw()
    data = made(X, format=layout)
    assert np.array_equal(dense(data.train.X), X)
    assert data.test is None
    assert (data.train.X.layout is torch.sparse_csr) == (layout == "sparse")
    assert (data.name, data.source, data.task, data.n_classes) == ("it", "here", "binary", 2)


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize(("density", "expected"), [(0.1, "sparse"), (0.9, "dense")])
def test_the_layout_is_chosen_by_the_density(as_sparse, density, expected):
    X = draw(200, 20, density)
    data = made(sp.csr_array(X) if as_sparse else X)
    assert (data.train.X.layout is torch.sparse_csr) == (expected == "sparse")
    assert np.array_equal(dense(data.train.X), X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types(layout, dtype):
    data = made(draw(), dtype=dtype, format=layout)
    assert data.train.X.dtype is dtype
    assert data.train.y.dtype is torch.int64
    if layout == "sparse":
        assert data.train.X.col_indices().dtype is torch.int32
        assert data.train.X.crow_indices().dtype is torch.int32
    targets = replace(raw(draw(), y=np.linspace(0, 1, 30)), task="regression", n_classes=0)
    assert prepare("it", targets, Options(), dtype).train.y.dtype is dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_other_types_are_refused(dtype):
    with pytest.raises(ConfigError, match=r"Data sets are float32 or float64, not (float16|int64)"):
        made(draw(), dtype=dtype)


def test_a_bias_is_a_last_column_of_ones_in_every_split(layout):
    X, X_test = draw(), draw(10, seed=1)
    data = made(X, X_test, bias=True, format=layout, scaling="standardize")
    assert data.n_features == 6
    for split in (data.train, data.test):
        assert (dense(split.X)[:, -1] == 1).all()
    plain = made(X, X_test, format=layout, scaling="standardize")
    assert np.array_equal(dense(data.train.X)[:, :-1], dense(plain.train.X))


def test_standardized_columns(layout):
    X = draw(100)
    Z = dense(made(X, scaling="standardize", format=layout).train.X)
    assert Z.std(axis=0) == pytest.approx(np.ones(5), rel=1e-12)
    if layout == "dense":
        assert Z.mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-12)
    else:  # centring would fill it
        assert ((Z == 0) == (X == 0)).all()
        assert pytest.approx(X / X.std(axis=0), rel=1e-12) == Z


def test_maxabs(layout):
    X = draw()
    Z = dense(made(X, scaling="maxabs", format=layout).train.X)
    assert pytest.approx(X / abs(X).max(axis=0), rel=1e-15) == Z


def test_rows_of_norm_1(layout):
    X = draw(density=0.9)
    X[3] = 0
    Z = dense(made(X, scaling="unit_rows", format=layout).train.X)
    norms = np.linalg.norm(Z, axis=1)
    assert norms[3] == 0
    assert np.delete(norms, 3) == pytest.approx(np.ones(29), rel=1e-14)


@pytest.mark.parametrize("scaling", ["standardize", "maxabs"])
def test_the_test_split_is_scaled_by_the_train_splits_statistics(layout, scaling):
    X, X_test = draw(), 7 * draw(10, seed=1)
    data = made(X, X_test, scaling=scaling, format=layout)
    divisor = X.std(axis=0) if scaling == "standardize" else abs(X).max(axis=0)
    mean = X.mean(axis=0) if scaling == "standardize" and layout == "dense" else 0
    assert dense(data.test.X) == pytest.approx((X_test - mean) / divisor, rel=1e-12)


@pytest.mark.parametrize("scaling", ["standardize", "maxabs", "unit_rows"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8 / 3])
def test_constant_columns_stay_finite(layout, scaling, constant):
    X = draw(50)
    X[:, 2] = constant
    Z = dense(made(X, scaling=scaling, format=layout).train.X)
    assert np.isfinite(Z).all()
    if scaling == "standardize":  # rounding is not blown up
        assert abs(Z[:, 2]).max() == pytest.approx(0 if layout == "dense" else constant, abs=1e-6)


def test_the_source_is_not_changed(layout):
    X = draw()
    before = X.copy()
    for scaling in ("standardize", "maxabs", "unit_rows"):
        made(sp.csr_array(X) if layout == "sparse" else X, scaling=scaling, bias=True)
    assert np.array_equal(X, before)


@given(n=st.integers(2, 60), fraction=st.floats(0.02, 0.98), seed=st.integers(0, 5))
def test_held_out_samples_are_a_partition(n, fraction, seed):
    X = np.arange(2.0 * n).reshape(n, 2)
    n_test = round(fraction * n)
    if not 0 < n_test < n:
        with pytest.raises(ConfigError, match=f"leaves {n_test} to test and {n - n_test} to train"):
            made(X, test_fraction=fraction, seed=seed)
        return
    data = made(X, test_fraction=fraction, seed=seed)
    assert len(data.test) == n_test
    rows = np.concatenate([dense(data.train.X), dense(data.test.X)])
    assert np.array_equal(rows[np.argsort(rows[:, 0])], X)
    for split in (data.train, data.test):
        assert (np.diff(dense(split.X)[:, 0]) > 0).all()  # in the source's order
        assert np.array_equal(split.y, dense(split.X)[:, 0] // 2 % 2)


def test_the_seed_chooses_what_is_held_out():
    splits = [made(draw(), test_fraction=0.3, seed=seed).test.X.numpy() for seed in (0, 0, 1)]
    assert np.array_equal(splits[0], splits[1])
    assert not np.array_equal(splits[0], splits[2])


def test_a_test_set_of_its_own_leaves_the_fraction_no_say():
    data = made(draw(), draw(7, seed=1), test_fraction=0.5)
    assert (len(data.train), len(data.test)) == (30, 7)


def test_equal_checksums_mean_equal_tensors():
    different = [
        {},
        {"bias": True},
        {"scaling": "maxabs"},
        {"test_fraction": 0.2},
        {"test_fraction": 0.2, "seed": 1},
        {"format": "sparse"},
        {"dtype": torch.float32},
    ]
    assert len({made(draw(), **options).checksum for options in different}) == len(different)
    same = [{}, {"seed": 1}, {"format": "dense"}, {"format": "auto"}]  # it is dense
    assert len({made(draw(), **options).checksum for options in same}) == 1
    other = prepare("it", replace(raw(draw()), fingerprint="x"), Options(), torch.float64)
    assert other.checksum != made(draw()).checksum


def test_a_dense_matrix_that_does_not_fit_is_refused(monkeypatch):
    wide = sp.csr_array(([1.0], ([0], [2**31 - 2])), shape=(100_000, 2**31 - 1))
    with pytest.raises(DataError, match=r"A dense matrix of 100,000 samples and 2,147,483,647 f"):
        made(wide, format="dense")
    assert made(wide).train.X.layout is torch.sparse_csr


def test_checksums_do_not_depend_on_the_order_of_keys():
    assert checksum({"a": 1, "b": [2, None]}) == checksum({"b": [2, None], "a": 1})
    assert checksum({"a": 1}) != checksum({"a": 2})


def test_the_options_are_all_documented():
    for field in vars(Options()):
        assert f"    {field} : " in prepare_module.Options.__doc__


@pytest.mark.parametrize("exponent", [-300, -200, -170, 170, 200, 300])
@pytest.mark.parametrize("scaling", ["standardize", "maxabs", "unit_rows"])
def test_scaling_at_the_ends_of_the_range_is_scaling_of_the_same_data(layout, scaling, exponent):
    """Squares over- and underflow; a power of two in the columns changes no bit."""
    X = draw()
    far = np.ldexp(X, int(exponent / np.log10(2)))
    usual, found = (
        made(Z if layout == "dense" else sp.csr_array(Z), scaling=scaling, format=layout)
        for Z in (X, far)
    )
    assert np.allclose(dense(found.train.X), dense(usual.train.X), rtol=1e-15, atol=0)
    assert np.isfinite(dense(found.train.X)).all()
    assert dense(found.train.X).any()


def test_a_difference_that_overflows_is_told():
    X = np.array([[1.7e308, 1.0], [-1.7e308, 2.0], [-1.7e308, 3.0]])
    with pytest.raises(DataError, match=r"sample 1, has a value of .*which float64 cannot hold"):
        made(X, scaling="standardize")


@given(
    st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n))),
    st.integers(0, 5),
    st.sampled_from(["binary", "multiclass", "regression"]),
)
def test_folds_hold_each_sample_out_once_and_share_classes_and_sizes_evenly(sizes, seed, task):
    n, folds = sizes
    y = np.random.default_rng(seed).integers(0, 3, n)
    parts = [fold_rows(y, task, folds, fold, seed) for fold in range(1, folds + 1)]
    held = [part for _, part in parts]
    assert np.array_equal(np.sort(np.concatenate(held)), np.arange(n))
    assert np.ptp([len(part) for part in held]) <= 1
    for kept, part in parts:
        assert np.array_equal(np.union1d(kept, part), np.arange(n)) and len(kept) + len(part) == n
    if task != "regression":
        assert all(np.ptp([np.sum(y[part] == c) for part in held]) <= 1 for c in range(3))


def test_a_fold_is_of_the_training_samples_and_the_test_set_is_left_aside(layout):
    X = draw(n=40)
    train = made(X, test_fraction=0.25, seed=3, format=layout).train
    folds = [
        made(X, test_fraction=0.25, seed=3, format=layout, folds=3, fold=fold) for fold in (1, 2, 3)
    ]
    held = np.vstack([dense(fold.test.X) for fold in folds])
    assert np.array_equal(held[np.lexsort(held.T)], dense(train.X)[np.lexsort(dense(train.X).T)])
    assert len({fold.checksum for fold in folds}) == 3
    facts = [fold.facts() for fold in folds]
    assert {(f["folds"], f["folds_samples"]) for f in facts} == {(3, 30)}
    assert len({f["folds_checksum"] for f in facts}) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fold": 2}, "is one of how many"),
        ({"folds": 3}, "needs dataset.fold: it is 1 to 3"),
        ({"folds": 3, "fold": 4}, "has no dataset.fold=4: it is 1 to 3"),
        ({"folds": 31, "fold": 4}, "more than the 30 samples"),
    ],
)
def test_what_is_no_fold_is_one_sentence(options, says):
    with pytest.raises(ConfigError, match=says):
        made(draw(), **options)
