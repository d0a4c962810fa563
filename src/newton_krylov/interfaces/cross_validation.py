"""Estimators that choose their penalty by cross-validation along a regularization path."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import check_cv
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from newton_krylov.interfaces.minimum import warn_without_minimum
from newton_krylov.interfaces.path import Problem, check_settings, checked_offset, grid
from newton_krylov.interfaces.regressor import LinearRegressor, warn_unless_converged
from newton_krylov.interfaces.samples import features, plain, targets
from newton_krylov.interfaces.sklearn import LinearClassifier

_LAST = 1e-3
"""Share of the tolerance that the last fit is solved to: which path led to it must not show."""


class _CrossValidated(BaseEstimator):
    """Paths over the training part of each fold, judged by the mean loss of the held-out part."""

    lambdas: int | Sequence[float]
    l1_ratio: float
    eps: float
    cv: Any
    solver: str
    preconditioner: str
    fit_intercept: bool
    penalty: Any
    tol: float
    max_iter: int

    def _along_folds(
        self,
        X: Any,
        y: NDArray[Any],
        sample_weight: Any,
        loss: str,
        options: dict[str, float],
        classes: NDArray[Any] | None,
        offset: Any = None,
        groups: Any = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Choose the penalty; return the weights, shape (n_outputs, d), and the intercepts."""
        check_settings(self.l1_ratio, self.tol, self.max_iter)
        v = None
        if sample_weight is not None:
            v = _check_sample_weight(
                plain(sample_weight), X, dtype=np.float64, ensure_non_negative=True
            )
        shift = None if offset is None else checked_offset(offset, X.shape[0])

        def of(values: NDArray[Any] | None, rows: NDArray[Any] | slice) -> NDArray[Any] | None:
            return None if values is None else values[rows]

        def problem(rows: NDArray[Any] | slice) -> Problem:
            return Problem(
                X[rows], y[rows], loss=loss, options=options, offset=of(shift, rows),
                sample_weight=of(v, rows), intercept=self.fit_intercept, penalty=self.penalty,
                solver=self.solver, preconditioner=self.preconditioner, tol=self.tol,
                max_iter=self.max_iter, classes=classes,
            )  # fmt: skip

        whole = problem(slice(None))
        self.lambdas_ = grid(whole, self.lambdas, self.l1_ratio, self.eps)
        folds = check_cv(self.cv, y, classifier=classes is not None)
        losses, masses = [], []
        for number, (train, held) in enumerate(folds.split(X, y, plain(groups))):
            masses.append(1.0 if v is None else _mass(v, number, train, held))
            part = problem(train)
            losses.append(
                [
                    _loss(part, fit, X[held], y[held], of(v, held), of(shift, held))
                    for fit in part.along(self.lambdas_, self.l1_ratio)
                ]
            )
        if not losses:
            raise ValueError("cv has no folds")
        self.losses_ = np.array(losses).T
        mean = np.average(self.losses_, axis=1, weights=masses)
        best = int(np.argmin(np.where(np.isfinite(mean), mean, np.inf)))
        self.lambda_ = float(self.lambdas_[best])
        *_, found = whole.along(self.lambdas_[: best + 1], self.l1_ratio)
        whole.tol *= _LAST
        last = whole.solve(found.point)
        met = whole.meets(self.tol, last.point, last.size)
        warn_unless_converged(met, last.size, self.tol)
        if met:
            warn_without_minimum(last.point, free_intercept=self.fit_intercept)
        self.n_iter_ = max(found.steps + last.steps, 1)
        return whole.back(last.point.w)


def _mass(v: NDArray[np.float64], number: int, train: NDArray[Any], held: NDArray[Any]) -> float:
    """Return the weight of a fold's held-out samples; refuse a fold with a part that has none."""
    for name, part in (("training", train), ("held-out", held)):
        if not v[part].any():
            raise ValueError(
                f"all {len(part)} {name} samples of fold {number + 1} have weight 0: give cv folds "
                f"with a positive weight in both parts, or leave these samples out"
            )
    return float(v[held].sum())


def _loss(
    problem: Problem,
    fit: Any,
    X: Any,
    y: NDArray[Any],
    v: NDArray[Any] | None,
    offset: NDArray[Any] | None,
) -> float:
    """Return the mean loss of held-out samples."""
    f = problem.objective
    coef, intercept = problem.back(fit.point.w)
    outputs = safe_sparse_dot(X, coef.T, dense_output=True) + intercept
    Z = torch.from_numpy(outputs if offset is None else outputs + offset[:, None]).to(f.dtype)
    if problem.classes is not None:
        targets = torch.from_numpy(np.searchsorted(problem.classes, y))
    else:
        targets = torch.from_numpy(np.asarray(y, dtype=np.float64))
    weights = None if v is None else torch.from_numpy(v * (len(v) / v.sum())).to(f.dtype)
    encoded = f._encode(targets)
    return float(f.terms(Z if f.n_outputs > 1 else Z[:, 0], encoded, weights).value)


