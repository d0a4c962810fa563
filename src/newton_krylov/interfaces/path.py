"""Regularization paths of linear models: many penalties, one data set, each start from the last."""

import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from sklearn.utils.validation import _check_sample_weight, check_X_y
from torch import Tensor

from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.data.catalogue import Task
from newton_krylov.data.dataset import Split, Table
from newton_krylov.errors import ConfigError
from newton_krylov.interfaces.columns import Columns, checked_penalty, of_mean_one
from newton_krylov.interfaces.parts import named
from newton_krylov.interfaces.samples import features, plain, targets
from newton_krylov.norms import euclidean
from newton_krylov.objectives.huber import Huber
from newton_krylov.objectives.linear_model import LinearModel, LinearModelPoint
from newton_krylov.objectives.log_link import LogLink
from newton_krylov.objectives.logistic import Logistic
from newton_krylov.objectives.regression import Regression
from newton_krylov.operators import add_diagonal
from newton_krylov.optimizers.base import Step
from newton_krylov.optimizers.damping import Fixed
from newton_krylov.optimizers.enriched_newton import EnrichedNewton
from newton_krylov.optimizers.forcing import superlinear
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.proximal_newton import ProximalNewton
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import Entry

_CLASSES = ("binary", "multiclass")
_ABOVE = 1.001
"""The rounding of the first penalty must not let a weight in."""
_HEAVY = 1e12
"""A penalty, in units of the loss, that leaves the intercept alone."""
_POINTS = 4
"""Of a path, whose polynomial guesses the next."""
_ULPS = 4
"""Of each output, whose rounding errors a gradient has."""
_PATIENCE = 5
"""Steps that neither lower the loss nor halve its gap."""
_RIDGE = 0.1
"""Stands for a smaller share of the L1 term where the largest lambda is chosen."""


