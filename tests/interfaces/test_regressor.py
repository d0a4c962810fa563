"""Regressors and cross-validated estimators: scikit-learn's checks, its models, paths."""

import contextlib
import pickle
import re
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.special
from problems import randn
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    ElasticNetCV,
    GammaRegressor,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.metrics import mean_poisson_deviance, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.estimator_checks import parametrize_with_checks

from newton_krylov import (
    NewtonKrylovClassifier,
    NewtonKrylovClassifierCV,
    NewtonKrylovRegressor,
    NewtonKrylovRegressorCV,
    path,
)
from newton_krylov.data import load_dataset
from newton_krylov.data.sparse import to_numpy
from newton_krylov.errors import ConfigError
from newton_krylov.interfaces.path import Problem


@parametrize_with_checks([NewtonKrylovRegressor(), NewtonKrylovRegressor("huber", l1=1e-4)])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [NewtonKrylovRegressorCV(lambdas=5, cv=3), NewtonKrylovClassifierCV(lambdas=5, cv=3)]
)
def test_scikit_learns_checks_of_cross_validation(estimator: Any, check: Any) -> None:
    check(estimator)


def counts(n: int = 300, d: int = 4) -> tuple[Any, Any]:
    X = randn(n, d, seed=1).numpy() * [1, 10, 0.01, 1]
    y = np.random.default_rng(2).poisson(np.exp(X @ [0.4, 0.03, 20, 0] + 0.5))
    return X, y.astype(float)


@pytest.mark.parametrize("sparse", [False, True])
def test_poisson_and_gamma_are_scikit_learns_whatever_the_units(sparse: bool) -> None:
    X, y = counts()
    v = np.random.default_rng(3).uniform(0, 2, len(y))
    given = scipy.sparse.csr_array(X) if sparse else X
    for loss, model, shift in [("poisson", PoissonRegressor, 0), ("gamma", GammaRegressor, 1)]:
        theirs = model(alpha=0.01, tol=1e-12, solver="newton-cholesky", max_iter=1000)
        theirs.fit(X, y + shift, v)
        ours = NewtonKrylovRegressor(loss, l2=0.01, tol=1e-10).fit(given, y + shift, v)
        assert np.allclose(ours.predict(given), theirs.predict(X), rtol=1e-7)
        assert ours.intercept_ == pytest.approx(theirs.intercept_, rel=1e-6)


def diabetes() -> tuple[Any, ...]:
    """Columns, targets, samples' weights and offsets without a draw."""
    X, y = load_diabetes(return_X_y=True)
    i = np.arange(len(y))
    return 10 * X[:, [2, 3, 8, 9]], y, 1.0 + i % 3, 0.3 * np.cos(i)


# statsmodels 0.15.0: sm.GLM(y, sm.add_constant(X), family=..., freq_weights=v, offset=o)
# .fit(tol=1e-14).params, with the link Log; Tweedie's var_power=1.5, and alpha=0.5 = 1 / theta.
STATSMODELS = {
    "poisson": [4.945109299, 0.3675819068, 0.1479949483, 0.3311474117, 0.06236373576],
    "gamma": [4.985806079, 0.3639898714, 0.1266540069, 0.3937923935, 0.01935639803],
    "tweedie": [4.965140141, 0.3662095735, 0.1380766539, 0.3636465527, 0.03979199748],
    "negative_binomial": [4.985204764, 0.3642535889, 0.1270314438, 0.3934242781, 0.01979936762],
}
# Of y > 140 without an offset, by the family Binomial and its link Probit.
PROBIT = [0.009031055257, 0.9678236681, 0.3989784901, 1.06710304, -0.0590560868]


# The same by InverseGaussian(Log()); Poisson with offset and exposure=1 + 0.5 sin(i);
# RLM(y, A, M=HuberT(t=1.345)).fit(update_scale=False) without weights, at its scale.
INVERSE_GAUSSIAN = [5.0263714441, 0.3598000348, 0.1064979122, 0.4318133459, -0.0068058006]
EXPOSED = [4.9434448769, 0.3722381054, 0.0896959123, 0.359318953, 0.0758770123]
HUBER = (
    58.96871021023474,
    [151.100401094, 60.2473953991, 26.2578127326, 55.0544898487, 1.65953767542],
)


