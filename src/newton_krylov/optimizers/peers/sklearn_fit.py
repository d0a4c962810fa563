"""scikit-learn's linear classifiers, run again and again with one iteration more."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import scipy.sparse
import torch
from pydantic import PositiveFloat
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, LIBLINEAR_LOSS, SKLEARN_LOGISTIC
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.objectives.logistic import Logistic
from newton_krylov.objectives.multinomial import Multinomial
from newton_krylov.objectives.squared_hinge import SquaredHinge
from newton_krylov.optimizers.base import Optimizer, Step, Steps
from newton_krylov.optimizers.peers.library import BREAKDOWNS, Conditions, load
from newton_krylov.registry import register


@dataclass(frozen=True)
class _Fit:
    """The result of one call of `fit`: weights, iterations, its time, and whether it gave up."""

    w: Tensor
    iterations: int
    seconds: float
    fell_back: bool


class SklearnPeer(Optimizer):
    """A solver of scikit-learn's `LogisticRegression` (or of its `LinearSVC`).

    It minimizes exactly our loss: C = 1 / (n l2), a bias column is in the data, and an intercept
    without a penalty is the library's own. The library
    has no stable callback (scikit-learn 1.9 has an experimental one, for one solver), and a warm
    restart would forget what a solver remembers of its past steps. So `fit` is called from the
    same start with `max_iter` = 1, 2, 3, ...: the row of iteration k is what the algorithm reaches
    after k iterations, and its seconds are those of that one call, the checks of the input
    included. The curve takes quadratic time to draw, but its time axis is honest; where a call
    takes less time than a shorter one, the clock stands still. One call of one iteration is made
    beforehand, so that the first row does not pay for what a process does once.

    The library reports neither its evaluations nor inner iterations: they are nan.

    Parameters
    ----------
    tol : float
        scikit-learn's: ends where the gradient's largest entry is at most this (liblinear:
        relative to the first gradient). The default is rounding error, so that the run's
        criteria decide.
    """

    solver: str
    losses: tuple[type[LinearModel], ...] = (Logistic, Multinomial)
    one_blas_thread = True
    starts_at_zero = False
    takes_free_intercept = True

    def __init__(self, tol: PositiveFloat = 2.2e-16) -> None:
        self.tol = tol

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; ends where scikit-learn does."""
        fit, notes = self._bind(objective, w0), ["rerun from here for every row"]
        if self.starts_at_zero and torch.count_nonzero(w0):
            w0 = torch.zeros_like(w0)
            notes.append(f"{self.solver} knows no start but zero")
        with objective.counts.unknown():
            yield Step(
                objective.at(w0),
                inner_iterations=math.nan,
                notes=tuple(notes),
                seconds=0.0,
                needed=False,
            )
            return (yield from self._reruns(objective, fit))

    def _reruns(self, objective: Objective, fit: Callable[[int], _Fit]) -> Steps:
        seconds = 0.0
        try:
            fit(1)
            for k in count(1):
                run = fit(k)
                if run.iterations < k:
                    break
                fallback = ("fell back to lbfgs",) if run.fell_back else ()
                step_seconds = max(run.seconds - seconds, 0.0)
                seconds += step_seconds
                yield Step(
                    objective.at(run.w),
                    inner_iterations=math.nan,
                    notes=(f"rerun with max_iter={k}", *fallback),
                    seconds=step_seconds,
                    needed=False,
                )
        except BREAKDOWNS as error:
            return f"scikit-learn's {self.solver} failed: {error}"
        return f"scikit-learn's {self.solver} ended by itself after {run.iterations} iterations"

    def _bind(self, objective: Objective, w0: Tensor) -> Callable[[int], _Fit]:
        """Return max_iter -> `_Fit` on the objective's data, from w0."""
        f = self._supported(objective)
        estimator = self._estimator(f)
        X, y = _arrays(f)
        weights = None if f.sample_weight is None else f.sample_weight.cpu().numpy()
        vectors_only = self.one_blas_thread and scipy.sparse.issparse(X)
        conditions = Conditions(one_blas_thread=vectors_only)
        start = w0.detach().cpu().numpy().reshape(-1, f.n_outputs).T
        if f.free_intercept:
            X = X[:, :-1].copy()

        def fit(max_iter: int) -> _Fit:
            model = estimator(max_iter=max_iter)
            if not self.starts_at_zero:
                model.set_params(warm_start=True)
                model.coef_ = start[:, : X.shape[1]].copy()
                model.intercept_ = start[:, X.shape[1] :].ravel()
            with conditions() as caught:
                begin = time.perf_counter()
                model.fit(X, y, sample_weight=weights)
                seconds = time.perf_counter() - begin
            free = [model.intercept_[:, None]] if f.free_intercept else []
            W = np.hstack([model.coef_, *free])
            w = torch.from_numpy(np.ascontiguousarray(W.T).reshape(-1))
            return _Fit(
                w=w.to(f.device, f.dtype),
                iterations=int(np.max(model.n_iter_)),
                seconds=seconds,
                fell_back=any("resort to lbfgs" in str(given.message) for given in caught),
            )

        return fit

    def _supported(self, objective: Objective) -> LinearModel:
        if not isinstance(objective, self.losses):
            names = " or ".join(loss.name for loss in self.losses)
            given = getattr(objective, "name", type(objective).__name__)
            raise UnsupportedError(
                f"scikit-learn's {self.solver} minimizes loss={names}, not loss={given}"
            )
        if objective.free_intercept and not self.takes_free_intercept:
            raise UnsupportedError(
                f"scikit-learn's {self.solver} penalizes the intercept; take loss.intercept=none "
                f"and dataset.bias=true"
            )
        if objective.of_unequal_penalties:
            raise UnsupportedError(
                f"scikit-learn's {self.solver} penalizes all columns alike; leave out loss.penalty"
            )
        if objective.offset is not None:
            raise UnsupportedError(
                f"scikit-learn's {self.solver} knows no offset; leave out dataset.offset"
            )
        if objective.l2 == 0 and self.starts_at_zero:
            raise UnsupportedError(f"scikit-learn's {self.solver} needs loss.l2 > 0")
        return objective

    def _estimator(self, f: LinearModel) -> Callable[..., Any]:
        C = 1 / (f.n_samples * f.l2) if f.l2 > 0 else math.inf
        common = {"C": C, "fit_intercept": f.free_intercept, "tol": self.tol}
        if isinstance(f, SquaredHinge):
            return partial(load("sklearn.svm").LinearSVC, dual=False, **common)
        logistic = load("sklearn.linear_model").LogisticRegression
        return partial(logistic, solver=self.solver, **common)