@dataclass(frozen=True)
class Path:
    """A regularization path.

    Attributes
    ----------
    lambdas : ndarray, shape (k,)
        The penalties, falling.
    coef : ndarray, shape (k, n_outputs, n_features)
        Weights at each.
    intercept : ndarray, shape (k, n_outputs)
        Intercepts.
    losses : ndarray, shape (k,)
        Mean losses of the training samples, without the penalty.
    steps : ndarray, shape (k,)
        Newton steps taken.
    gaps : ndarray, shape (k,)
        Certified bounds on how far loss and penalty are above their minimum: duality gaps. Infinite
        where a column is not penalized, and so at a penalty of 0.
    converged : ndarray, shape (k,)
        Whether `tol` was met (or the gradient is rounding error alone), or `gap` where it is given.
    passes : float
        Passes over the data, of all together.
    """

    lambdas: NDArray[np.float64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    losses: NDArray[np.float64]
    steps: NDArray[np.int64]
    gaps: NDArray[np.float64]
    converged: NDArray[np.bool_]
    passes: float


@dataclass(frozen=True)
class Fit:
    """Where a solve ended.

    Attributes
    ----------
    point : LinearModelPoint
        The weights.
    steps : int
        Newton steps taken.
    size : float
        The largest entry of the gradient by weights of standardized columns; inf where the gap was
        asked for instead.
    converged : bool
        Whether the tolerance, or the gap, was met.
    gap : float or None
        The certified gap, where the solve has asked for it.
    """

    point: LinearModelPoint
    steps: int
    size: float
    converged: bool
    gap: float | None = None


def path(
    X: Any,
    y: Any,
    *,
    loss: str = "logistic",
    lambdas: int | Sequence[float] = 60,
    l1_ratio: float = 0.0,
    eps: float = 1e-4,
    sample_weight: Any = None,
    offset: Any = None,
    fit_intercept: bool = True,
    penalty: Any = None,
    tol: float = 1e-6,
    gap: float | None = None,
    max_iter: int = 100,
    solver: str = "cg",
    preconditioner: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Fit a linear model for many penalties, each starting from the last one's weights.

    Minimizes the weighted mean loss plus lambda sum_j c_j ((1 - r)/2 w_j^2 + r |w_j|), r the
    `l1_ratio`, c the `penalty`; the intercept is not penalized. The data are scaled and laid out
    once.

    Parameters
    ----------
    X : array or sparse matrix, shape (n_samples, n_features)
        Samples.
    y : array, shape (n_samples,)
        Labels of a classification, numbers of a regression.
    loss : str
        A loss of a linear model as registered, such as `"logistic"`, `"multinomial"`, `"poisson"`.
    lambdas : int or sequence of float
        The penalties, or how many: then geometrically from the smallest at which all weights are 0
        (for r below 0.1, as if r were 0.1) to `eps` times that.
    l1_ratio : float
        r, from 0 (ridge) to 1 (lasso).
    eps : float
        See `lambdas`; above 0 and below 1.
    sample_weight : array, shape (n_samples,), optional
        How often each sample counts, >= 0, with a positive, finite sum.
    offset : array, shape (n_samples,), optional
        Finite; added to the output of each sample and not fitted.
    fit_intercept : bool
        Whether the model has an intercept.
    penalty : array, shape (n_features,), optional
        Factors c_j >= 0 of the penalty; a column of 0 is not penalized. All 1 by default.
    tol : float
        Stop where no entry of the gradient (of the subgradient of least norm) by weights of
        standardized columns is larger, in the loss's own unit.
    gap : float, optional
        Stop instead where the certified gap to the minimum is at most this; where steps gain no
        more than rounding errors before, a `ConvergenceWarning` says so.
    max_iter : int
        Limit of Newton steps for each penalty.
    solver, preconditioner : str
        Of the Newton systems, as registered.
    options : mapping, optional
        Keywords of the loss, such as `{"power": 1.5}`.

    Returns
    -------
    Path
        The penalties with their fits.

    Raises
    ------
    ConfigError
        For an unknown loss, and a keyword that it does not take.
    ValueError
        If the data, `offset`, `penalty`, `lambdas`, `eps`, `tol`, `gap` or `max_iter` are not as
        said, and, before anything is fitted, for a gap where no bound exists: at a penalty of 0,
        and where a column is not penalized, or a class has no weight.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> found = path(X, y, loss="least_squares", l1_ratio=1.0, lambdas=20, eps=1e-2)
    >>> [int((w != 0).sum()) for w in found.coef[[0, 5, 10]]]
    [0, 4, 6]
    """
    check_settings(l1_ratio, tol, max_iter)
    if gap is not None and not 0 < gap < math.inf:
        raise ValueError(f"gap must be finite and above 0, not {gap}")
    X, y = check_X_y(features(X), targets(y), accept_sparse="csr", dtype=[np.float64, np.float32])
    problem = Problem(
        X, y, loss=loss, options=options or {}, sample_weight=sample_weight, offset=offset,
        intercept=fit_intercept, penalty=penalty, solver=solver, preconditioner=preconditioner,
        tol=tol, gap=gap, max_iter=max_iter,
    )  # fmt: skip
    if gap is not None:
        problem.require_bound()
    chosen = grid(problem, lambdas, l1_ratio, eps)
    if gap is not None and chosen[-1] == 0:
        raise ValueError("gap cannot be certified at a lambda of 0: leave out one of the two")
    fits = list(problem.along(chosen, l1_ratio))
    gaps = np.array([problem.gap_at(fit.point) if fit.gap is None else fit.gap for fit in fits])
    if gap is not None:
        _warn_of_gaps(gap, gaps[[not fit.converged for fit in fits]])
    weights = [problem.back(fit.point.w) for fit in fits]
    return Path(
        lambdas=chosen,
        coef=np.stack([coef for coef, _ in weights]),
        intercept=np.stack([intercept for _, intercept in weights]),
        losses=np.array([float(fit.point.terms.value) for fit in fits]),
        steps=np.array([fit.steps for fit in fits]),
        gaps=gaps,
        converged=np.array([fit.converged for fit in fits]),
        passes=problem.objective.counts.passes,
    )


def _warn_of_gaps(gap: float, missed: NDArray[np.float64]) -> None:
    if len(missed):
        warnings.warn(
            f"gap={gap} was not met at {len(missed)} lambdas, whose fits ended at certified gaps "
            f"of {missed.min():.1e} to {missed.max():.1e}: by max_iter, or where rounding errors "
            f"let no step gain any more.",
            ConvergenceWarning,
            stacklevel=3,
        )


def check_settings(l1_ratio: float, tol: float, max_iter: int) -> None:
    """Refuse a mixture, a tolerance or a limit that means nothing."""
    check_scalar(max_iter, "max_iter", Integral, min_val=1)
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"l1_ratio == {l1_ratio}, must be between 0 and 1")
    if not 0 < tol < math.inf:
        raise ValueError(f"tol must be finite and above 0, not {tol}")


def grid(
    problem: "Problem",
    lambdas: int | np.integer[Any] | Sequence[float],
    l1_ratio: float,
    eps: float,
) -> NDArray[np.float64]:
    """Return the penalties, falling."""
    if isinstance(lambdas, (int, np.integer)) and not isinstance(lambdas, bool):
        if lambdas < 1:
            raise ValueError(f"lambdas must be at least 1 where it is a number, not {lambdas}")
        if not 0 < eps < 1:
            raise ValueError(f"eps must be above 0 and below 1, not {eps}")
        largest = problem.largest_lambda(max(l1_ratio, _RIDGE))
        return np.geomspace(largest, eps * largest, int(lambdas))
    try:
        values = np.asarray(lambdas, dtype=np.float64)
        sequence = values.ndim == 1
    except (TypeError, ValueError, OverflowError):
        sequence = False
    if not sequence:
        raise ValueError(f"lambdas must be a whole number or a list of numbers, not {lambdas!r}")
    values = np.sort(values)[::-1]
    if len(values) == 0 or not np.isfinite(values).all() or values[-1] < 0:
        raise ValueError("lambdas should be finite numbers of at least 0, one or more")
    return np.ascontiguousarray(values)


def checked_weights(sample_weight: Any, X: Any) -> NDArray[np.float64]:
    """Return samples' weights of mean 1; refuse what are none."""
    return of_mean_one(
        _check_sample_weight(plain(sample_weight), X, dtype=np.float64, ensure_non_negative=True)
    )


def checked_offset(offset: Any, n: int) -> NDArray[np.float64]:
    """Return an offset as floats, shape (n,); refuse another shape and what is not finite."""
    if scipy.sparse.issparse(offset):
        raise ValueError("offset is sparse, and should be an array: give offset.toarray().ravel()")
    values = np.asarray(plain(offset), dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"offset must be of shape ({n},), one of each sample, not {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"offset, of shape {values.shape}, must be finite numbers only")
    return values


class Kept:
    """What the fits of a path leave to the next ones.

    Parameters
    ----------
    preconditioner : PreconditionerBuilder
        The last one's, with its matrix.
    most : int
        Secants kept.
    """

    def __init__(self, preconditioner: PreconditionerBuilder, most: int) -> None:
        self.preconditioner = preconditioner
        self._pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=most)

    def learn(self, new: LinearModelPoint, old: LinearModelPoint) -> None:
        """Keep the step from one point to another, and the change of the mean loss's gradient."""
        if new is not old and new.objective.l1 == 0:
            self._pairs.append((new.w - old.w, _slopes(new) - _slopes(old)))

    def pairs_of(self, f: LinearModel) -> list[list[Any]]:
        """Return the secants with the changes of f's gradient, those without curvature left out."""
        found = []
        for s, change in self._pairs:
            y = add_diagonal(change.clone(), s, f.ridge)
            curvature = float(torch.dot(s, y))
            if curvature > torch.finfo(s.dtype).eps * euclidean(y) * euclidean(s):
                found.append([s, y, curvature])
        return found


def _slopes(point: LinearModelPoint) -> Tensor:
    """Return the mean loss's gradient, without the penalty's."""
    return point.smooth_grad - point.objective.ridge * point.w


class Problem:
    """A loss bound to scaled data, to be solved for one penalty after the other.

    Parameters
    ----------
    X : array or CSR matrix, shape (n, d)
        Finite floats.
    y : ndarray, shape (n,)
        Labels or numbers.
    loss, options, sample_weight, offset, intercept, penalty, solver, preconditioner
        As in `path`.
    tol, gap, max_iter
        As in `path`.
    classes : ndarray, optional
        The labels, sorted, where `y` may lack some.
    """

    def __init__(
        self,
        X: Any,
        y: NDArray[Any],
        *,
        loss: str,
        options: Mapping[str, Any],
        sample_weight: Any,
        offset: Any,
        intercept: bool,
        penalty: Any,
        solver: str,
        preconditioner: str,
        tol: float,
        max_iter: int,
        gap: float | None = None,
        classes: NDArray[Any] | None = None,
    ) -> None:
        kind = linear_loss(loss)
        self.tol, self.gap, self.max_iter = tol, gap, max_iter
        self.penalty = checked_penalty(penalty, X.shape[1])
        self.classes = classes
        task = cast(type[LinearModel], kind.target).task
        if task in _CLASSES:
            self.classes = np.unique(y) if classes is None else classes
            _check_classes(self.classes, loss, task)
            y = np.searchsorted(self.classes, y)
        weights = None if sample_weight is None else checked_weights(sample_weight, X)
        self.columns = Columns.of(X, weights, 0.0, centred=intercept, intercept=intercept)
        features = self.columns.scaled(X)
        dtype = features.dtype

        def tensor(values: Any) -> Tensor | None:
            return None if values is None else torch.from_numpy(np.array(values)).to(dtype)

        targets = torch.from_numpy(y.astype(np.int64)) if task in _CLASSES else tensor(y)
        assert targets is not None
        shift = None if offset is None else checked_offset(offset, X.shape[0])
        self._shift = 0.0
        if shift is not None and intercept:  # what offsets have in common is the intercept's
            self._shift = float(np.average(shift, weights=weights))
            shift = shift - self._shift
        split = Split(features, targets, tensor(weights), tensor(shift))
        number = 0 if self.classes is None else len(self.classes)
        data = Table(
            "the data given", split, None, cast(Task, task), number, "fit", "", bias=intercept
        )
        free = "free" if intercept else "none"
        plain: LinearModel = kind.build({"l2": 0.0, "intercept": free, **options}, dataset=data)
        self.objective = plain.with_factors(
            self._factors(plain, self.penalty * self.columns.size**-2.0),
            self._factors(plain, self.penalty / self.columns.size),
        )
        self.unit = _unit(plain)
        step = NewtonStep(
            named("solver", solver).build({}), HessianProduct(), armijo, superlinear,
            named("preconditioner", preconditioner).build({}), Fixed(),
        )  # fmt: skip
        self._newton = EnrichedNewton(step, start="none")
        self._proximal = ProximalNewton(
            step.solver, HessianProduct(), armijo, superlinear, step.preconditioner
        )

    def _factors(self, f: LinearModel, of_columns: NDArray[Any]) -> Tensor:
        values = np.append(of_columns, 0.0) if self.columns.intercept else of_columns
        return torch.from_numpy(values).to(f.dtype).repeat_interleave(f.n_outputs)

    def start(self) -> Tensor:
        """Return weights of 0 and the intercepts that predict the mean, or the classes' shares."""
        f = self.objective
        w = torch.zeros(f.dim, dtype=f.dtype)
        if not self.columns.intercept:
            return w
        v = torch.ones(f.n_samples, dtype=f.dtype) if f.sample_weight is None else f.sample_weight
        if self.classes is not None:
            shares = torch.bincount(f.y, v, minlength=len(self.classes)) / v.sum()
            logits = shares.clamp(min=0.5 / f.n_samples).log().to(f.dtype)
            if f.n_outputs > 1:
                w[-f.n_outputs :] = logits - logits.mean()
            elif isinstance(f, Logistic):
                w[-1] = logits[1] - logits[0]
        elif isinstance(f, Regression):
            if isinstance(f, LogLink):  # where the derivative by the intercept is 0
                p, o = (
                    getattr(f, "power", 1.0),
                    torch.zeros_like(v) if f.offset is None else f.offset,
                )
                ends = ((v * f.y).log() + (1 - p) * o, v.log() + (2 - p) * o)
                b = float(ends[0].logsumexp(0) - ends[1].logsumexp(0))
            else:
                b = f.link(float((v * f.y).sum() / v.sum()))
            w[-1] = b if math.isfinite(b) else 0.0
        return w

    def along(self, lambdas: NDArray[np.float64], l1_ratio: float) -> Iterator[Fit]:
        """Solve for falling penalties, each from where the last ones point to."""
        known: list[tuple[float, LinearModelPoint]] = []
        last: LinearModelPoint | None = None
        kept = Kept(self._newton.step.memory().preconditioner, self._newton.pairs)
        for value in lambdas:
            f = self.objective.with_l2(float(value * (1 - l1_ratio)), float(value * l1_ratio))
            start = f.at(self.start()) if last is None else LinearModelPoint(f, last.w, last.Z)
            if l1_ratio == 0 and value > 0 and len(known) > 1:
                start = min(start, _extrapolated(f, known, math.log(value)), key=_value)
            fit = self.solve(start, kept, self.gap)
            if last is not None:
                kept.learn(fit.point, last)
            last = fit.point
            if value > 0 and math.log(value) not in dict(known):
                known = [*known[1 - _POINTS :], (math.log(value), last)]
            yield fit

    def solve(
        self, start: LinearModelPoint, kept: "Kept | None" = None, gap: float | None = None
    ) -> Fit:
        """Minimize until the tolerance, or the gap, is met, with what fits before have left."""
        generator = torch.Generator().manual_seed(0)
        f = start.objective
        memory = self._newton.memory(f, start.w)
        if kept is not None:
            memory.preconditioner = kept.preconditioner
            memory.secants.load_state_dict({"pairs": kept.pairs_of(f), "stride": None})
        if f.l1 > 0:
            steps: Any = self._proximal.from_point(
                start, self._proximal.memory(f, start.w), generator
            )
        else:
            steps = self._newton.from_point(start, memory, generator)
        taken, size, done, step = -1, math.inf, False, None
        before: LinearModelPoint | None = None
        watched = _Gaps(self, gap) if gap else None
        for step in steps:
            taken += 1
            if kept is not None and before is not None:
                kept.learn(step.point, before)
            before = step.point
            if watched:
                done = watched.met(step.point)
            else:
                size = self.gradient_size(step)
                done = self.meets(self.tol, step.point, size)
            if done or taken == self.max_iter or (watched and watched.stalled):
                break
        assert step is not None
        return Fit(step.point, taken, size, done, watched.last if watched else None)

    def require_bound(self) -> None:
        """Refuse a gap where none can be certified, whatever the penalty above 0."""
        f, why = self.objective.with_l2(1.0), None
        if not f.convex:
            why = "the loss is not convex"
        elif not f.certified:
            why = "a column is not penalized"
        elif self.columns.intercept and not self._all_classes_weigh(f):
            why = "a class has no weight"
        if why is not None:
            raise ValueError(f"gap can be certified nowhere, as {why}: leave it out, for tol")

    def _all_classes_weigh(self, f: LinearModel) -> bool:
        if self.classes is None or f.sample_weight is None:
            return True
        return bool(torch.bincount(f.y, f.sample_weight, minlength=len(self.classes)).all())

    def meets(self, tol: float, point: Any, size: float) -> bool:
        """Return whether a gradient of some size meets a tolerance, or is rounding error alone.

        Rounding an output z changes the loss's derivative by eps |z| times the second one. That is
        more than the tolerance where offsets or targets of many magnitudes are mixed.
        """
        if size <= tol * self.unit or not isinstance(point.objective, Regression):
            return size <= tol * self.unit
        changes = torch.dot(point.terms.weights.abs(), point.Z.abs())
        return size <= _ULPS * torch.finfo(point.Z.dtype).eps * float(changes)

    def gap_at(self, point: Any) -> float:
        """Return the certified bound on how far a point is above its objective's minimum."""
        with self.objective.counts.paused():
            return float(point.objective.suboptimality_bound(point))

    def gradient_size(self, step: Step) -> float:
        """Return the largest entry of the gradient by weights of standardized columns."""
        g = step.point.grad
        return self.columns.gradient_size(g.view(-1, self.objective.n_outputs).T.double().numpy())

    def back(self, w: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the weights of the columns as given, and the intercepts, of mean 0 if several."""
        coef, intercept = self.columns.back(w.view(-1, self.objective.n_outputs).T.double().numpy())
        intercept = intercept - self._shift
        return coef, intercept - intercept.mean() if len(intercept) > 1 else intercept

    def largest_lambda(self, l1_ratio: float) -> float:
        """Return the least penalty at which all weights are 0."""
        f = self.objective
        w = self.start()
        held = self.penalty > 0
        if self.columns.intercept or not held.all():
            heavy = f.with_factors(self._factors(f, held)).with_l2(_HEAVY * self.unit)
            w = self.solve(heavy.at(w)).point.w
        g = f.at(w).grad.view(-1, f.n_outputs)[: len(held)].double().numpy()
        # A weight of a scaled column is that of the column as given times its size.
        slopes = np.abs(g).max(1)[held] * self.columns.size[held] / self.penalty[held]
        largest = float(slopes.max(initial=0.0)) / l1_ratio
        return largest * _ABOVE if largest > 0 else 1.0


class _Gaps:
    """The certified gaps of a solve's points, until they fall no further.

    Parameters
    ----------
    problem : Problem
        Certifies them.
    wanted : float
        The gap asked for.
    """

    def __init__(self, problem: Problem, wanted: float) -> None:
        self._problem, self._wanted = problem, wanted
        self._least = self._lowest = self.last = math.inf
        self._since = 0

    def met(self, point: LinearModelPoint) -> bool:
        """Certify a point, and return whether that is what was asked for."""
        self.last = self._problem.gap_at(point)
        gains = point.value < self._lowest - point.objective.rounding(self._lowest)
        self._since = 0 if gains or self.last < self._least / 2 else self._since + 1
        self._least, self._lowest = min(self._least, self.last), min(self._lowest, point.value)
        return self.last <= self._wanted

    @property
    def stalled(self) -> bool:
        """Whether several steps have gained nothing but rounding errors."""
        return self._since >= _PATIENCE


def linear_loss(name: str) -> Entry:
    """Return the registered loss, if it is of a linear model."""
    kind = named("loss", name)
    if not (isinstance(kind.target, type) and issubclass(kind.target, LinearModel)):
        raise ConfigError(f"loss={name!r} is not of a linear model; take logistic or poisson, say.")
    return kind


def _check_classes(classes: NDArray[Any], loss: str, task: str) -> None:
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes[0]}: a classifier needs two or more")
    if (len(classes) == 2) != (task == "binary"):
        other = "multinomial" if task == "binary" else "logistic"
        raise ValueError(f"loss={loss!r} does not fit {len(classes)} classes; take {other!r}")


def _unit(f: LinearModel) -> float:
    """Return the size of the loss's derivatives by the outputs, the unit of tolerances."""
    if isinstance(f, LogLink):
        return f.unit
    if f.task in _CLASSES:
        return 1.0
    spread = float(f.y.std(correction=0))
    if not math.isfinite(spread) or (spread == 0 and bool((f.y != f.y[0]).any())):
        raise ValueError(
            f"y has squares beyond the range of {str(f.dtype).removeprefix('torch.')}: divide it "
            f"by a unit, such as the median of |y|"
        )
    spread = spread or 1.0
    return min(spread, f.delta) if isinstance(f, Huber) else spread


def _value(point: LinearModelPoint) -> float:
    return point.value if math.isfinite(point.value) else math.inf


def _extrapolated(
    f: LinearModel, known: Sequence[tuple[float, LinearModelPoint]], place: float
) -> LinearModelPoint:
    """Evaluate the polynomial through the last points, in the logarithm of the penalty.

    Outputs are linear in the weights, so that those of the guess cost no product with the data.
    """
    w, Z = torch.zeros_like(known[0][1].w), torch.zeros_like(known[0][1].Z)
    for a, point in known:
        share = math.prod((place - b) / (a - b) for b, _ in known if b != a)
        w.add_(point.w, alpha=share)
        Z.add_(point.Z, alpha=share)
    return LinearModelPoint(f, w, Z)
