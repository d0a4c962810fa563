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


def not_to_be_had(estimator: Any) -> dict[str, str]:
    """A check that no linear model through the origin passes, scikit-learn's own included."""
    if estimator.fit_intercept:
        return {}
    return {"check_class_weight_classifiers": "a line through the origin halves the samples"}


@parametrize_with_checks(
    [
        NewtonKrylovClassifier(),
        NewtonKrylovClassifier("exact", fit_intercept=False),
        NewtonKrylovClassifier("cr", preconditioner="jacobi"),
        NewtonKrylovClassifier("exact", penalize_intercept=False),
    ],
    expected_failed_checks=not_to_be_had,
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


def test_a_sparse_matrix_in_read_only_memory_is_neither_sorted_nor_refused() -> None:
    X, y = data(2)
    X = scipy.sparse.csr_array(np.where(np.abs(X) > 1, X, 0))
    for i in range(X.shape[0]):
        row = slice(X.indptr[i], X.indptr[i + 1])
        X.indices[row], X.data[row] = X.indices[row][::-1].copy(), X.data[row][::-1].copy()
    X.has_sorted_indices = False
    before = [part.copy() for part in (X.data, X.indices, X.indptr)]
    for part in (X.data, X.indices, X.indptr):
        part.flags.writeable = False
    model = NewtonKrylovClassifier().fit(X, y)
    for part, copy in zip((X.data, X.indices, X.indptr), before, strict=True):
        assert np.array_equal(part, copy)
    assert np.allclose(model.coef_, NewtonKrylovClassifier().fit(X.toarray(), y).coef_, atol=1e-5)


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


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_without_its_penalty_the_intercept_is_theirs(
    solver: str, sparse: bool, classes: int
) -> None:
    X, y = data(classes, sparse=sparse)
    X = X + scipy.sparse.csr_array(np.full(X.shape, 0.7)) if sparse else X + 0.7
    model = NewtonKrylovClassifier(solver, penalize_intercept=False, tol=1e-9).fit(X, y)
    expected = LogisticRegression(C=1 / (len(y) * 0.01), tol=1e-12, max_iter=10_000).fit(X, y)
    assert np.allclose(model.coef_, expected.coef_, atol=2e-5)
    assert np.allclose(model.intercept_, expected.intercept_, atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"penalize_intercept": False}, {"fit_intercept": False}])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_weight_is_a_repetition_of_the_row(
    sparse: bool, classes: int, options: dict[str, Any]
) -> None:
    X, y = data(classes, sparse=sparse)
    times = np.random.default_rng(0).integers(0, 4, len(y))
    rows = np.repeat(np.arange(len(y)), times)
    model = NewtonKrylovClassifier(tol=1e-10, **options)
    weighted = model.fit(X, y, sample_weight=times).coef_
    assert np.allclose(weighted, model.fit(X[rows], y[rows]).coef_, atol=1e-7)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 1: 0.5, 2: 1.0}])
@pytest.mark.parametrize("classes", [2, 3])
def test_class_weights_are_theirs(classes: int, class_weight: Any) -> None:
    X, y = data(classes)
    if isinstance(class_weight, dict):
        class_weight = {k: v for k, v in class_weight.items() if k < classes}
    weight = np.random.default_rng(1).random(len(y))
    options: dict[str, Any] = {"class_weight": class_weight, "tol": 1e-10}
    model = NewtonKrylovClassifier(penalize_intercept=False, **options)
    model.fit(X, y, sample_weight=weight)
    factors = {0: 1.0, 1: 1.0, 2: 1.0} if class_weight == "balanced" else class_weight
    if class_weight == "balanced":
        sums = np.bincount(y, weight)
        factors = dict(enumerate(weight.sum() / (len(sums) * sums)))
    total = sum(weight[i] * factors[y[i]] for i in range(len(y)))
    theirs = LogisticRegression(C=1 / (total * 0.01), max_iter=10_000, **options)
    theirs.fit(X, y, sample_weight=weight)
    assert np.allclose(model.coef_, theirs.coef_, atol=1e-5)


def test_a_warm_start_goes_on() -> None:
    X, y = data(3)
    for options in ({}, {"penalize_intercept": False}):
        model = NewtonKrylovClassifier(warm_start=True, **options).fit(X, y)
        first = model.coef_
        assert model.fit(X, y).n_iter_ == 1
        assert np.allclose(model.coef_, first, atol=1e-5)
        cold = NewtonKrylovClassifier(l2=0.011, tol=1e-10, **options).fit(X, y)
        warm = model.set_params(l2=0.011, tol=1e-10).fit(X, y)
        assert np.allclose(warm.coef_, cold.coef_, atol=1e-7)
        assert warm.n_iter_ < cold.n_iter_
        with pytest.raises(ValueError, match="goes on from 4 features, and X has 3"):
            model.fit(X[:, :3], y)


