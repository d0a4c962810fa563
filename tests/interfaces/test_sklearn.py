"""The classifier: scikit-learn's own checks, and its `LogisticRegression`."""

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from problems import randn
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.estimator_checks import parametrize_with_checks

from newton_krylov import NewtonKrylovClassifier
from newton_krylov.errors import ConfigError

SOLVERS = ["cg", "cr", "gcr", "gmres", "minres", "minres_qlp", "exact"]


@parametrize_with_checks(
    [
        NewtonKrylovClassifier(),
        NewtonKrylovClassifier("exact", fit_intercept=False),
        NewtonKrylovClassifier("cr", preconditioner="jacobi"),
    ]
)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def data(classes: int, *, sparse: bool = False, dtype: Any = np.float64) -> tuple[Any, Any]:
    X, y = load_breast_cancer(return_X_y=True) if classes == 2 else load_iris(return_X_y=True)
    X = scale(X).astype(dtype)
    return (scipy.sparse.csr_array(X) if sparse else X), y


def theirs(X: Any, y: Any, l2: float, *, intercept: bool) -> LogisticRegression:
    """Their solution of our problem: the column of ones in the data, and C = 1 / (n l2)."""
    X = X.toarray() if scipy.sparse.issparse(X) else X
    X = np.concatenate([X, np.ones((len(X), 1))], axis=1) if intercept else X
    model = LogisticRegression(
        C=1 / (len(y) * l2), fit_intercept=False, tol=1e-10, max_iter=10_000, solver="newton-cg"
    )
    return model.fit(X, y)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_optimum_is_theirs(classes: int, sparse: bool, intercept: bool) -> None:
    X, y = data(classes, sparse=sparse)
    model = NewtonKrylovClassifier(l2=0.01, fit_intercept=intercept, tol=1e-10).fit(X, y)
    expected = theirs(X, y, 0.01, intercept=intercept)
    W = np.column_stack([model.coef_, model.intercept_]) if intercept else model.coef_
    if classes == 2:
        assert np.allclose(W, expected.coef_, rtol=1e-6, atol=1e-7)
    dense = X.toarray() if sparse else X
    padded = np.column_stack([dense, np.ones(len(dense))]) if intercept else dense
    assert np.allclose(model.predict_proba(X), expected.predict_proba(padded), atol=1e-7)
    assert np.array_equal(model.predict(X), expected.predict(padded))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_finds_it(solver: str, classes: int) -> None:
    X, y = data(classes)
    expected = NewtonKrylovClassifier("exact", tol=1e-10).fit(X, y)
    model = NewtonKrylovClassifier(solver, tol=1e-8).fit(X, y)
    assert np.allclose(model.coef_, expected.coef_, atol=1e-5)
    assert 1 <= model.n_iter_ < 20


@pytest.mark.parametrize("preconditioner", ["none", "jacobi", "nystrom"])
def test_every_preconditioner_finds_it(preconditioner: str) -> None:
    X, y = data(2)
    model = NewtonKrylovClassifier(preconditioner=preconditioner, tol=1e-8).fit(X, y)
    assert np.allclose(model.coef_, NewtonKrylovClassifier(tol=1e-8).fit(X, y).coef_, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sparse", [True, False])
def test_float32_stays(sparse: bool, classes: int) -> None:
    X, y = data(classes, sparse=sparse, dtype=np.float32)
    model = NewtonKrylovClassifier().fit(X, y)
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    assert model.decision_function(X).dtype == np.float32
    expected = NewtonKrylovClassifier().fit(data(classes)[0], y)
    assert np.allclose(model.coef_, expected.coef_, atol=1e-2)


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities(classes: int) -> None:
    X, y = data(classes)
    model = NewtonKrylovClassifier().fit(X, y)
    P = model.predict_proba(X)
    assert P.shape == (len(y), classes)
    assert np.allclose(P.sum(axis=1), 1)
    assert np.allclose(np.log(P), model.predict_log_proba(X))
    far = model.predict_log_proba(1e4 * X)
    assert np.isfinite(far).all()
    assert far.min() < -1000


def test_labels_may_be_anything() -> None:
    X, y = data(3)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = NewtonKrylovClassifier().fit(X, names)
    assert list(model.classes_) == ["setosa", "versicolor", "virginica"]
    assert model.score(X, names) > 0.9


def test_in_pipelines_searches_and_pickles() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), NewtonKrylovClassifier("cr"))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.95
    grid = GridSearchCV(model, {"newtonkrylovclassifier__l2": [1e-3, 1e-1]}, cv=2).fit(X, y)
    again = pickle.loads(pickle.dumps(grid.best_estimator_))
    assert np.array_equal(again.predict(X), grid.predict(X))