def _arrays(f: LinearModel) -> tuple[Any, np.ndarray[Any, Any]]:
    """View the data as scikit-learn takes it, CSR or dense, and the classes."""
    X, y = f.features.X.cpu(), f.y.cpu().numpy()
    if not f.features.sparse:
        return X.contiguous().numpy(), y
    # SciPy makes the indices int32 where they fit, as liblinear demands.
    values, columns, rows = X.values().numpy(), X.col_indices().numpy(), X.crow_indices().numpy()
    return scipy.sparse.csr_matrix((values, columns, rows), shape=(X.shape[0], X.shape[1])), y


@register("optimizer", "sklearn_newton_cg", needs=(SKLEARN_LOGISTIC, ALL_SAMPLES))
class SklearnNewtonCG(SklearnPeer):
    """scikit-learn's newton-cg: CG with forcing term min(0.5, sqrt|g|_1), Wolfe line search."""

    solver = "newton-cg"


@register("optimizer", "sklearn_newton_cholesky", needs=(SKLEARN_LOGISTIC, ALL_SAMPLES))
class SklearnNewtonCholesky(SklearnPeer):
    """scikit-learn's newton-cholesky: the dense Hessian, a direct solve, Armijo's line search.

    Where the search finds nothing it continues with lbfgs, and the row's note says so.
    """

    solver = "newton-cholesky"
    one_blas_thread = False  # its BLAS forms and factors matrices


@register("optimizer", "sklearn_lbfgs", needs=(SKLEARN_LOGISTIC, ALL_SAMPLES))
class SklearnLBFGS(SklearnPeer):
    """scikit-learn's lbfgs: SciPy's L-BFGS-B on its own loss.

    It also ends, whatever `tol`, where the loss falls by less than 64 units in its last place.
    """

    solver = "lbfgs"


@register("optimizer", "sklearn_liblinear", needs=(LIBLINEAR_LOSS, ALL_SAMPLES))
class SklearnLiblinear(SklearnPeer):
    """scikit-learn's liblinear (primal): LIBLINEAR's Newton-CG, two classes only.

    It starts at zero whatever the run's start, and says so in the first row's note.
    """

    solver = "liblinear"
    losses = (Logistic, SquaredHinge)
    starts_at_zero = True
    takes_free_intercept = False
