"""Newton-Krylov logistic regression as a scikit-learn classifier."""

import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import scipy.sparse
import scipy.special
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.data.dataset import Dataset, Split
from newton_krylov.data.sparse import csr_to_torch
from newton_krylov.interfaces.parts import named
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.objectives.logistic import Logistic
from newton_krylov.objectives.multinomial import Multinomial
from newton_krylov.optimizers.damping import Fixed
from newton_krylov.optimizers.forcing import superlinear
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.newton import on_all_samples
from newton_krylov.optimizers.newton_step import NewtonStep


class NewtonKrylovClassifier(ClassifierMixin, BaseEstimator):
    """L2-regularized logistic regression, binary or multinomial, by Newton-Krylov.

    Minimizes the mean of -log p(y_i | x_i) plus l2/2 |w|^2 over all weights, those of the
    intercept included, by the inexact Newton method with Armijo's line search; Hessians are
    touched by products only. Two classes make one weight vector (the sigmoid), more make one for
    each (the softmax).

    Parameters
    ----------
    solver : str
        Of the Newton system: `"cg"`, `"cr"`, `"gcr"`, `"gmres"`, `"minres"`, `"minres_qlp"` or
        `"exact"`.
    preconditioner : str
        `"none"`, `"jacobi"` or `"nystrom"`.
    l2 : float
        The factor lambda >= 0; scikit-learn's `LogisticRegression` has C = 1 / (n l2).
    fit_intercept : bool
        Whether to add a column of ones to the data.
    tol : float
        Stop where the gradient's norm has fallen to this share of that at w = 0.
    max_iter : int
        Limit of Newton steps.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels, sorted.
    coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
        Weights.
    intercept_ : ndarray, shape (1,) or (n_classes,)
        Weights of the column of ones; zero without one.
    n_iter_ : int
        Newton steps taken.
    n_features_in_ : int
        Columns of the data seen.
    feature_names_in_ : ndarray, shape (n_features,)
        Their names, where the data had any.

    Examples
    --------
    >>> from newton_krylov import NewtonKrylovClassifier
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = NewtonKrylovClassifier(solver="cr").fit(scale(X), y)
    >>> bool(model.score(scale(X), y) > 0.97)
    True
    """

    def __init__(
        self,
        solver: str = "cg",
        *,
        preconditioner: str = "none",
        l2: float = 0.01,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 100,
    ) -> None:
        self.solver = solver
        self.preconditioner = preconditioner
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            float32 and float64 are kept, anything else becomes float64.
        y : array, shape (n_samples,)
            Labels of at least two classes.

        Returns
        -------
        NewtonKrylovClassifier
            Itself.

        Raises
        ------
        ValueError
            If a parameter or the data are not as said.
        """
        check_scalar(self.l2, "l2", Real, min_val=0)
        check_scalar(self.tol, "tol", Real, min_val=0)
        check_scalar(self.max_iter, "max_iter", Integral, min_val=1)
        newton = self._newton()
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, y = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has one class only, {self.classes_[0]!r}: a classifier needs two or more"
            )
        objective = self._objective(X, y)
        w = self._minimize(newton, objective)
        W = w.view(-1, objective.n_outputs).T.numpy()
        if self.fit_intercept:
            self.coef_, self.intercept_ = W[:, :-1].copy(), W[:, -1].copy()
        else:
            self.coef_, self.intercept_ = W.copy(), np.zeros(len(W), W.dtype)
        return self

    def _newton(self) -> NewtonStep:
        return NewtonStep(
            named("solver", self.solver).build({}),
            HessianProduct(),
            armijo,
            superlinear,
            named("preconditioner", self.preconditioner).build({}),
            Fixed(),
        )

    def _objective(self, X: Any, y: NDArray[Any]) -> LinearModel:
        classes = len(self.classes_)
        data = Dataset(
            "the data given",
            Split(_tensor(X, self.fit_intercept), torch.from_numpy(y.astype(np.int64))),
            None,
            "binary" if classes == 2 else "multiclass",
            classes,
            "fit",
            "",
        )
        return (Logistic if classes == 2 else Multinomial)(data, l2=self.l2)

    def _minimize(self, newton: NewtonStep, objective: LinearModel) -> Tensor:
        w = torch.zeros(objective.dim, dtype=objective.dtype)
        start = None
        self.n_iter_ = 0
        generator = torch.Generator().manual_seed(0)
        for step in on_all_samples(newton, objective, w, newton.memory(), generator):
            w, norm = step.point.w, step.point.grad_norm
            start = norm if start is None else start
            if norm <= self.tol * start:
                break
            if self.n_iter_ == self.max_iter:
                warnings.warn(
                    f"{self.max_iter} Newton steps left the gradient's norm at {norm / start:.1e} "
                    f"of its first value: raise max_iter or tol.",
                    ConvergenceWarning,
                    stacklevel=3,
                )
                break
            self.n_iter_ += 1
        else:  # Newton ended by itself: nothing is left to gain beyond rounding
            self.n_iter_ -= 1
        self.n_iter_ = max(self.n_iter_, 1)
        return w

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the model's outputs.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples,) or (n_samples, n_classes)
            The logarithm of the second class's odds, or one logit for each class.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
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
            return np.stack([scipy.special.expit(-Z), scipy.special.expit(Z)], axis=1)
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
            return np.stack([scipy.special.log_expit(-Z), scipy.special.log_expit(Z)], axis=1)
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


def _tensor(X: Any, intercept: bool) -> Tensor:
    """Turn the data into a tensor, with a column of ones if wanted."""
    if scipy.sparse.issparse(X):
        return _sparse_tensor(X, intercept)
    if intercept:
        X = np.concatenate([X, np.ones((len(X), 1), X.dtype)], axis=1)
    return torch.from_numpy(np.require(X, requirements=["C", "W"]))


def _sparse_tensor(X: Any, intercept: bool) -> Tensor:
    if intercept:
        ones = scipy.sparse.csr_array(np.ones((X.shape[0], 1), X.dtype))
        X = scipy.sparse.hstack([X, ones], format="csr")
    csr = scipy.sparse.csr_array(X)
    csr.sum_duplicates()
    return csr_to_torch(csr, torch.float32 if csr.dtype == np.float32 else torch.float64)
