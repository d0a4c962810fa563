"""Newton-Krylov logistic regression as a scikit-learn classifier."""

import math
import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.data.dataset import Split, Table
from newton_krylov.interfaces.columns import Columns, checked_penalty, of_mean_one
from newton_krylov.interfaces.minimum import warn_without_minimum
from newton_krylov.interfaces.parts import named
from newton_krylov.interfaces.samples import features, plain, targets
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.objectives.logistic import Logistic
from newton_krylov.objectives.multinomial import Multinomial
from newton_krylov.objectives.probit import Probit
from newton_krylov.optimizers.damping import Fixed
from newton_krylov.optimizers.forcing import superlinear
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.newton import on_all_samples
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.proximal_newton import ProximalNewton

_DISTRIBUTIONS: dict[str, tuple[Any, Any]] = {
    "logistic": (scipy.special.expit, scipy.special.log_expit),
    "probit": (scipy.special.ndtr, scipy.special.log_ndtr),
}
"""The probability of the second of two classes as a function of the output, and its logarithm."""


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """What the classifiers share: outputs, probabilities and labels of a fitted linear model."""

    loss: str
    classes_: NDArray[Any]
    coef_: NDArray[Any]
    intercept_: NDArray[Any]

    def _check_loss(self) -> None:
        if self.loss not in _DISTRIBUTIONS:
            raise ValueError(f"loss == {self.loss!r}, must be one of {', '.join(_DISTRIBUTIONS)}")
        if self.loss == "probit" and len(self.classes_) > 2:
            raise ValueError(
                f"loss == 'probit' is of two classes, and y has {len(self.classes_)}: take "
                f"loss='logistic'"
            )

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the model's outputs.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples,) or (n_samples, n_classes)
            The logarithm of the second class's odds (the normal quantile of its probability, of
            `loss="probit"`), or one logit for each class.
        """
        check_is_fitted(self)
        X = validate_data(
            self, features(X), accept_sparse="csr", dtype=[np.float64, np.float32], reset=False
        )
        Z: NDArray[np.floating[Any]] = safe_sparse_dot(X, self.coef_.T, dense_output=True)
        Z = Z + self.intercept_
        return Z.ravel() if Z.shape[1] == 1 else Z

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the probability of each class.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        Z = self.decision_function(X)
        if Z.ndim == 1:
            share, _ = _DISTRIBUTIONS[self.loss]
            return np.stack([share(-Z), share(Z)], axis=1)
        probabilities: NDArray[np.floating[Any]] = scipy.special.softmax(Z, axis=1)
        return probabilities

    def predict_log_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the logarithm of `predict_proba`, without its underflow.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        Z = self.decision_function(X)
        if Z.ndim == 1:
            _, logarithm = _DISTRIBUTIONS[self.loss]
            return np.stack([logarithm(-Z), logarithm(Z)], axis=1)
        logarithms: NDArray[np.floating[Any]] = scipy.special.log_softmax(Z, axis=1)
        return logarithms

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples,)
            Labels, of `classes_`.
        """
        Z = self.decision_function(X)
        index = (Z > 0).astype(int) if Z.ndim == 1 else Z.argmax(axis=1)
        labels: NDArray[Any] = self.classes_[index]
        return labels

    def __sklearn_tags__(self) -> Any:
        """Say that sparse data are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class NewtonKrylovClassifier(LinearClassifier):
    """Logistic regression, binary or multinomial, or probit regression, by Newton-Krylov.

    Minimizes the weighted mean of -log p(y_i | x_i) plus sum_j c_j (l2/2 w_j^2 + l1 |w_j|) by the
    inexact Newton method (with l1 the proximal one) with Armijo's line search; Hessians are touched
    by products only. Two classes make one weight vector, more make one for each (the softmax). The
    columns are scaled before the solve and the weights back after it, so a column's unit changes
    neither the path nor where it ends; what is minimized is the function of the weights as given.

    Parameters
    ----------
    solver : str
        Solver of the Newton system: `"cg"`, `"cr"`, `"gcr"`, `"gmres"`, `"minres"`, `"minres_qlp"`
        or `"exact"`.
    preconditioner : str
        `"none"`, `"jacobi"` or `"nystrom"`.
    l2 : float
        The factor lambda >= 0; scikit-learn's `LogisticRegression` has C = 1 / (n l2), with n the
        sum of the samples' weights.
    l1 : float
        The factor >= 0 of the L1 term; scikit-learn's `l1_ratio` is l1 / (l1 + l2).
    penalty : array, shape (n_features,), optional
        The columns' own factors c_j >= 0 of both terms, 0 for one that is not penalized; 1 by
        default.
    loss : {"logistic", "probit"}
        `probit` is of two classes.
    fit_intercept : bool
        Whether the model has an intercept.
    penalize_intercept : bool
        Whether the penalty contains the intercept, as that of a column of ones does (scikit-learn's
        `liblinear`); `False` is what scikit-learn's `LogisticRegression` minimizes otherwise.
    class_weight : dict, "balanced" or None
        Factors of the samples' weights by class, as in `LogisticRegression`.
    tol : float
        Stop where no entry of the gradient is larger, by weights of columns that are centred (where
        there is an intercept) and of standard deviation 1: as with scikit-learn's solvers, but
        whatever the columns' units are.
    max_iter : int
        Limit of Newton steps; ending before `tol` is met gives a `ConvergenceWarning`.
    warm_start : bool
        Whether `fit` begins with the weights of the last one.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels, sorted.
    coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
        Weights.
    intercept_ : ndarray, shape (1,) or (n_classes,)
        Intercepts; zero without `fit_intercept`.
    n_iter_ : ndarray, shape (1,)
        Newton steps taken.
    n_features_in_ : int
        Columns of the data seen.
    feature_names_in_ : ndarray, shape (n_features,)
        Names of the features, where the data had any.

    Examples
    --------
    >>> from newton_krylov import NewtonKrylovClassifier
    >>> from sklearn.datasets import load_breast_cancer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = NewtonKrylovClassifier(solver="cr", l2=1e-4).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    """

    def __init__(
        self,
        solver: str = "cg",
        *,
        preconditioner: str = "none",
        l2: float = 0.01,
        l1: float = 0.0,
        penalty: Any = None,
        loss: str = "logistic",
        fit_intercept: bool = True,
        penalize_intercept: bool = True,
        class_weight: Any = None,
        tol: float = 1e-6,
        max_iter: int = 100,
        warm_start: bool = False,
    ) -> None:
        self.solver = solver
        self.preconditioner = preconditioner
        self.l2 = l2
        self.l1 = l1
        self.penalty = penalty
        self.loss = loss
        self.fit_intercept = fit_intercept
        self.penalize_intercept = penalize_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            float32 and float64 are kept, anything else becomes float64; never changed.
        y : array, shape (n_samples,)
            Labels of at least two classes.
        sample_weight : array, shape (n_samples,), optional
            How often each sample counts, >= 0.

        Returns
        -------
        NewtonKrylovClassifier
            Itself.

        Raises
        ------
        ValueError
            If a parameter or the data are not as said.
        """
        self._check_parameters()
        newton = self._newton()
        before = self._before()
        X, y = validate_data(
            self, features(X), targets(y), accept_sparse="csr", dtype=[np.float64, np.float32]
        )
        check_classification_targets(y)
        weights = self._weights(X, y, sample_weight)
        self.classes_, y = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has one class only, {self.classes_[0]}: a classifier needs two or more"
            )
        self._check_loss()
        free = self.fit_intercept and not self.penalize_intercept
        columns = Columns.of(X, weights, self.l2, centred=free, intercept=self.fit_intercept)
        objective = self._objective(columns.scaled(X), y, weights, columns)
        start = self._start(before, columns, objective.n_outputs)
        W = self._minimize(newton, objective, columns, start)
        self.coef_, self.intercept_ = (part.astype(X.dtype) for part in columns.back(W))
        return self

    def _check_parameters(self) -> None:
        for name in ("l2", "l1", "tol"):
            check_scalar(getattr(self, name), name, Real, min_val=0)
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} == {getattr(self, name)}, must be a finite number")
        check_scalar(self.max_iter, "max_iter", Integral, min_val=1)

    def _newton(self) -> NewtonStep:
        return NewtonStep(
            named("solver", self.solver).build({}),
            HessianProduct(),
            armijo,
            superlinear,
            named("preconditioner", self.preconditioner).build({}),
            Fixed(),
        )

    def _weights(self, X: Any, y: Any, sample_weight: Any) -> NDArray[Any] | None:
        """Return the samples' weights with mean 1; None where all are equal."""
        if sample_weight is None and self.class_weight is None:
            return None
        weights = _check_sample_weight(
            plain(sample_weight), X, dtype=np.float64, ensure_non_negative=True, copy=True
        )
        if self.class_weight is not None:
            classes, index = np.unique(y, return_inverse=True)
            weights *= compute_class_weight(
                self.class_weight, classes=classes, y=y, sample_weight=weights
            )[index]
            if (weights < 0).any():
                raise ValueError("class_weight must be factors of at least 0")
        return of_mean_one(weights)

    def _objective(
        self, X: Tensor, y: NDArray[Any], weights: NDArray[Any] | None, columns: Columns
    ) -> LinearModel:
        classes = len(self.classes_)
        sample_weight = None if weights is None else torch.from_numpy(weights).to(X.dtype)
        data = Table(
            "the data given",
            Split(X, torch.from_numpy(y.astype(np.int64)), sample_weight),
            None,
            "binary" if classes == 2 else "multiclass",
            classes,
            "fit",
            "",
        )
        kind = Multinomial if classes > 2 else Probit if self.loss == "probit" else Logistic
        f = kind(data, l2=self.l2, l1=self.l1)
        if self.l2 == 0 and self.l1 == 0:
            return f
        own = checked_penalty(self.penalty, len(columns.size))
        squares = np.square(math.sqrt(self.l2) / columns.size) / self.l2 if self.l2 else 1.0

        def factors(values: NDArray[Any]) -> Tensor:
            if self.fit_intercept:
                values = np.append(values, float(self.penalize_intercept))
            return torch.from_numpy(values).to(X.dtype).repeat_interleave(f.n_outputs)

        return f.with_factors(factors(own * squares), factors(own / columns.size))

    def _before(self) -> tuple[Any, Any, Any] | None:
        """Return the last fit's classes, weights and intercepts, where it is to be gone on with."""
        if not self.warm_start or not hasattr(self, "coef_"):
            return None
        return self.classes_, self.coef_, self.intercept_

    def _start(self, before: Any, columns: Columns, outputs: int) -> NDArray[Any]:
        """Return the weights of the scaled data to begin with, shape (n_outputs, width)."""
        shape = (outputs, len(columns.size))
        if before is None or not np.array_equal(before[0], self.classes_):
            return columns.into(np.zeros(shape), np.zeros(outputs))
        _, coef, intercept = before
        if coef.shape != shape:
            raise ValueError(
                f"warm_start goes on from {coef.shape[1]} features, and X has {shape[1]}"
            )
        return columns.into(coef, intercept)

    def _minimize(
        self,
        newton: NewtonStep,
        objective: LinearModel,
        columns: Columns,
        start: NDArray[Any],
    ) -> NDArray[Any]:
        """Iterate until the tolerance is met; return the weights, shape (n_outputs, width)."""
        w = torch.from_numpy(np.ascontiguousarray(start.T).reshape(-1)).to(objective.dtype)

        def matrix(v: Tensor) -> NDArray[Any]:
            return v.view(-1, objective.n_outputs).T.double().numpy()

        taken, ended = 0, ""
        generator = torch.Generator().manual_seed(0)
        if self.l1 > 0:
            steps: Any = ProximalNewton(
                newton.solver, HessianProduct(), armijo, superlinear, newton.preconditioner
            ).steps(objective, w, generator)
        else:
            steps = on_all_samples(newton, objective, w, newton.memory(), generator)
        for point in (step.point for step in steps):
            w, size = point.w, columns.gradient_size(matrix(point.grad))
            if size <= self.tol:
                break
            if taken == self.max_iter:
                ended = f"{taken} Newton steps left an entry of the gradient at {size:.1e}"
                break
            taken += 1
        else:  # Newton ended: nothing is left to gain beyond rounding
            taken -= 1
            if size > max(self.tol, 100 * torch.finfo(objective.dtype).eps):
                ended = f"rounding error kept an entry of the gradient at {size:.1e}"
        if ended:
            warnings.warn(
                f"{ended}, above tol={self.tol}: raise max_iter, tol or l2.",
                ConvergenceWarning,
                stacklevel=3,
            )
        else:
            free = self.fit_intercept and not self.penalize_intercept
            warn_without_minimum(point, free_intercept=free)
        self.n_iter_ = np.array([max(taken, 1)], dtype=np.int32)
        return matrix(w)
