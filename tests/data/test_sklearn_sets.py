"""scikit-learn's embedded sets."""

import numpy as np
import pytest
import sklearn
import sklearn.datasets
import torch

from newton_krylov.data import load_dataset

SETS = {
    "breast_cancer": ("load_breast_cancer", "binary", 2),
    "digits": ("load_digits", "multiclass", 10),
    "wine": ("load_wine", "multiclass", 3),
    "iris": ("load_iris", "multiclass", 3),
    "diabetes": ("load_diabetes", "regression", 0),
}


@pytest.mark.parametrize("name", SETS)
def test_the_samples_are_scikit_learns(name):
    loader, task, n_classes = SETS[name]
    X, y = getattr(sklearn.datasets, loader)(return_X_y=True)
    options = {"scaling": "none", "test_fraction": 0, "format": "dense"}
    data = load_dataset(name, options)
    assert np.array_equal(data.train.X, X)
    assert np.array_equal(data.train.y, y)
    assert (data.task, data.n_classes, data.test) == (task, n_classes, None)
    assert sklearn.__version__ in data.source
    assert loader in data.source


@pytest.mark.parametrize("name", SETS)
def test_by_default_scaled_with_a_fifth_held_out(name):
    data = load_dataset(name)
    n = len(data.train) + len(data.test)
    assert len(data.test) == round(0.2 * n)
    columns = data.train.X.to_dense()
    if name == "digits":
        assert float(columns.abs().max()) == 1
    else:
        ones = torch.ones(data.n_features, dtype=torch.float64)
        torch.testing.assert_close(columns.var(0, correction=0), ones)


def test_no_two_sets_share_a_checksum():
    assert len({load_dataset(name).checksum for name in SETS}) == len(SETS)