def test_inverse_gaussian_exposure_and_huber_are_statsmodels() -> None:
    X, y, v, offset = diabetes()
    exposed = offset + np.log(1 + 0.5 * np.sin(np.arange(len(y))))
    for expected, loss, options, given in [
        (INVERSE_GAUSSIAN, "tweedie", {"power": 3.0}, (v, offset)),
        (EXPOSED, "poisson", {}, (v, exposed)),
        (HUBER[1], "huber", {"delta": 1.345 * HUBER[0]}, (None, None)),
    ]:
        model = NewtonKrylovRegressor(loss, l2=0.0, tol=1e-10, **options).fit(X, y, *given)
        assert np.allclose([model.intercept_, *model.coef_], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("loss", STATSMODELS)
def test_maximum_likelihood_is_statsmodels(loss: str) -> None:
    X, y, v, offset = diabetes()
    model = NewtonKrylovRegressor(loss, l2=0.0, theta=2.0, tol=1e-10).fit(X, y, v, offset)
    assert np.allclose([model.intercept_, *model.coef_], STATSMODELS[loss], rtol=1e-8)


def test_probit_is_statsmodels_alone_and_at_the_end_of_a_path() -> None:
    X, y, v, _ = diabetes()
    model = NewtonKrylovClassifier(loss="probit", l2=0.0, penalize_intercept=False, tol=1e-10)
    model.fit(X, y > 140, v)
    assert np.allclose([*model.intercept_, *model.coef_[0]], PROBIT, rtol=1e-8)
    Z = model.decision_function(X)
    assert np.allclose(model.predict_proba(X)[:, 1], scipy.special.ndtr(Z), rtol=1e-12)
    assert np.allclose(
        model.predict_log_proba(-9 * X)[:, 1],
        scipy.special.log_ndtr(model.decision_function(-9 * X)),
        rtol=1e-12,
    )
    chosen = NewtonKrylovClassifierCV(loss="probit", lambdas=[1e-1, 0.0], cv=3, tol=1e-10)
    chosen.fit(X, y > 140, v)
    assert chosen.lambda_ == 0 and np.allclose(chosen.coef_[0], PROBIT[1:], rtol=1e-8)
    with pytest.raises(ValueError, match="'probit' is of two classes, and y has 3"):
        model.fit(X, np.digitize(y, [100, 200]))


# glum 3.4.1: GeneralizedLinearRegressor(family=..., alpha=0.05, l1_ratio=0.4, P1=c, P2=c,
# gradient_tol=1e-12).fit(X, y, sample_weight=v, offset=o), the link log but of binomial.
GLUM = {
    "poisson": [0.367152296025, 0.148868763829, 0.32860419386, 0.063032648354, 4.94533490885],
    "gamma": [0.281708586637, 0.244214343055, 0.0902351232251, 0.0929207001734, 4.99295632728],
    "tweedie": [0.360709722942, 0.149113572469, 0.330446529934, 0.048885778809, 4.96658881807],
    "logistic": [0.710444576294, 1.23508751688, 0.144392048379, 0.249895938179, -0.0210071522707],
}
FACTORS = np.array([1.0, 0.0, 2.5, 0.5])


@pytest.mark.parametrize("loss", GLUM)
def test_an_elastic_net_with_a_factor_for_each_column_is_glums(loss: str) -> None:
    """With weights and offsets; to 1e-8 in the objective, whose certified gap is infinite."""
    X, y, v, offset = diabetes()
    y = (y > 140).astype(float) if loss == "logistic" else y
    found = path(
        X, y, loss=loss, l1_ratio=0.4, lambdas=[0.05], penalty=FACTORS, sample_weight=v,
        offset=offset, tol=1e-11,
    )  # fmt: skip

    def value(coef: Any, b: float) -> float:
        z = X @ coef + b + offset
        losses = {
            "poisson": np.exp(z) - y * z,
            "gamma": y * np.exp(-z) + z,
            "tweedie": 2 * y * np.exp(-z / 2) + 2 * np.exp(z / 2),
            "logistic": np.logaddexp(0, z) - y * z,
        }[loss]
        penalty = 0.3 * np.square(coef) + 0.4 * np.abs(coef)
        return float(np.average(losses, weights=v) + 0.05 * penalty @ FACTORS)

    ours = value(found.coef[0, 0], found.intercept[0, 0])
    assert abs(value(np.array(GLUM[loss][:4]), GLUM[loss][4]) - ours) <= 1e-8
    assert np.isinf(found.gaps[0])
    if loss != "logistic":
        one = NewtonKrylovRegressor(loss, l1=0.02, l2=0.03, penalty=FACTORS, tol=1e-11)
        assert np.allclose(one.fit(X, y, v, offset).coef_, found.coef[0, 0], atol=1e-8)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifiers_elastic_net_is_scikit_learns(classes: int) -> None:
    X = randn(150, 6, seed=1).numpy() * [1, 10, 0.1, 1, 1, 1]
    y = np.argmax(X[:, :classes] / [1, 10, 0.1][:classes] + randn(150, classes, seed=2).numpy(), 1)
    v = np.random.default_rng(3).uniform(0.2, 2, 150)
    ours = NewtonKrylovClassifier(l2=0.014, l1=0.006, penalize_intercept=False, tol=1e-11)
    ours.fit(X, y, v)
    theirs = LogisticRegression(
        C=1 / (v.sum() * 0.02), l1_ratio=0.3, solver="saga", tol=1e-10, max_iter=20_000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated keywords, and where it does not converge
        theirs.fit(X, y, v)

    def value(model: Any) -> float:
        losses = -model.predict_log_proba(X)[np.arange(150), y]
        penalty = 0.007 * np.square(model.coef_).sum() + 0.006 * np.abs(model.coef_).sum()
        return float(np.average(losses, weights=v) + penalty)

    assert -1e-13 <= value(theirs) - value(ours) <= 1e-8
    assert (ours.coef_ == 0).any()
    free = clone(ours).set_params(penalty=[0, 1, 1, 1, 1, 1]).fit(X, y, v)
    P = free.predict_proba(X) - np.eye(classes)[y]
    assert np.abs((v * X[:, 0]) @ P).max() / v.sum() < 1e-10  # as nothing holds that column


@pytest.mark.parametrize(
    ("loss", "ratio"),
    [("logistic", 0.0), ("logistic", 1.0), ("multinomial", 0.5), ("poisson", 0.0)],
)
def test_a_path_to_a_certified_gap(loss: str, ratio: float) -> None:
    """With weights and offsets: the gap asked for is met, and bounds what is left to gain."""
    X, y, v, offset = diabetes()
    y = {"logistic": y > 140, "multinomial": np.digitize(y, [100, 200]), "poisson": y}[loss]
    given: Any = {"sample_weight": v, "offset": None if loss == "multinomial" else offset}
    given |= {"loss": loss, "l1_ratio": ratio, "lambdas": 5, "eps": 1e-2}
    near, exact = path(X, y, gap=1e-4, **given), path(X, y, gap=1e-11, **given)
    assert near.converged.all() and (near.gaps <= 1e-4).all() and (exact.gaps <= 1e-11).all()
    assert near.steps.sum() < exact.steps.sum()

    def values(found: Any) -> Any:
        penalty = (1 - ratio) / 2 * np.square(found.coef) + ratio * np.abs(found.coef)
        return found.losses + found.lambdas * penalty.sum((1, 2))

    left = values(near) - values(exact)
    assert (left >= -1e-11).all() and (left <= near.gaps + 1e-13).all()


def test_folds_keep_their_offsets() -> None:
    """An exposure in cross-validation: the held-out losses are half of scikit-learn's deviances."""
    X, y, v, offset = diabetes()
    folds = KFold(3)
    model = NewtonKrylovRegressorCV("poisson", lambdas=[10.0, 0.1], cv=folds).fit(X, y, v, offset)
    for k, (train, held) in enumerate(folds.split(X)):
        one = NewtonKrylovRegressor("poisson", l2=10.0).fit(
            X[train], y[train], v[train], offset[train]
        )
        mean = one.predict(X[held]) * np.exp(offset[held])
        deviance = mean_poisson_deviance(y[held], mean, sample_weight=v[held])
        assert model.losses_[0, k] == pytest.approx(deviance / 2, rel=1e-7)
    again = NewtonKrylovRegressor("poisson", l2=model.lambda_).fit(X, y, v, offset)
    assert np.allclose(model.coef_, again.coef_, atol=1e-8)


@pytest.mark.parametrize("l1", [0.0, 0.01])
@pytest.mark.parametrize("loss", ["least_squares", "huber", "poisson", "negative_binomial"])
def test_a_weight_is_a_repetition_of_the_row(loss: str, l1: float) -> None:
    X, y, _, offset = diabetes()
    v = np.arange(len(y)) % 4
    model = NewtonKrylovRegressor(loss, l1=l1, tol=1e-10)
    weighted = clone(model).fit(X, y, v, offset)
    model.fit(*(np.repeat(part, v, axis=0) for part in (X, y)), offset=np.repeat(offset, v))
    assert np.allclose(weighted.coef_, model.coef_, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("penalty", [[1.0], [[1, 1, 1, 1]], [1, 1, 1, -1], [1, 1, 1, np.inf]])
def test_a_penalty_is_one_factor_of_each_column(penalty: Any) -> None:
    X, y = counts(n=50)
    shape = re.escape(str(np.shape(penalty)))
    for fit in (
        lambda: path(X, y, loss="poisson", penalty=penalty),
        lambda: NewtonKrylovRegressor(penalty=penalty).fit(X, y),
        lambda: NewtonKrylovClassifier(penalty=penalty).fit(X, y > 1),
        lambda: NewtonKrylovClassifierCV(penalty=penalty).fit(X, y > 1),
    ):
        with pytest.raises(ValueError, match=f"^penalty.*{shape}"):
            fit()


def test_in_pipelines_searches_and_pickles_with_routed_weights() -> None:
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    v = np.random.default_rng(0).uniform(0, 2, len(y))
    cv = NewtonKrylovRegressorCV("poisson", lambdas=2, cv=2)
    model = make_pipeline(StandardScaler(), cv).set_output(transform="pandas")
    assert cross_val_score(model, X, y, cv=2).min() > 0.3
    grid = {"newtonkrylovregressorcv__l1_ratio": [0.0, 1.0]}
    found = GridSearchCV(model, grid, cv=2).fit(X, y)
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.predict(X), found.predict(X))
    assert list(clone(model).fit(X, y)[-1].feature_names_in_) == list(X)
    with config_context(enable_metadata_routing=True):
        routed = clone(cv).set_fit_request(sample_weight=True, offset=True)
        routed.set_score_request(sample_weight=True, offset=True)
        chosen = GridSearchCV(routed, {"eps": [1e-2]}, cv=KFold(2)).fit(
            X, y, sample_weight=v, offset=np.log1p(v)
        )
    own = clone(routed).set_params(eps=1e-2).fit(X, y, v, np.log1p(v))
    assert np.array_equal(chosen.best_estimator_.coef_, own.coef_)
    classes = make_pipeline(StandardScaler(), NewtonKrylovClassifierCV(lambdas=2, cv=2))
    names = np.where(y > 140, "high", "low")
    assert cross_val_score(classes, X, names, cv=2, scoring="neg_log_loss").min() > -0.65


def test_an_offset_is_the_logarithm_of_an_exposure() -> None:
    X, _ = counts()
    e = np.random.default_rng(4).uniform(0.1, 5, len(X))
    y = np.random.default_rng(2).poisson(e * np.exp(X[:, 0] / 2)).astype(float)
    ours = NewtonKrylovRegressor("poisson", l2=0.01, tol=1e-10).fit(X, y, offset=np.log(e))
    theirs = PoissonRegressor(alpha=0.01 / e.mean(), tol=1e-12, solver="newton-cholesky")
    theirs.fit(X, y / e, sample_weight=e)
    assert np.allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)


def test_predictions_and_scores_know_the_offset() -> None:
    """A search judges counts by the means of their own exposures."""
    X, y, v, offset = diabetes()
    model = NewtonKrylovRegressor("poisson", l2=0.01).fit(X, y, v, offset)
    mean = np.exp(X @ model.coef_ + model.intercept_ + offset)
    assert np.allclose(model.predict(X, offset=offset), mean, rtol=1e-12)
    assert np.allclose(model.predict(X) * np.exp(offset), mean, rtol=1e-12)
    assert model.score(X, y, v, offset) == pytest.approx(r2_score(y, mean, sample_weight=v))
    assert model.score(X, y) == pytest.approx(r2_score(y, model.predict(X)))
    with pytest.raises(ValueError, match=r"^offset must be of shape"):
        model.predict(X, offset=offset[:3])
    with config_context(enable_metadata_routing=True):
        routed = clone(model).set_fit_request(sample_weight=True, offset=True)
        routed.set_score_request(sample_weight=True, offset=True).set_predict_request(offset=True)
        given = {"sample_weight": v, "offset": offset}
        found = GridSearchCV(routed, {"l2": [0.01]}, cv=KFold(3)).fit(X, y, **given)
        line = make_pipeline(StandardScaler(), routed).fit(X, y, offset=offset)
        of_line = line.predict(X, offset=offset)
    scores = []
    for train, part in KFold(3).split(X):
        one = clone(model).fit(X[train], y[train], v[train], offset[train])
        scores.append(one.score(X[part], y[part], v[part], offset[part]))
    assert found.best_score_ == pytest.approx(np.mean(scores))
    assert np.allclose(of_line, np.exp(offset) * line.predict(X), rtol=1e-12)


def test_groups_stay_together_in_folds() -> None:
    X, y, v, _ = diabetes()
    groups = np.arange(len(y)) % 7
    folds = list(GroupKFold(3).split(X, y, groups))
    for kind, targets in ((NewtonKrylovRegressorCV, y), (NewtonKrylovClassifierCV, y > 140)):
        ours = kind(lambdas=3, cv=GroupKFold(3)).fit(X, targets, v, groups=groups)
        theirs = kind(lambdas=3, cv=folds).fit(X, targets, v)
        assert np.array_equal(ours.losses_, theirs.losses_)
        with pytest.raises(ValueError, match="groups"):
            kind(cv=GroupKFold(3)).fit(X, targets)
        with pytest.raises(ValueError, match=r"^cv has no folds"):
            kind(lambdas=3, cv=[]).fit(X, targets)


@pytest.mark.parametrize(
    ("loss", "options", "offset"),
    [
        ("poisson", {}, 750.0),
        ("gamma", {}, -750.0),
        ("tweedie", {"power": 3.0}, -750.0),
        ("tweedie", {"power": 1.999}, -750.0),
    ],
)
def test_a_loss_that_overflows_where_the_fit_starts_is_refused(
    loss: str, options: Any, offset: float
) -> None:
    X, y = counts(n=40)
    model = NewtonKrylovRegressor(loss, fit_intercept=False, **options)
    with pytest.raises(
        ValueError, match=f"^loss='{loss}' is .* where the fit starts: .* is beyond float64"
    ):
        model.fit(X, y + 1, offset=np.full(40, offset))


def test_ridge_is_scikit_learns() -> None:
    X, y = load_diabetes(return_X_y=True)
    ours = NewtonKrylovRegressor(l2=0.001, tol=1e-11).fit(X, y)
    theirs = Ridge(alpha=0.001 * len(y)).fit(X, y)
    assert np.allclose(ours.predict(X), theirs.predict(X), rtol=1e-8)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("solver", ["minres_qlp", "lsmr", "lsqr", "qr"])
def test_dependent_columns_have_the_shortest_solution(
    shape: Any, intercept: bool, sparse: bool, solver: str
) -> None:
    """As numpy.linalg.lstsq's, of centred data where there is an intercept."""
    n, d = shape
    X = randn(n, 4, seed=1).numpy() @ randn(4, d, seed=2).numpy() + 1
    y = randn(n, seed=3).numpy()
    v = np.random.default_rng(4).integers(0, 3, n)
    model = NewtonKrylovRegressor(l2=0.0, solver=solver, fit_intercept=intercept)
    model.fit(scipy.sparse.csr_array(X) if sparse else X, y, v)
    Xr, yr = np.repeat(X, v, axis=0), np.repeat(y, v)
    Xc, yc = (Xr - Xr.mean(0), yr - yr.mean()) if intercept else (Xr, yr)
    assert np.allclose(model.coef_, np.linalg.lstsq(Xc, yc, rcond=1e-10)[0], atol=1e-12)
    level = yr.mean() - Xr.mean(0) @ model.coef_ if intercept else 0.0
    assert model.intercept_ == pytest.approx(level, abs=1e-12)


def test_solvers_of_least_squares_refuse_other_losses() -> None:
    X, y = counts()
    for model in (
        NewtonKrylovRegressor("poisson", l2=0, solver="lsmr"),
        NewtonKrylovRegressor(l2=0.1, solver="lsqr"),
    ):
        with pytest.raises(ValueError, match="solves least squares without a penalty"):
            model.fit(X, y)


@pytest.mark.parametrize(
    ("loss", "ratio"),
    [("logistic", 0.0), ("logistic", 1.0), ("multinomial", 0.5), ("poisson", 0.0)],
)
def test_a_path_is_its_single_fits_for_less(loss: str, ratio: float) -> None:
    if loss == "poisson":
        X, y = counts()
    else:
        X, y = (load_breast_cancer if loss == "logistic" else load_iris)(return_X_y=True)
    whole = path(X, y, loss=loss, l1_ratio=ratio, lambdas=20, eps=1e-3, tol=1e-9)
    assert whole.converged.all()
    assert (np.diff(whole.losses) < 1e-12).all()  # falls with the penalty
    passes = 0.0
    for k in range(0, 20, 4):
        single = path(X, y, loss=loss, l1_ratio=ratio, lambdas=[whole.lambdas[k]], tol=1e-9)
        assert np.allclose(single.coef[0], whole.coef[k], rtol=1e-4, atol=1e-6)
        passes += single.passes
    assert whole.passes < 4 * passes  # 20 for less than the price of 20


@pytest.mark.parametrize("name", ["breast_cancer", "a9a"])
def test_sixty_ridge_penalties_cost_less_than_six_cold_fits_of_the_smallest(name: str) -> None:
    """They start from the last ones' polynomial, with their matrix and their secants."""
    train = load_dataset(name, {}).train
    X = to_numpy(train.X)
    whole = path(X, train.y.numpy())
    single = path(X, train.y.numpy(), lambdas=[whole.lambdas[-1]])
    assert whole.converged.all() and single.converged.all()
    assert abs(whole.losses[-1] - single.losses[0]) < 1e-6
    assert whole.passes < 6 * single.passes


def test_the_largest_penalty_is_the_first_without_weights() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    found = path(X, y, l1_ratio=1.0, lambdas=5)
    assert not found.coef[0].any() and found.coef[1].any()
    below = path(X, y, l1_ratio=1.0, lambdas=[0.98 * found.lambdas[0]])
    assert (below.coef != 0).sum() == 1


def test_the_lasso_chosen_is_scikit_learns() -> None:
    X, y = load_diabetes(return_X_y=True)
    folds = KFold(4, shuffle=True, random_state=0)
    ours = NewtonKrylovRegressorCV(l1_ratio=1.0, lambdas=15, eps=1e-2, cv=folds, tol=1e-9).fit(X, y)
    theirs = ElasticNetCV(l1_ratio=1.0, alphas=ours.lambdas_, cv=folds, tol=1e-9).fit(X, y)
    assert ours.lambda_ == pytest.approx(theirs.alpha_)
    assert np.allclose(ours.coef_, theirs.coef_, atol=1e-3)
    assert np.allclose(2 * ours.losses_, theirs.mse_path_, rtol=1e-5)


def test_a_classifier_chooses_the_least_held_out_loss() -> None:
    X, y = load_iris(return_X_y=True)
    model = NewtonKrylovClassifierCV(lambdas=8, cv=StratifiedKFold(3)).fit(scale(X), y)
    assert model.losses_.shape == (8, 3)
    assert model.lambda_ == model.lambdas_[model.losses_.mean(1).argmin()]
    assert model.score(scale(X), y) > 0.95
    assert model.coef_.shape == (3, 4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"l1_ratio": 2.0}, "between 0 and 1"),
        ({"loss": "multinomial"}, "does not fit 2 classes; take 'logistic'"),
        ({"loss": "entropic_transport"}, "is not of a linear model"),
        ({"lambdas": [-1.0]}, "finite numbers of at least 0"),
    ],
)
def test_mistakes_are_one_sentence(options: Any, says: str) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    with pytest.raises((ValueError, ConfigError), match=says):
        path(X, y, **options)
    with pytest.raises(ValueError, match="not of a regression"):
        NewtonKrylovRegressor("logistic").fit(X, y)


