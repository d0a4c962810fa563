"""Measures of classifiers against scikit-learn's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import BY_NAME, make_dataset, randn
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from newton_krylov.objectives.classification import (
    area_under_curve,
    balanced_accuracy,
    unequal,
)
from newton_krylov.registry import entry


@given(st.integers(2, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_they_are_scikit_learns(n, seed, weighted):
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0, 1], rng.integers(0, 2, n)])
    scores = rng.integers(-3, 4, n + 2) / 2  # with ties
    weights = rng.random(n + 2) + 0.01 if weighted else None
    v = None if weights is None else torch.from_numpy(weights)
    Z, labels = torch.from_numpy(scores), torch.from_numpy(y)
    expected = roc_auc_score(y, scores, sample_weight=weights)
    assert area_under_curve(Z, labels, v) == pytest.approx(expected, abs=1e-12)
    expected = balanced_accuracy_score(y, scores > 0, sample_weight=weights)
    found = balanced_accuracy((Z > 0).long(), labels, v, 2)
    assert found == pytest.approx(expected, abs=1e-12)


def test_classes_are_unequal_from_twice_the_rarest():
    assert not unequal(torch.tensor([0, 1, 1, 0]), 2)
    assert unequal(torch.tensor([0, 1, 1]), 2)
    assert not unequal(torch.tensor([0, 0, 0]), 2)
    assert unequal(torch.tensor([0, 1, 2, 2]), 3)


@pytest.mark.parametrize("loss", ["logistic", "multinomial"])
def test_a_linear_model_gives_them_where_classes_are_unequal(loss):
    data = make_dataset(BY_NAME[loss].task, n=90)
    f = entry("loss", loss).target(data, l2=0.1)
    w, split = randn(f.dim, seed=1), data.train
    rare = torch.cat([(split.y == 1).nonzero()[:3], (split.y != 1).nonzero()]).flatten()
    part = type(split)(split.X[rare], split.y[rare])
    found = f.measures(w, part)
    Z = f.outputs_on(w, part)
    predicted = Z.argmax(1) if f.n_outputs > 1 else (Z > 0).long()
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(part.y, predicted))
    assert ("auc" in found) == (loss == "logistic")
    if loss == "logistic":
        assert found["auc"] == pytest.approx(roc_auc_score(part.y, Z))
