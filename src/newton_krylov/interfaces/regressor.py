"""Generalized linear models by Newton-Krylov as a scikit-learn regressor."""

import math
import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.utils import check_scalar
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted, validate_data

from newton_krylov.interfaces.minimum import warn_without_minimum
from newton_krylov.interfaces.path import Problem, checked_offset, checked_weights, linear_loss
from newton_krylov.interfaces.samples import features, plain, targets
from newton_krylov.interfaces.shortest import SOLVERS, shortest
from newton_krylov.objectives.regression import Regression

_OF_SQUARES = ("lsmr", "lsqr", "qr")
_OF_LOSSES = {"tweedie": "power", "negative_binomial": "theta", "huber": "delta"}


class LinearRegressor(RegressorMixin, BaseEstimator):
    """What the regressors share: their loss's keywords, and predictions by its link."""

    loss: str
    coef_: NDArray[Any]
    intercept_: float

    def _options(self) -> dict[str, float]:
        key = _OF_LOSSES.get(self.loss)
        return {} if key is None else {key: getattr(self, key)}

    def _check_loss(self) -> None:
        kind: Any = linear_loss(self.loss).target
        if not issubclass(kind, Regression):
            raise ValueError(f"loss == {self.loss!r} is not of a regression")

    def predict(self, X: Any, offset: Any = None) -> NDArray[Any]:
        """Return the predicted means.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.
        offset : array, shape (n_samples,), optional
            Added to each sample's output, as in `fit`; 0 by default, as of an exposure of 1.

        Returns
        -------
        ndarray, shape (n_samples,)
            By the inverse of the loss's link.
        """
        check_is_fitted(self)
        X = validate_data(
            self, features(X), accept_sparse="csr", dtype=[np.float64, np.float32], reset=False
        )
        Z = safe_sparse_dot(X, self.coef_, dense_output=True) + self.intercept_
        if offset is not None:
            Z = Z + checked_offset(offset, X.shape[0])
        # The link is the class's own: it needs no data.
        kind: Any = linear_loss(self.loss).target
        mean: NDArray[Any] = kind.mean(self, torch.from_numpy(np.asarray(Z))).numpy()
        return mean

    def score(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> float:
        """Return R2 of the predicted means.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            Samples.
        y : array, shape (n_samples,)
            Targets.
        sample_weight : array, shape (n_samples,), optional
            How often each sample counts.
        offset : array, shape (n_samples,), optional
            As in `predict`.

        Returns
        -------
        float
            At most 1.
        """
        y = targets(y, numeric=True)
        return float(r2_score(y, self.predict(X, offset), sample_weight=plain(sample_weight)))

    def __sklearn_tags__(self) -> Any:
        """Say that sparse data are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class NewtonKrylovRegressor(LinearRegressor):
    """A generalized linear model with an elastic net penalty, by Newton-Krylov.

    Minimizes the weighted mean loss plus sum_j c_j (l2/2 w_j^2 + l1 |w_j|); the intercept is not
    penalized.
    Least squares without a penalty by `lsmr`, `lsqr`, `qr` or `minres_qlp` has the solution of
    least norm where columns depend on each other or outnumber the samples, that of
    `numpy.linalg.lstsq` (of the centred columns, where there is an intercept).

    Parameters
    ----------
    loss : str
        A loss of a regression as registered: `"least_squares"`, `"huber"`, `"poisson"`, `"gamma"`,
        `"tweedie"` or `"negative_binomial"`.
    l2, l1 : float
        The penalty's factors >= 0; with l1 the method is proximal Newton.
    penalty : array, shape (n_features,), optional
        The columns' own factors c_j >= 0 of it, 0 for one that is not penalized; 1 by default.
    solver, preconditioner : str
        Of the Newton systems, as registered; `lsmr`, `lsqr` and `qr` are for least squares without
        a penalty.
    fit_intercept : bool
        Whether the model has an intercept.
    tol : float
        Stop where no entry of the gradient by weights of standardized columns is larger, in the
        loss's own unit. Newton's last steps are cheap: 1e-8 takes a tenth more of them than 1e-6.
    max_iter : int
        Limit of Newton steps; ending before `tol` is met gives a `ConvergenceWarning`.
    power, theta, delta : float
        Of the Tweedie, the negative binomial and Huber's loss.

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,)
        Weights.
    intercept_ : float
        Intercept; zero without `fit_intercept`.
    n_iter_ : int
        Newton steps taken.
    n_features_in_ : int
        Columns of the data seen.
    feature_names_in_ : ndarray, shape (n_features,)
        Names of the features, where the data had any.

    Examples
    --------
    >>> import numpy as np
    >>> from newton_krylov import NewtonKrylovRegressor
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> y = np.random.default_rng(1).poisson(np.exp(X @ [0.5, -0.3] + 1))
    >>> model = NewtonKrylovRegressor("poisson", l2=1e-3).fit(X, y)
    >>> bool(abs(model.coef_ - [0.5, -0.3]).max() < 0.1)
    True
    """

    def __init__(
        self,
        loss: str = "least_squares",
        *,
        l2: float = 0.01,
        l1: float = 0.0,
        penalty: Any = None,
        solver: str = "cg",
        preconditioner: str = "none",
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 100,
        power: float = 1.5,
        theta: float = 1.0,
        delta: float = 1.35,
    ) -> None:
        self.loss = loss
        self.l2 = l2
        self.l1 = l1
        self.penalty = penalty
        self.solver = solver
        self.preconditioner = preconditioner
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.power = power
        self.theta = theta
        self.delta = delta

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            float32 and float64 are kept, anything else becomes float64; never changed.
        y : array, shape (n_samples,)
            Targets.
        sample_weight : array, shape (n_samples,), optional
            How often each sample counts, >= 0.
        offset : array, shape (n_samples,), optional
            Added to each sample's output and not fitted: the logarithm of an exposure, say.

        Returns
        -------
        NewtonKrylovRegressor
            Itself.

        Raises
        ------
        ValueError
            If a parameter or the data are not as said.
        """
        self._check_loss()
        for name in ("l2", "l1", "tol"):
            check_scalar(getattr(self, name), name, Real, min_val=0)
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} == {getattr(self, name)}, must be a finite number")
        check_scalar(self.max_iter, "max_iter", Integral, min_val=1)
        X, y = validate_data(
            self, features(X), targets(y, numeric=True), accept_sparse="csr",
            dtype=[np.float64, np.float32], y_numeric=True,
        )  # fmt: skip
        if self._is_underdetermined():
            self._fit_shortest(X, y, sample_weight, offset)
            return self
        problem = Problem(
            X, y, loss=self.loss, options=self._options(), sample_weight=sample_weight,
            offset=offset, intercept=self.fit_intercept, penalty=self.penalty, solver=self.solver,
            preconditioner=self.preconditioner, tol=self.tol, max_iter=self.max_iter,
        )  # fmt: skip
        start = problem.objective.with_l2(self.l2, self.l1).at(problem.start())
        if not math.isfinite(start.value):
            raise ValueError(
                f"loss={self.loss!r} is {start.value} where the fit starts: the exponential of an "
                f"offset, or a power of a target, is beyond {X.dtype}"
            )
        found = problem.solve(start)
        warn_unless_converged(found.converged, found.size, self.tol)
        if found.converged:
            warn_without_minimum(found.point, free_intercept=self.fit_intercept)
        coef, intercept = problem.back(found.point.w)
        self.coef_, self.intercept_ = coef[0].astype(X.dtype), float(intercept[0])
        self.n_iter_ = max(found.steps, 1)
        return self

    def _is_underdetermined(self) -> bool:
        """Whether the solver's own choice among several minima is asked for."""
        if self.solver not in SOLVERS:
            return False
        plain = self.loss == "least_squares" and self.l2 == 0 and self.l1 == 0
        if not plain and self.solver in _OF_SQUARES:
            raise ValueError(
                f"solver == {self.solver!r} solves least squares without a penalty: set l2=0 and "
                f"l1=0 with loss='least_squares', or take solver='cg'"
            )
        return plain

    def _fit_shortest(self, X: Any, y: NDArray[Any], sample_weight: Any, offset: Any) -> None:
        v = None if sample_weight is None else checked_weights(sample_weight, X)
        rest = y if offset is None else y - checked_offset(offset, X.shape[0])
        found = shortest(X, rest, v, intercept=self.fit_intercept, solver=self.solver)
        largest = float(np.abs(y).max()) or 1.0
        unit = largest * float(np.std(y / largest)) or 1.0
        warn_unless_converged(found.size <= self.tol * unit, found.size, self.tol)
        self.coef_, self.intercept_ = found.coef.astype(X.dtype), found.intercept
        self.n_iter_ = 1


def warn_unless_converged(converged: bool, size: float, tol: float) -> None:
    """Warn that a fit ended before its tolerance was met."""
    if not converged:
        warnings.warn(
            f"the fit ended with an entry of the gradient at {size:.1e}, above tol={tol} in the "
            f"loss's unit: raise max_iter, tol or l2.",
            ConvergenceWarning,
            stacklevel=3,
        )