def test_weights_whose_sum_overflows_are_refused() -> None:
    X, y = counts(n=50)
    for fit in (NewtonKrylovRegressor().fit, NewtonKrylovRegressorCV(cv=3).fit, path):
        with pytest.raises(ValueError, match="weights must have a positive, finite sum"):
            fit(X, y > 0, sample_weight=np.full(len(y), 1e307))


@pytest.mark.parametrize(
    "offset",
    [0.0, np.zeros(1), np.zeros(49), np.zeros((50, 1)), np.full(50, np.nan), np.full(50, -np.inf)],
)
def test_an_offset_is_one_finite_number_of_each_sample(offset: Any) -> None:
    X, y = counts(n=50)
    shape = re.escape(str(np.shape(offset)))
    for fit in (path, NewtonKrylovRegressor("least_squares").fit):
        with pytest.raises(ValueError, match=f"^offset.*{shape}"):
            fit(X, y > 0, offset=offset)


@pytest.mark.parametrize(
    "name, value",
    [
        *[("eps", bad) for bad in (0, 1, -1e-3, np.nan)],
        *[("tol", bad) for bad in (0, -1, np.nan, np.inf)],
        *[("max_iter", bad) for bad in (0, -1)],
        *[("lambdas", bad) for bad in (0, -3, np.int64(0), 2.5, True, [], [np.nan], [-1.0])],
        *[("lambdas", bad) for bad in ({0.1}, "few", ["a"], [1j], [10**400])],
    ],
)
def test_a_setting_of_a_path_that_means_nothing(name: str, value: Any) -> None:
    X, y = counts(n=50)
    for fit in (
        lambda **given: path(X, y, loss="least_squares", **given),
        lambda **given: NewtonKrylovRegressorCV(cv=3, **given).fit(X, y),
    ):
        with pytest.raises(ValueError, match=f"^{name} "):
            fit(**{name: value})