def test_the_same_data_give_the_same_model() -> None:
    X, y = data(2)
    models = [NewtonKrylovClassifier(preconditioner="nystrom").fit(X, y) for _ in range(2)]
    assert np.array_equal(models[0].coef_, models[1].coef_)


def test_the_data_are_not_changed() -> None:
    for sparse in (True, False):
        X, y = data(2, sparse=sparse)
        before = X.copy()
        NewtonKrylovClassifier().fit(X, y).predict(X)
        assert (before != X).sum() == 0


def test_many_features() -> None:
    X, y = load_digits(return_X_y=True)
    model = NewtonKrylovClassifier("minres", l2=1e-3).fit(X / 16, y)
    assert model.score(X / 16, y) > 0.95
    assert model.coef_.shape == (10, 64)


class TestStopping:
    def test_too_few_steps_warn(self) -> None:
        X, y = data(2)
        with pytest.warns(ConvergenceWarning, match="2 Newton steps left .* raise max_iter"):
            model = NewtonKrylovClassifier(max_iter=2).fit(X, y)
        assert model.n_iter_ == 2

    @pytest.mark.parametrize("tol", [0.0, 1e-30])
    def test_an_unreachable_tolerance_ends_at_rounding(self, tol: float) -> None:
        X, y = data(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = NewtonKrylovClassifier(tol=tol, max_iter=50).fit(X, y)
        assert np.allclose(model.coef_, NewtonKrylovClassifier(tol=1e-10).fit(X, y).coef_)

    def test_tighter_is_nearer(self) -> None:
        X, y = data(3)
        best = NewtonKrylovClassifier("exact", tol=1e-12).fit(X, y).coef_
        errors = [
            np.abs(NewtonKrylovClassifier(tol=tol).fit(X, y).coef_ - best).max()
            for tol in (1e-1, 1e-4, 1e-8)
        ]
        assert errors[2] < errors[1] < errors[0]

    def test_separable_data_without_a_regularizer(self) -> None:
        """The optimum is at infinity; the fit stops with a finite, right model."""
        X = randn(40, 3, seed=0).numpy()
        y = (X[:, 0] > 0).astype(int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = NewtonKrylovClassifier(l2=0.0).fit(X, y)
        assert np.isfinite(model.coef_).all()
        assert model.score(X, y) == 1.0


class TestMistakes:
    @pytest.mark.parametrize(
        ("parameters", "error", "message"),
        [
            ({"solver": "cgs"}, ConfigError, "solver=cgs is unknown.*did you mean 'cg'"),
            ({"preconditioner": "ilu"}, ConfigError, "preconditioner=ilu is unknown.*Choices"),
            ({"l2": -1}, ValueError, "l2 == -1, must be >= 0"),
            ({"tol": -1}, ValueError, "tol == -1, must be >= 0"),
            ({"max_iter": 0}, ValueError, "max_iter == 0, must be >= 1"),
            ({"max_iter": 2.5}, TypeError, "max_iter must be an instance of"),
        ],
    )
    def test_parameters(
        self, parameters: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            NewtonKrylovClassifier(**parameters).fit(*data(2))

    def test_data(self) -> None:
        X, y = data(2)
        with pytest.raises(ValueError, match="y has one class only"):
            NewtonKrylovClassifier().fit(X, np.zeros_like(y))
        with pytest.raises(ValueError, match="NaN"):
            NewtonKrylovClassifier().fit(np.where(X > 2, np.nan, X), y)
        with pytest.raises(ValueError, match="Unknown label type"):
            NewtonKrylovClassifier().fit(X, X[:, 0])
        with pytest.raises(NotFittedError):
            NewtonKrylovClassifier().predict(X)
        with pytest.raises(ValueError, match="features"):
            NewtonKrylovClassifier().fit(X, y).predict(X[:, :5])