class NewtonKrylovRegressorCV(_CrossValidated, LinearRegressor):
    """A generalized linear model whose penalty is chosen by cross-validation.

    Minimizes the weighted mean loss plus lambda ((1 - r)/2 |w|^2 + r |w|_1), r the `l1_ratio`;
    lambda has the least mean loss of held-out samples along the path.

    Parameters
    ----------
    loss : str
        A loss of a regression as registered: `"least_squares"`, `"huber"`, `"poisson"`, `"gamma"`,
        `"tweedie"` or `"negative_binomial"`.
    lambdas, l1_ratio, eps, solver, preconditioner, fit_intercept, penalty, tol, max_iter
        As in `newton_krylov.path`.
    cv : int, splitter or iterable, optional
        The folds, as scikit-learn takes them; five by default.
    power, theta, delta : float
        Of the Tweedie, the negative binomial and Huber's loss.

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,)
        Weights.
    intercept_ : float
        Intercept.
    lambda_ : float
        The penalty chosen.
    lambdas_ : ndarray, shape (k,)
        Those tried, falling.
    losses_ : ndarray, shape (k, n_folds)
        Mean losses of each fold's held-out samples; folds count by their weight.
    n_iter_ : int
        Newton steps of the last fit.
    n_features_in_ : int
        Columns of the data seen.
    feature_names_in_ : ndarray, shape (n_features,)
        Names of the features, where the data had any.
    """

    def __init__(
        self,
        loss: str = "least_squares",
        *,
        lambdas: int | Sequence[float] = 30,
        l1_ratio: float = 0.0,
        eps: float = 1e-4,
        cv: Any = None,
        solver: str = "cg",
        preconditioner: str = "auto",
        fit_intercept: bool = True,
        penalty: Any = None,
        tol: float = 1e-8,
        max_iter: int = 100,
        power: float = 1.5,
        theta: float = 1.0,
        delta: float = 1.35,
    ) -> None:
        self.loss = loss
        self.lambdas = lambdas
        self.l1_ratio = l1_ratio
        self.eps = eps
        self.cv = cv
        self.solver = solver
        self.preconditioner = preconditioner
        self.fit_intercept = fit_intercept
        self.penalty = penalty
        self.tol = tol
        self.max_iter = max_iter
        self.power = power
        self.theta = theta
        self.delta = delta

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, groups: Any = None
    ) -> Self:
        """Choose the penalty and fit the model.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.
        y : array, shape (n_samples,)
            Targets.
        sample_weight : array, shape (n_samples,), optional
            How often each sample counts, >= 0.
        offset : array, shape (n_samples,), optional
            Added to each sample's output and not fitted: the logarithm of an exposure, say.
        groups : array, shape (n_samples,), optional
            What a `cv` such as `GroupKFold` keeps together.

        Returns
        -------
        NewtonKrylovRegressorCV
            Itself.
        """
        self._check_loss()
        X, y = validate_data(
            self, features(X), targets(y, numeric=True), accept_sparse="csr",
            dtype=[np.float64, np.float32], y_numeric=True,
        )  # fmt: skip
        options = self._options()
        coef, intercept = self._along_folds(
            X, y, sample_weight, self.loss, options, None, offset, groups
        )
        self.coef_, self.intercept_ = coef[0].astype(X.dtype), float(intercept[0])
        return self


class NewtonKrylovClassifierCV(_CrossValidated, LinearClassifier):
    """Logistic or probit regression whose penalty is chosen by cross-validation.

    Minimizes the weighted mean of -log p(y_i | x_i) plus lambda ((1 - r)/2 |w|^2 + r |w|_1), r the
    `l1_ratio`; lambda has the least mean loss of held-out samples along the path. The intercept is
    not penalized.

    Parameters
    ----------
    lambdas, l1_ratio, eps, solver, preconditioner, fit_intercept, penalty, tol, max_iter
        As in `newton_krylov.path`.
    cv : int, splitter or iterable, optional
        The folds, as scikit-learn takes them; five stratified ones by default.
    loss : {"logistic", "probit"}
        `logistic` is softmax regression where there are more than two classes; `probit` is of two.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels, sorted.
    coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
        Weights.
    intercept_ : ndarray, shape (1,) or (n_classes,)
        Intercepts.
    lambda_ : float
        The penalty chosen.
    lambdas_ : ndarray, shape (k,)
        Those tried, falling.
    losses_ : ndarray, shape (k, n_folds)
        Mean losses of each fold's held-out samples; folds count by their weight.
    n_iter_ : int
        Newton steps of the last fit.
    n_features_in_ : int
        Columns of the data seen.
    feature_names_in_ : ndarray, shape (n_features,)
        Names of the features, where the data had any.
    """

    def __init__(
        self,
        *,
        lambdas: int | Sequence[float] = 30,
        l1_ratio: float = 0.0,
        eps: float = 1e-4,
        cv: Any = None,
        solver: str = "cg",
        preconditioner: str = "auto",
        fit_intercept: bool = True,
        penalty: Any = None,
        tol: float = 1e-8,
        max_iter: int = 100,
        loss: str = "logistic",
    ) -> None:
        self.lambdas = lambdas
        self.l1_ratio = l1_ratio
        self.eps = eps
        self.cv = cv
        self.solver = solver
        self.preconditioner = preconditioner
        self.fit_intercept = fit_intercept
        self.penalty = penalty
        self.tol = tol
        self.max_iter = max_iter
        self.loss = loss

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Choose the penalty and fit the model.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.
        y : array, shape (n_samples,)
            Labels of at least two classes.
        sample_weight : array, shape (n_samples,), optional
            How often each sample counts, >= 0.
        groups : array, shape (n_samples,), optional
            What a `cv` such as `GroupKFold` keeps together.

        Returns
        -------
        NewtonKrylovClassifierCV
            Itself.
        """
        X, y = validate_data(
            self, features(X), targets(y), accept_sparse="csr", dtype=[np.float64, np.float32]
        )
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        self._check_loss()
        loss = self.loss if len(self.classes_) <= 2 else "multinomial"
        coef, intercept = self._along_folds(
            X, y, sample_weight, loss, {}, self.classes_, groups=groups
        )
        self.coef_, self.intercept_ = coef.astype(X.dtype), intercept.astype(X.dtype)
        return self