HARD = {
    "separable": lambda: (
        np.vstack([randn(20, 2, seed=k).numpy() + 20 * np.eye(3, 2)[k] for k in range(3)]),
        np.repeat([0, 1, 2], 20),
    ),
    "unscaled": lambda: load_wine(return_X_y=True),
    "wide": lambda: (randn(60, 90, seed=1).numpy(), np.arange(60) % 4),
}


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("name", HARD)
def test_a_multinomial_elastic_net_converges_where_others_do_not(name: str, ratio: float) -> None:
    """Classes that can be separated, unscaled columns and d > n, with hardly any penalty."""
    X, y = HARD[name]()
    found = path(X, y, loss="multinomial", l1_ratio=ratio, lambdas=[1e-4, 1e-6], tol=1e-9)
    assert found.converged.all()
    theirs = LogisticRegression(
        C=1e6 / len(y), l1_ratio=ratio, solver="saga", tol=1e-12, max_iter=500
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not converge
        theirs.fit(X, y)

    def value(coef: Any, b: Any) -> float:
        rows = np.arange(len(y))
        losses = -scipy.special.log_softmax(X @ coef.T + b, axis=1)[rows, y]
        penalty = (1 - ratio) / 2 * np.square(coef).sum() + ratio * np.abs(coef).sum()
        return float(losses.mean() + 1e-6 * penalty)

    ours = value(found.coef[1], found.intercept[1])
    assert ours <= value(theirs.coef_, theirs.intercept_) + 1e-12
    assert ours < 1e-3  # as all can be separated


@pytest.mark.parametrize(
    ("loss", "family"), [("poisson", "poisson"), ("gamma", "gamma"), ("logistic", "binomial")]
)
def test_an_elastic_net_is_glums(loss: str, family: str) -> None:
    """With sample weights, and an offset where both take one, to 1e-8 of the objective."""
    glum = pytest.importorskip("glum")
    X, y = counts(200)
    y = y + 1 if loss == "gamma" else (y > 1).astype(float) if loss == "logistic" else y
    v = np.random.default_rng(3).uniform(0.2, 2, len(y))
    offset = 0.3 * randn(len(y), seed=5).numpy()
    theirs = glum.GeneralizedLinearRegressor(
        family=family, alpha=0.02, l1_ratio=0.4, gradient_tol=1e-11, max_iter=2000
    ).fit(X, y, sample_weight=v, offset=offset)
    found = path(
        X, y, loss=loss, l1_ratio=0.4, lambdas=[0.02], sample_weight=v, offset=offset, tol=1e-12
    )

    def value(coef: Any, b: float) -> float:
        z = X @ coef + b + offset
        losses = {
            "poisson": np.exp(z) - y * z,
            "gamma": y * np.exp(-z) + z,
            "logistic": np.logaddexp(0, z) - y * z,
        }[loss]
        penalty = 0.3 * np.square(coef).sum() + 0.4 * np.abs(coef).sum()
        return float(np.average(losses, weights=v) + 0.02 * penalty)

    ours = value(found.coef[0, 0], found.intercept[0, 0])
    assert -1e-13 <= value(theirs.coef_, theirs.intercept_) - ours <= 1e-8


def test_folds_count_by_their_weight() -> None:
    """So that a sample of weight 0 is as good as left out, and a fold of such is refused."""
    X, y = counts(120)
    v = np.repeat([0.0, 1.0, 2.0, 5.0], 30)
    folds = [(np.delete(np.arange(120), held), held) for held in np.split(np.arange(120), 6)]
    settings: Any = {"lambdas": 4, "loss": "poisson"}
    with pytest.raises(ValueError, match="all 20 held-out samples of fold 1 have weight 0"):
        NewtonKrylovRegressorCV(cv=folds, **settings).fit(X, y, v)
    with pytest.raises(ValueError, match="all 30 training samples of fold 1 have weight 0"):
        NewtonKrylovRegressorCV(
            cv=[(np.arange(30), np.arange(30, 120)), *folds[2:]], **settings
        ).fit(X, y, v)
    found = NewtonKrylovRegressorCV(cv=folds[2:], **settings).fit(X, y, v)
    masses = [v[held].sum() for _, held in folds[2:]]
    mean = found.losses_ @ masses / sum(masses)
    assert found.lambda_ == found.lambdas_[np.argmin(mean)]
    kept = [(train[train >= 30] - 30, held - 30) for train, held in folds[2:]]
    kept = [(train, held[held >= 0]) for train, held in kept]
    without = NewtonKrylovRegressorCV(cv=kept, **settings).fit(X[30:], y[30:], v[30:])
    assert np.allclose(found.losses_, without.losses_, rtol=1e-7)


def test_entries_in_two_parts_are_their_sums() -> None:
    X = scipy.sparse.random_array((90, 7), density=0.4, rng=np.random.default_rng(0), format="csr")
    y = np.arange(90) % 2
    halves = (np.repeat(X.data, 2) * np.tile([3.0, -2.0], X.nnz), np.repeat(X.indices, 2))
    twice = scipy.sparse.csr_array((*halves, 2 * X.indptr), shape=X.shape)
    for model in (NewtonKrylovClassifier(), NewtonKrylovRegressor(), NewtonKrylovRegressorCV()):
        model.set_params(preconditioner="jacobi")
        wanted = clone(model).fit(X, y)
        assert np.allclose(model.fit(twice, y).coef_, wanted.coef_, rtol=1e-10)
    assert np.array_equal(twice.data, halves[0])


def test_the_number_of_penalties_may_be_numpy_s() -> None:
    X, y = counts(n=50)
    assert len(path(X, y, loss="least_squares", lambdas=np.int64(3)).lambdas) == 3


@pytest.mark.parametrize("loss", ["poisson", "gamma", "tweedie", "negative_binomial", "huber"])
@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_what_offsets_have_in_common_is_the_intercept_s(loss: str, shift: float) -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(60, 3))
    y, offset = draw.poisson(np.exp(X @ [0.5, -0.3, 0.2])) + 1.0, draw.normal(size=60)
    plain = NewtonKrylovRegressor(loss, l2=0.01).fit(X, y, offset=offset)
    moved = NewtonKrylovRegressor(loss, l2=0.01).fit(X, y, offset=offset + shift)
    assert np.allclose(moved.coef_, plain.coef_, rtol=0, atol=1e-9)
    assert abs(moved.intercept_ - (plain.intercept_ - shift)) < 1e-9


