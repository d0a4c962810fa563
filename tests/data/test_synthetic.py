"""The generator: size, density, conditioning, labels, noise and seed, measured on what it makes."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from newton_krylov.data import load_dataset
from newton_krylov.data.sparse import to_numpy
from newton_krylov.data.synthetic import MARGIN
from newton_krylov.errors import ConfigError, DataError


def make(**options):
    return load_dataset("synthetic", {"n_test": 0} | options)


def dense(split):
    return split.X.to_dense().numpy()


@given(n=st.integers(2, 60), d=st.integers(1, 40), kappa=st.floats(1, 1e8), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_dense_matrix_has_exactly_the_condition_number(n, d, kappa, seed):
    X = dense(make(n=n, d=d, condition_number=kappa, seed=seed, format="dense").train)
    assert X.shape == (n, d)
    s = np.linalg.svd(X, compute_uv=False)
    rank = min(n, d)
    assert s[0] ** 2 / s[rank - 1] ** 2 == pytest.approx(kappa if rank > 1 else 1, rel=1e-6)
    assert np.mean(X**2) == pytest.approx(1, rel=1e-10)


def test_the_spectrum_is_log_spaced():
    X = dense(make(n=300, d=10, condition_number=1e6).train)
    logs = np.log10(np.linalg.eigvalsh(X.T @ X))
    assert np.diff(logs) == pytest.approx(np.full(9, 6 / 9), abs=1e-6)


def test_test_samples_have_the_same_second_moments():
    data = make(n=200, n_test=5000, d=8, condition_number=1e4)
    X, X_test = dense(data.train), dense(data.test)
    train, test = X.T @ X / 200, X_test.T @ X_test / 5000
    assert test == pytest.approx(train, abs=1e-10)
    few = dense(make(n=200, n_test=5, d=8, condition_number=1e4).test)
    assert few.shape == (5, 8)


@pytest.mark.parametrize("density", [0.01, 0.2, 0.7])
def test_the_density_is_that_of_independent_entries(density):
    n, d = 2000, 100
    X = to_numpy(make(n=n, d=d, density=density, format="sparse").train.X)
    assert X.has_canonical_format
    expected, deviation = n * d * density, np.sqrt(n * d * density * (1 - density))
    assert abs(X.nnz - expected) < 5 * deviation
    for counts, trials in ((np.diff(X.indptr), d), (np.bincount(X.indices, minlength=d), n)):
        spread = np.sqrt(trials * density * (1 - density))
        assert np.mean(counts) == pytest.approx(trials * density, rel=0.1)
        assert np.std(counts) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("kappa", [1, 1e4])
def test_a_sparse_matrix_has_exactly_the_asked_diagonal(kappa):
    X = to_numpy(make(n=4000, d=30, density=0.2, condition_number=kappa, format="sparse").train.X)
    diagonal = np.sort(X.multiply(X).sum(axis=0))
    assert diagonal[-1] / diagonal[0] == pytest.approx(kappa, rel=1e-10)
    assert np.diff(np.log(diagonal)) == pytest.approx(np.full(29, np.log(kappa) / 29), abs=1e-8)
    assert X.multiply(X).sum() / (4000 * 30) == pytest.approx(1, rel=1e-10)
    condition = np.linalg.cond((X.T @ X).toarray())
    assert kappa <= condition < 2 * kappa  # n density is much larger than d


def test_an_empty_column_stays_empty():
    X = to_numpy(make(n=3, d=50, density=0.1, format="sparse").train.X)
    assert np.isfinite(X.data).all()
    assert (np.bincount(X.indices, minlength=50) == 0).any()


def test_labels_follow_the_planted_logistic_model():
    """The scores' quantiles tell the share of the larger class, whatever the planted weights."""
    data = make(n=20_000, d=5, condition_number=1)
    assert data.task == "binary"
    X, y = dense(data.train), data.train.y.numpy()
    weights = np.linalg.lstsq(X, y - y.mean(), rcond=None)[0]
    scores = X @ weights
    scores *= MARGIN / scores.std()
    for low, high in ((0, 1), (2, 4), (-3, -1)):
        inside = (low < scores) & (scores < high)
        predicted = scipy.stats.logistic.cdf(scores[inside]).mean()
        assert y[inside].mean() == pytest.approx(predicted, abs=0.05)


def test_noise_replaces_labels():
    clean, noisy = (make(n=20_000, d=5, label_noise=noise).train.y for noise in (0, 0.3))
    assert float((clean != noisy).double().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("n_classes", [3, 7])
def test_classes(n_classes):
    options = {"n": 5000, "d": 10, "task": "multiclass", "n_classes": n_classes}
    data = make(**options)
    assert data.n_classes == n_classes
    assert sorted(set(data.train.y.tolist())) == list(range(n_classes))
    noisy = make(**options, label_noise=1)
    assert not bool((noisy.train.y == data.train.y).any())  # always one of the others


def test_a_regression_is_linear_up_to_its_noise():
    data = make(n=500, d=10, task="regression", condition_number=10)
    X, y = dense(data.train), data.train.y.numpy()
    assert np.linalg.lstsq(X, y, rcond=None)[1] < 1e-20 * (y @ y)
    assert y.std() == pytest.approx(MARGIN, rel=1e-10)
    noisy = make(n=500, d=10, task="regression", condition_number=10, label_noise=0.5)
    residual = noisy.train.y.numpy() - y
    assert residual.std() == pytest.approx(0.5 * MARGIN, rel=0.15)


@pytest.mark.parametrize("density", [1.0, 0.2])
def test_the_seed_and_the_arguments_make_the_data(density):
    options = {"n": 50, "n_test": 20, "d": 8, "density": density}
    first, again, other = (make(**options, seed=seed) for seed in (0, 0, 1))
    assert first.checksum == again.checksum
    assert first.checksum != other.checksum
    assert np.array_equal(dense(first.train), dense(again.train))
    assert torch.equal(first.test.y, again.test.y)
    assert not np.array_equal(dense(first.train), dense(other.train))
    assert first.checksum != make(**options, condition_number=99).checksum


def test_splits():
    data = make(n=30, n_test=7, d=3)
    assert (len(data.train), len(data.test)) == (30, 7)
    assert make(n=30, d=3).test is None
    held_out = make(n=30, d=3, test_fraction=0.2)
    assert (len(held_out.train), len(held_out.test)) == (24, 6)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_made():
    with pytest.raises(DataError, match=r"A synthetic 1,000,000,000 x 1,000,000 set takes"):
        make(n=10**9, d=10**6)
    with pytest.raises(DataError, match="takes"):
        make(n=10**9, d=10**6, density=0.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 1}, r"dataset\.n=1 is not valid: it should be greater than or equal to 2"),
        ({"density": 0}, r"dataset\.density=0 is not valid"),
        ({"density": 1.5}, r"dataset\.density=1\.5 is not valid"),
        ({"condition_number": 0.5}, r"dataset\.condition_number=0\.5 is not valid"),
        ({"condition_number": float("inf")}, r"dataset\.condition_number=inf is not valid"),
        ({"n_classes": 2}, r"dataset\.n_classes=2 is not valid"),
        ({"label_noise": -1}, r"dataset\.label_noise=-1 is not valid"),
        ({"seed": -1}, r"dataset\.seed=-1 is not valid"),
        ({"task": "ranking"}, r"dataset\.task='ranking' is not valid"),
        ({"condition": 3}, "did you mean 'condition_number'"),
    ],
)
def test_a_wrong_argument_is_one_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make(**options)
