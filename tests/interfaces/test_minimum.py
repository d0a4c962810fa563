"""A fit that met its tolerance says so where there is no minimum, and only there."""

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from newton_krylov import NewtonKrylovClassifier, NewtonKrylovClassifierCV, NewtonKrylovRegressor


def recedes(signed: Any) -> bool:
    """Say by a linear program whether some p has signed p >= 0, not all of them 0.

    Of the rows y_i (x_i, 1) it is a direction in which classes are separated, in part or wholly
    (Albert and Anderson, "On the existence of maximum likelihood estimates in logistic regression
    models", 1984).
    """
    d = signed.shape[1]
    found = linprog(-signed.sum(0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=[(-1, 1)] * d)
    return bool(-found.fun > 1e-9)


def said(fit: Any) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit()
    texts = [str(each.message) for each in caught if each.category is ConvergenceWarning]
    return any("no minimum" in text or "grows without end" in text for text in texts)


@pytest.mark.parametrize("loss", ["logistic", "probit"])
@pytest.mark.parametrize("free", [False, True])
def test_two_classes_have_no_minimum_where_a_linear_program_separates_them(
    loss: str, free: bool
) -> None:
    model = NewtonKrylovClassifier(loss=loss, l2=0.0, penalize_intercept=not free)
    outcomes = set()
    for seed in range(24):
        draw = np.random.default_rng(seed)
        X = draw.normal(size=(14, 2))
        if seed % 3 == 0:  # a category of one class alone: separated in part
            X[:, 1] = np.arange(14) < 3
        y = (X[:, 0] + draw.normal(size=14) * (seed % 2) > 0).astype(int)
        y[:2] = 1
        y[-2:] = 0
        apart = recedes((2 * y - 1)[:, None] * np.column_stack([X, np.ones(14)]))
        assert said(lambda: model.fit(X, y)) == apart  # noqa: B023
        outcomes.add(apart)
    assert outcomes == {False, True}


def test_three_classes_in_a_row_have_no_minimum() -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(60, 2))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    model = NewtonKrylovClassifier(l2=0.0)
    assert said(lambda: model.fit(X, y))
    assert not said(lambda: model.fit(X, np.digitize(X[:, 0] + draw.normal(size=60), [-0.5, 0.5])))
    assert said(lambda: NewtonKrylovClassifierCV(lambdas=[0.0], cv=3).fit(X, y))


def test_a_class_without_weight_moves_a_free_intercept_alone() -> None:
    X = np.random.default_rng(0).normal(size=(40, 2))
    y = np.arange(40) % 2
    assert said(lambda: NewtonKrylovClassifier(penalize_intercept=False).fit(X, y, y))
    assert not said(lambda: NewtonKrylovClassifier().fit(X, y, y))


@pytest.mark.parametrize(
    ("loss", "options"),
    [("poisson", {}), ("tweedie", {"power": 1.5}), ("negative_binomial", {"theta": 2.0})],
)
def test_counts_that_are_all_0_send_a_weight_to_minus_infinity(loss: str, options: Any) -> None:
    draw = np.random.default_rng(0)
    kinds = np.repeat(["a", "b", "c", "d"], 15)[:, None]
    y = draw.poisson(2.0, 60).astype(float)
    with_none = np.where(kinds[:, 0] == "c", 0.0, y)

    def fit(y: Any, l2: float, v: Any = None) -> Any:
        model = make_pipeline(OneHotEncoder(), NewtonKrylovRegressor(loss, l2=l2, **options))
        name = "newtonkrylovregressor__sample_weight"
        return lambda: model.fit(kinds, y, **({} if v is None else {name: v}))

    assert said(fit(with_none, 0.0))
    assert said(fit(0 * y, 0.01))  # of the intercept, which no penalty holds
    assert said(fit(with_none, 0.01, np.where(kinds[:, 0] == "c", 1.0, 0.0)))
    assert not said(fit(y, 0.0))
    assert not said(fit(with_none, 0.01))


def test_a_column_without_a_penalty_that_separates() -> None:
    X = np.random.default_rng(0).normal(size=(40, 2))
    y = X[:, 0] > 0
    assert said(lambda: NewtonKrylovClassifier(penalty=[0, 1]).fit(X, y))
    assert not said(lambda: NewtonKrylovClassifier(penalty=[1, 0]).fit(X, y))


def test_hard_problems_with_a_minimum_are_not_taken_for_ones_without() -> None:
    """Dependent columns, rare events, units far apart, samples without weight that are apart."""
    draw = np.random.default_rng(0)
    X = draw.normal(size=(3000, 3)) * [1e-6, 1.0, 1e6]
    X = np.column_stack([X, X[:, 1], X[:, 0]])
    rare = (draw.random(3000) < 0.004).astype(float)
    v = np.ones(3000)
    X[:20], v[:20] = 1e8, 0.0
    for model in (
        NewtonKrylovClassifier(l2=0.0),
        NewtonKrylovClassifier(loss="probit", l2=0.0, penalize_intercept=False),
        NewtonKrylovRegressor("poisson", l2=0.0),
        NewtonKrylovRegressor("huber", l2=0.0),
        NewtonKrylovRegressor("least_squares", l2=0.0),
    ):
        assert not said(lambda: model.fit(X, rare, v))  # noqa: B023