@pytest.mark.parametrize(("loss", "power"), [("gamma", 2.0), ("tweedie", 1.5), ("poisson", 1.0)])
def test_offsets_far_apart_are_scipys(loss: str, power: float) -> None:
    """The fit starts where the derivative by the intercept is 0, which overflows nowhere."""
    draw = np.random.default_rng(0)
    offset = np.where(draw.random(40) < 0.5, 20.0, -20.0)
    y = draw.gamma(2.0, size=40)
    model = NewtonKrylovRegressor(loss, l2=1.0).fit(np.zeros((40, 1)), y, offset=offset)
    first, second = np.log(y) + (1 - power) * offset, (2 - power) * offset
    expected = scipy.special.logsumexp(first) - scipy.special.logsumexp(second)
    assert abs(model.intercept_ - expected) < 1e-9 * abs(expected)


@pytest.mark.parametrize("power", [1.2, 1.5, 1.9])
def test_offsets_of_many_magnitudes_end_where_the_gradient_is_rounding(power: float) -> None:
    """Derivatives of 1e150 have rounding errors far above the tolerance."""
    draw = np.random.default_rng(0)
    offset = np.where(draw.random(40) < 0.5, 700.0, -700.0)
    X, y = draw.normal(size=(40, 2)), draw.gamma(2.0, size=40)
    model = NewtonKrylovRegressor("tweedie", power=power, l2=1e-3).fit(X, y, offset=offset)
    Z = X @ model.coef_ + model.intercept_ + offset
    up, down = np.exp((2 - power) * Z), y * np.exp((1 - power) * Z)
    assert model.n_iter_ < 50 and up.mean() > 1e35
    assert np.abs(np.column_stack([X, np.ones(40)]).T @ (up - down)).max() < 1e-11 * up.sum()