class TestUnits:
    """A column's unit and zero change neither the answer nor where the fit ends."""

    @staticmethod
    def loss(model: Any, X: Any, y: Any) -> float:
        Z = X @ model.coef_[0] + model.intercept_[0]
        return float(np.logaddexp(0, -(2 * y - 1) * Z).mean())

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("unit", [1e-200, 1e-30, 1e-6, 1e6, 1e30, 1e200])
    def test_a_unit(self, solver: str, unit: float) -> None:
        """Where the penalty is small enough, or the unit large enough, not to matter."""
        X, y = data(2)
        units = np.where(np.arange(X.shape[1]) % 2, 1.0, unit)
        l2 = 0.0 if unit < 1 else 1e-3
        if unit < 1:  # without a penalty the data must not be separable
            X, y = X[:, :4], (X[:, 1] + randn(len(y), seed=1).numpy() > 0).astype(int)
            units = units[:4]
        model = NewtonKrylovClassifier(solver, l2=l2).fit(X * units, y)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isfinite(model.coef_).all()
            assert model.score(X * units, y) > 0.7
        if unit < 1:
            expected = NewtonKrylovClassifier(solver, l2=0.0).fit(X, y)
            assert np.allclose(model.coef_ * units, expected.coef_, atol=1e-4)

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("offset", [0.0, 30.0, 1e4])
    @pytest.mark.parametrize("penalize", [True, False])
    def test_an_offset_ends_at_the_optimum_or_warns(
        self, solver: str, offset: float, penalize: bool
    ) -> None:
        """Kelvin for Celsius, a year, a time stamp."""
        rng = np.random.default_rng(0)
        Z = rng.standard_normal((400, 3))
        y = (Z[:, 0] + 0.5 * Z[:, 1] + rng.logistic(size=400) > 0).astype(int)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = NewtonKrylovClassifier(solver, l2=1e-8, penalize_intercept=penalize)
            model.fit(Z + offset, y)
        reference = NewtonKrylovClassifier("exact", l2=1e-8, penalize_intercept=False).fit(Z, y)
        reference.intercept_ -= offset * reference.coef_.sum()

        def value(m: NewtonKrylovClassifier) -> float:
            w = np.append(m.coef_[0], m.intercept_ if penalize else 0.0)
            return self.loss(m, Z + offset, y) + 1e-8 / 2 * float(w @ w)

        reported = any(issubclass(one.category, ConvergenceWarning) for one in said)
        assert value(model) <= value(reference) + 1e-6 or reported
        if not penalize:
            assert not reported

    def test_huge_columns_of_single_precision(self) -> None:
        X = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32) * np.float32(1e30)
        y = (X[:, 0] > 0).astype(int)
        for solver in SOLVERS:
            model = NewtonKrylovClassifier(solver, l2=1e-3).fit(X, y)
            assert model.coef_.dtype == np.float32
            assert model.score(X, y) > 0.9


class TestStopping:
    def test_rounding_that_ends_a_fit_early_is_told(self) -> None:
        X, y = data(2, dtype=np.float32)
        X = X + np.float32(1e5)  # a hundredth of the deviation is left
        with pytest.warns(ConvergenceWarning, match="above tol=1e-06"):
            NewtonKrylovClassifier(l2=0.0, max_iter=20).fit(X, y)

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
            ({"l2": np.nan}, ValueError, "l2 == nan, must be a finite number"),
            ({"l2": np.inf}, ValueError, "l2 == inf, must be a finite number"),
            ({"tol": np.nan}, ValueError, "tol == nan, must be a finite number"),
            ({"max_iter": 0}, ValueError, "max_iter == 0, must be >= 1"),
            ({"max_iter": 2.5}, TypeError, "max_iter must be an instance of"),
        ],
    )
    def test_parameters(
        self, parameters: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            NewtonKrylovClassifier(**parameters).fit(*data(2))

    def test_weights(self) -> None:
        X, y = data(2)
        for weights, message in (
            (np.zeros(len(y)), "at least one non-zero"),
            (np.full(len(y), 1e308), "a positive, finite sum"),
            (-np.ones(len(y)), "Negative values"),
            (np.ones(3), "shape"),
        ):
            with pytest.raises(ValueError, match=message):
                NewtonKrylovClassifier().fit(X, y, sample_weight=weights)
        with pytest.raises(ValueError, match="class_weight must be factors of at least 0"):
            NewtonKrylovClassifier(class_weight={0: -1.0, 1: 1.0}).fit(X, y)

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