def test_targets_whose_squares_overflow_are_refused_or_fitted() -> None:
    X = randn(50, 2, seed=1).numpy()
    y = 1e200 * X[:, 0]
    with pytest.raises(ValueError, match="y has squares beyond the range of float64"):
        NewtonKrylovRegressor().fit(X, y)
    shortest = NewtonKrylovRegressor(l2=0.0, solver="lsmr").fit(X, y)
    assert np.allclose(shortest.coef_, [1e200, 0], atol=1e186)


@pytest.mark.parametrize(("loss", "size"), [("huber", 1e3), ("negative_binomial", 1e8)])
def test_large_targets_do_not_loosen_the_tolerance(loss: str, size: float) -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(80, 2))
    y = np.round(size * np.exp(X @ [0.5, -0.3] + 0.3 * draw.normal(size=80)))
    model = NewtonKrylovRegressor(loss, l2=1e-3, max_iter=1000).fit(X, y)
    Z = X @ model.coef_ + model.intercept_
    slopes = np.clip(Z - y, -1.35, 1.35) if loss == "huber" else 1 - (y + 1) / (1 + np.exp(Z))
    assert np.allclose(X.T @ slopes / 80 + 1e-3 * model.coef_, 0, atol=1e-6)
    assert abs(slopes.mean()) < 1e-6


def test_a_penalty_of_no_column_is_none() -> None:
    X, y = load_iris(return_X_y=True)
    found = path(X, y, loss="multinomial", lambdas=[1.0], l1_ratio=1.0, penalty=np.zeros(4))
    plain = path(X, y, loss="multinomial", lambdas=[0.0])
    assert found.converged[0] and abs(found.losses[0] - plain.losses[0]) < 1e-6


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"lambdas": [0.1, 0.0]}, "cannot be certified at a lambda of 0"),
        ({"lambdas": [0.0], "l1_ratio": 1.0}, "cannot be certified at a lambda of 0"),
        ({"lambdas": 3, "penalty": [1, 1, 0, 1]}, "nowhere, as a column is not penalized"),
        ({"lambdas": 3, "sample_weight": np.repeat([1, 1, 0], 50)}, "nowhere, as a class has no"),
    ],
)
def test_a_gap_that_nothing_certifies_is_refused_before_anything_is_fitted(
    words: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = load_iris(return_X_y=True)
    monkeypatch.delattr(Problem, "solve")
    with pytest.raises(ValueError, match=f"^gap.*{why}"):
        path(X, y, loss="multinomial", gap=1e-6, **words)


def test_a_penalty_given_twice_costs_no_step_and_spoils_no_guess() -> None:
    X, y = randn(200, 5, seed=1).numpy(), randn(200, seed=2).numpy()
    y = X[:, 0] - X[:, 1] + y > 0
    lambdas = np.geomspace(0.1, 0.01, 20)
    once, twice = path(X, y, lambdas=lambdas), path(X, y, lambdas=np.repeat(lambdas, 2))
    assert twice.steps.sum() <= once.steps.sum() + 2
    assert np.allclose(twice.losses[::2], once.losses, atol=1e-8)


def test_without_an_intercept_a_class_may_have_no_weight() -> None:
    X, y = load_iris(return_X_y=True)
    weights = np.repeat([1, 1, 0], 50)
    found = path(
        X, y, loss="multinomial", lambdas=[0.1], gap=1e-6, sample_weight=weights,
        fit_intercept=False,
    )  # fmt: skip
    assert found.gaps[0] <= 1e-6


@pytest.mark.parametrize(("loss", "ratio"), [("logistic", 1.0), ("poisson", 0.5), ("huber", 0.0)])
def test_a_certificate_costs_little_and_is_asked_for_once(
    loss: str, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A free intercept is moved to its best by outputs alone; how far it can be is known once."""
    X, y, v, _ = diabetes()
    y = {"logistic": y > 140, "poisson": y, "huber": y / 100}[loss]
    given: Any = {"loss": loss, "l1_ratio": ratio, "lambdas": 12, "eps": 1e-3, "sample_weight": v}
    costs, certify = [], Problem.gap_at

    def counted(problem: Problem, point: Any) -> float:
        with monkeypatch.context() as patch:
            patch.setattr(type(point.objective.counts), "paused", contextlib.nullcontext)
            before = point.objective.counts.passes
            found = certify(problem, point)
        costs.append(point.objective.counts.passes - before)
        return found

    monkeypatch.setattr(Problem, "gap_at", counted)
    path(X, y, **given)
    assert len(costs) == 12 and sorted(costs)[8] <= 0.5
    costs.clear()
    found = path(X, y, gap=1e-5, **given)
    assert len(costs) == found.steps.sum() + 12  # one of each point that was looked at


def test_a_gap_below_the_rounding_ends_with_a_sentence() -> None:
    X, y, *_ = diabetes()
    with pytest.warns(ConvergenceWarning, match=r"gap=1e-40 was not met at \d lambdas"):
        found = path(X, y, loss="poisson", l1_ratio=1.0, lambdas=3, eps=1e-2, gap=1e-40)
    assert not found.converged[1:].any() and found.steps.max() < 60
    assert (found.gaps < 1e-9).all()
