"""Objectives of linear models: f(w) = mean_i v_i loss(x_i'w + o_i, y_i) + penalty.

The penalty is sum_j c_j (l2/2 w_j^2 + l1 |w_j|).

The samples' weights v have mean 1 (without any they are 1), the offsets o are 0 without any, and
the penalty's factors c are 1 but for a free intercept's, which are 0.

A point keeps the outputs Z = X w + o. A ray adds X p once, so a line search costs no further
product with the data however many steps it tries, and the point it ends at knows its outputs.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, cast

import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat
from torch import Tensor

from newton_krylov.allocator import give_back_freed_memory
from newton_krylov.capabilities import LINEAR_MODEL, SAMPLE_GRADIENTS, SAMPLES, SQUARE_ROOT
from newton_krylov.data.dataset import Dataset, ImageSet, Split, Table, TransportProblem
from newton_krylov.data.on_disk import OnDisk
from newton_krylov.data.sparse import coalesced
from newton_krylov.errors import CombinationError, ConfigError, UnsupportedError
from newton_krylov.kernels.rows import Evaluation, Loss
from newton_krylov.kernels.secants import descend
from newton_krylov.norms import euclidean, is_safe
from newton_krylov.objectives.base import Counts, Objective, Point, Ray
from newton_krylov.objectives.classification import area_under_curve, balanced_accuracy, unequal
from newton_krylov.objectives.features import Features, with_ones
from newton_krylov.objectives.free_intercept import tangent_reach
from newton_krylov.operators import FewSamples, Forming, LinearOperator, add_diagonal

# Outputs carried along rays are updated, not recomputed; each update adds one rounding error.
# After this many they are computed afresh.
_REFRESH_AFTER = 64

_MOST_SHIFTS = 2
"""Newton's steps of an intercept alone: from where a fit ends, they lead to its rounding error."""


Intercept = Literal["none", "free", "auto"]
Factors = list[NonNegativeFloat] | None


class Terms(ABC):
    """The weighted mean loss at some outputs and its derivatives by them.

    Each is computed on first use; subclasses share what they have in common (the sigmoids), so
    value, gradient and curvature at a point cost little more than one of them.

    Parameters
    ----------
    Z : Tensor, shape (n_samples,) or (n_samples, n_outputs)
        Outputs; not changed.
    targets : Tensor
        As the objective encodes them.
    sample_weight : Tensor or None, shape (n_samples,)
        >= 0; None where all are 1.
    """

    def __init__(self, Z: Tensor, targets: Tensor, sample_weight: Tensor | None = None) -> None:
        self.Z = Z
        self.targets = targets
        self.sample_weight = sample_weight

    def mean(self, losses: Tensor) -> Tensor:
        """Return the weighted mean of the samples' losses, shape (n_samples,)."""
        return weighted_mean(losses, self.sample_weight)

    def averaged(self, D: Tensor, factor: float = 1.0) -> Tensor:
        """Turn the samples' derivatives D into the mean's, in place, times a factor."""
        return averaged(D, self.sample_weight, factor)

    @property
    @abstractmethod
    def value(self) -> Tensor:
        """The mean loss, a 0-d tensor."""

    @property
    @abstractmethod
    def gradient(self) -> Tensor:
        """The gradient by Z, same shape as Z; the 1/n of the mean included."""

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Return targets drawn from the predictions, where the loss is a likelihood."""
        raise UnsupportedError(
            f"hessian_approx=monte_carlo_fisher draws targets from a likelihood, which "
            f"{type(self).__name__.removesuffix('Terms')} is not; take hvp or ggn."
        )


def weighted_mean(values: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return the mean of v_i values_i."""
    return (values if sample_weight is None else values * sample_weight).mean()


def averaged(D: Tensor, sample_weight: Tensor | None, factor: float = 1.0) -> Tensor:
    """Multiply row i of D by factor v_i / n, in place."""
    D.mul_(factor / len(D))
    if sample_weight is not None:
        D.mul_(sample_weight if D.dim() == 1 else sample_weight[:, None])
    return D


class SingleOutputTerms(Terms):
    """The terms of a loss of one output a sample."""

    loop: ClassVar[Loss | None] = None
    """The compiled loop that evaluates this loss, where there is one."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """The second derivatives by Z, shape (n_samples,); 1/n included."""

    def take(self, value: float) -> Self:
        """Take the value as known, which then is not computed."""
        vars(self).update(value=value)
        return self

    @property
    def gauss_newton_weights(self) -> Tensor:
        """What stands for `weights` in the Gauss-Newton matrix; >= 0."""
        return self.weights


class LinearModel(Objective):
    """Weighted mean loss of the outputs Z = X W plus a penalty.

    The penalty is on all of w, a bias column's weight included, unless the intercept is free.
    Subclasses give the loss as a function of the outputs.

    Parameters
    ----------
    dataset : Dataset
        Data set; the mean is over its train split.
    l2 : float
        The factor lambda >= 0 of |w|^2 / 2.
    intercept : {"auto", "none", "free"}
        `free` adds an intercept that the penalty leaves alone, as scikit-learn's
        `LogisticRegression` has; a data set's own column of ones (`dataset.bias=true`) serves.
        `auto` is `free` where a configuration has a table of the user's own, else `none`.
    l1 : float
        The factor >= 0 of sum_j |w_j|. With it f has corners, `Point.grad` is the subgradient of
        least norm, and `LinearModelPoint.smooth_grad` the gradient of the rest.
    penalty : list of float, optional
        Factors >= 0 of both terms, one for each column; a column of 0 is not penalized.

    Attributes
    ----------
    ridge : float or Tensor, shape (dim,)
        Second derivatives of the L2 term: l2, or l2 times each weight's factor.
    lasso : float or Tensor, shape (dim,)
        The slopes of the L1 term: l1, or l1 times each weight's factor.
    sample_weight, offset : Tensor or None, shape (n_samples,)
        As `weights` and `offset` in `Split`.
    share : float
        Share of all samples; below 1 for the objective of a subset, and what its evaluations count.
    parted : bool
        Whether it is the objective of samples that were drawn from others.

    Raises
    ------
    CombinationError
        If the data set's task is not this loss's.
    UnsupportedError
        If a free intercept is to be added to data on disk.
    """

    name: str
    task: str
    terms: Callable[[Tensor, Tensor, Tensor | None], Terms]
    convex: bool = True
    offers = frozenset({SAMPLES, LINEAR_MODEL, SAMPLE_GRADIENTS})

    def __init__(
        self,
        dataset: Dataset,
        l2: NonNegativeFloat = 0.01,
        intercept: Intercept = "auto",
        l1: NonNegativeFloat = 0.0,
        penalty: Factors = None,
    ) -> None:
        if not isinstance(dataset, Table):
            raise CombinationError(
                f"loss={self.name} is of a linear model and reads tables, but "
                f"dataset={dataset.name} has {dataset.kind}; choose "
                f"{_OF_OTHER_KINDS.get(type(dataset), 'another loss')}."
            )
        if dataset.task != self.task:
            numbers = self.task == "regression"
            hint = ", or dataset.task=regression if they are counts" if numbers else ""
            raise CombinationError(
                f"loss={self.name} needs {_KINDS[self.task]}, but dataset={dataset.name} has "
                f"{_KINDS[dataset.task]}; choose {_ALTERNATIVES[dataset.task]}{hint}."
            )
        self.n_outputs = dataset.n_classes if self.task == "multiclass" else 1
        self.counts = Counts()
        self.share = 1.0
        self.parted = False
        self.free_intercept = intercept == "free"
        self._adds_ones = self.free_intercept and not dataset.bias
        if self.n_outputs > 1 and dataset.train.offset is not None:
            raise CombinationError(
                f"loss={self.name} has an output for each class, and an offset is one number a "
                f"sample: leave out dataset.offset."
            )
        X = dataset.train.X
        if not isinstance(X, OnDisk) and X.layout is torch.sparse_csr:
            X = coalesced(X)
        if self._adds_ones and isinstance(X, OnDisk):
            raise UnsupportedError(
                "loss.intercept=free adds a column to the data, and data on disk keep their own: "
                "write them with a column of ones (--bias), or set loss.intercept=none."
            )
        give_back_freed_memory()  # of reading the data, then of laying them out
        self._bind(Features(with_ones(X) if self._adds_ones else X), *_of_samples(dataset.train))
        self._penalize(l2, l1, self._factors(penalty, dataset))
        # Now, as loading is no optimizer's time.
        self.features.lay_out(self.n_outputs, self.sample_weight is not None)
        give_back_freed_memory()

    def _bind(
        self,
        features: Features,
        y: Tensor,
        weights: Tensor | None,
        offset: Tensor | None,
        targets: Tensor | None = None,
    ) -> None:
        self.features = features
        self.y, self.sample_weight, self.offset = y, weights, offset
        self.n_samples, width = features.shape
        if self.n_samples == 0:
            raise ValueError("a mean over samples needs at least one sample, and these are none")
        self.dim = width * self.n_outputs
        self.dtype, self.device = features.dtype, features.device
        self._targets = self._encode(self.y) if targets is None else targets
        self._casts: dict[torch.dtype, LinearModel] = {}
        self._tangents: dict[float, tuple[float, float, float]] = {}

    def _factors(self, penalty: Factors, dataset: Table) -> Tensor | None:
        """Return each weight's factor of the penalty; None where all are 1."""
        if penalty is None and not self.free_intercept:
            return None
        factors = torch.ones(self.dim, dtype=self.dtype, device=self.device)
        if penalty is not None:
            columns = dataset.n_features - dataset.bias
            if len(penalty) != columns:
                raise ConfigError(
                    f"loss.penalty has {len(penalty)} factors, and dataset={dataset.name} has "
                    f"{columns} columns: give one for each."
                )
            of_columns = factors.new_tensor(penalty).repeat_interleave(self.n_outputs)
            factors[: len(of_columns)] = of_columns
        if self.free_intercept:
            factors[-self.n_outputs :] = 0.0
        return factors

    _lasso_factors: Tensor | None = None

    def _penalize(self, l2: float, l1: float, factors: Tensor | None) -> None:
        self.l2, self.l1, self.factors = l2, l1, factors
        self.ridge: float | Tensor = l2 if factors is None else l2 * factors
        of_corners = factors if self._lasso_factors is None else self._lasso_factors
        self.lasso: float | Tensor = l1 if of_corners is None else l1 * of_corners
        least = 1.0 if factors is None else float(factors.min())
        self.convexity = l2 * least if self.convex else None
        vars(self).pop("_ridges", None)

    @cached_property
    def _ridges(self) -> NDArray[Any]:
        """`ridge` of every weight, as the compiled loops take it."""
        return torch.zeros(self.dim, dtype=self.dtype).add_(self.ridge).numpy()

    def at(self, w: Tensor) -> "LinearModelPoint":
        """Evaluate at w, shape (dim,)."""
        if w.shape != (self.dim,):
            raise ValueError(f"expected w of shape ({self.dim},), got {tuple(w.shape)}")
        return LinearModelPoint(self, w)

    def subset(self, index: Tensor) -> "LinearModel":
        """Bind the same loss to the samples `index`, shape (m,), int64."""
        others = (
            None if each is None else each[index] for each in (self.sample_weight, self.offset)
        )
        return self._of(self.features.rows(index), self.y[index], *others)

    def every(self, every: int, first: int) -> "LinearModel":
        """Bind the same loss to the samples first, first + every, ..., cheaper than `subset`."""
        which = slice(first, None, every)
        others = (
            None if each is None else each[which]
            for each in (self.sample_weight, self.offset, self._targets)
        )
        return self._of(self.features.every(every, first), self.y[which], *others)

    def _of(self, features: Features, y: Tensor, *others: Tensor | None) -> "LinearModel":
        part = copy.copy(self)
        part.share, part.parted = self.share * len(features) / self.n_samples, True
        part._bind(features, y, *others)
        return part

    def of_columns(self, columns: Tensor) -> "LinearModel | None":
        """Bind the same loss to some columns; None where they cannot be taken out.

        Parameters
        ----------
        columns : Tensor, shape (m,), int64
            Their numbers, a column of ones included.

        Returns
        -------
        LinearModel or None
            Of the weights `weights_of(columns)`.
        """
        features = self.features.columns(columns)
        if features is None:
            return None
        part, index = copy.copy(self), self.weights_of(columns)
        part._bind(features, self.y, self.sample_weight, self.offset, self._targets)
        part.share = self.share * features.entries / max(self.features.entries, 1)
        if self._lasso_factors is not None:
            part._lasso_factors = self._lasso_factors[index]
        part._penalize(self.l2, self.l1, None if self.factors is None else self.factors[index])
        return part

    def weights_of(self, columns: Tensor) -> Tensor:
        """Return the numbers of the weights that belong to some columns."""
        outputs = torch.arange(self.n_outputs, device=columns.device)
        return (columns[:, None] * self.n_outputs + outputs).flatten()

    def cast(self, dtype: torch.dtype) -> "LinearModel":
        """Return the same function in another precision; made once.

        Parameters
        ----------
        dtype : torch.dtype
            Precision of the parameters, and of the data.

        Returns
        -------
        LinearModel
            Shares the counts.

        Raises
        ------
        UnsupportedError
            If the data are on disk, where they have one precision.
        """
        if isinstance(self.features.X, OnDisk):
            raise UnsupportedError(
                "hessian_approx.dtype is for data in memory; data on disk keep their own."
            )
        if dtype not in self._casts:
            other = copy.copy(self)
            y = self.y.to(dtype) if self.y.is_floating_point() else self.y
            features = self.features.cast(dtype)
            other._bind(features, y, _cast(self.sample_weight, dtype), _cast(self.offset, dtype))
            other._lasso_factors = _cast(self._lasso_factors, dtype)
            other._penalize(self.l2, self.l1, _cast(self.factors, dtype))
            if other.features.compiled is not None:
                other.features.lay_out(self.n_outputs, self.sample_weight is not None)
            self._casts[dtype] = other
        return self._casts[dtype]

    def outputs(self, w: Tensor) -> Tensor:
        """Return Z = X W: half a pass over the data.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters or a direction.

        Returns
        -------
        Tensor, shape (n_samples,) or (n_samples, n_outputs)
            The outputs.
        """
        self.counts.add(passes=0.5 * self.share)
        return self.features.times(self._columns(w))

    def in_one_reading(self, w: Tensor, *, outputs: bool) -> Evaluation | None:
        """Evaluate the loss at w in one reading of the data, where a compiled loop does it.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.
        outputs : bool
            Whether the outputs are to be kept.

        Returns
        -------
        Evaluation or None
            The whole objective's value and gradient but for an L1 term.
        """
        if not self.reads_once:
            return None
        self.counts.add(passes=self.share)
        return self._evaluate(w.numpy(), outputs=outputs)

    def _evaluate(self, w: NDArray[Any], *, outputs: bool = False) -> Evaluation:
        rows, weights = self.features.compiled, self.sample_weight
        assert rows is not None
        return rows.evaluate(
            cast(Loss, cast(type[SingleOutputTerms], self.terms).loop),
            w,
            self._targets.numpy(),
            None if weights is None else weights.numpy(),
            self._ridges,
            outputs=outputs,
        )

    def descend(
        self, w: Tensor, *, tolerance: float, steps: int, memory: int, first_step: float
    ) -> "tuple[Tensor, int] | None":
        """Minimize by L-BFGS without torch, where one reading evaluates the loss.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            The start.
        tolerance, steps, memory, first_step
            See `kernels.secants.descend`.

        Returns
        -------
        tuple of Tensor and int, or None
            Where it ended, and the steps made; None where a method has to make the steps.
        """
        if not self.reads_once or self.l1 > 0:
            return None
        found, made, evaluated = descend(
            self._evaluate,
            w.numpy(),
            tolerance=tolerance,
            steps=steps,
            memory=memory,
            first_step=first_step,
        )
        cost = evaluated * self.share
        self.counts.add(function=cost, gradient=cost, passes=cost)
        return torch.from_numpy(found), made

    @property
    def reads_once(self) -> bool:
        """Whether one reading of the data evaluates the loss and its gradient."""
        known = getattr(self.terms, "loop", None) is not None and self.offset is None
        return known and self.features.compiled is not None

    def adjoint(self, u: Tensor) -> Tensor:
        """Return X' u, flat: half a pass over the data.

        Parameters
        ----------
        u : Tensor, shape (n_samples,) or (n_samples, n_outputs)
            One value for each output.

        Returns
        -------
        Tensor, shape (dim,)
            The flat product.
        """
        self.counts.add(passes=0.5 * self.share)
        return self.features.adjoint(u).reshape(-1)

    def sample_gradient_size(self, point: "LinearModelPoint") -> float:
        """Return the root mean square of |g_i|, the gradients of the samples' losses at a point."""
        of_outputs = point.terms.gradient.square()
        by_sample = of_outputs if of_outputs.dim() == 1 else of_outputs.sum(1)
        return math.sqrt(
            self.n_samples * float(torch.dot(by_sample, self.features.row_square_norms))
        )

    def loss_curvature(self, point: "LinearModelPoint") -> float | None:
        """Return the trace of the mean loss's Hessian at a point; None where it is not cheap."""
        A = point.hessian()
        return float((A.diagonal() - self.ridge).sum()) if A.has_diagonal else None

    def _columns(self, w: Tensor) -> Tensor:
        return w if self.n_outputs == 1 else w.view(-1, self.n_outputs)

    def accuracy(self, w: Tensor, split: Split) -> float | None:
        """Return the share, by weight, of the split's samples that w classifies rightly.

        None of a regression's, whose targets are no classes.
        """
        if self.task not in ("binary", "multiclass"):
            return None
        Z = self.outputs_on(w, split)
        predicted = Z.argmax(1) if self.n_outputs > 1 else (Z > 0).long()
        return float(weighted_mean((predicted == split.y).double(), split.weights))

    def measures(self, w: Tensor, split: Split) -> dict[str, float]:
        """Return balanced accuracy and, of two classes, the area under the curve."""
        classes = max(self.n_outputs, 2)
        if split.y.is_floating_point() or not unequal(split.y, classes):
            return {}
        Z = self.outputs_on(w, split)
        predicted = Z.argmax(1) if self.n_outputs > 1 else (Z > 0).long()
        found = {"balanced_accuracy": balanced_accuracy(predicted, split.y, split.weights, classes)}
        if classes == 2:
            found["auc"] = area_under_curve(Z, split.y, split.weights)
        return found

    def data_loss(self, w: Tensor, split: Split) -> float | None:
        """Return the weighted mean loss over the split's samples, without the regularizer."""
        Z = self.outputs_on(w, split)
        return float(self.terms(Z, self._encode(split.y), split.weights).value)

    def outputs_on(self, w: Tensor, split: Split) -> Tensor:
        """Return the outputs for a split's samples, which are not counted."""
        W = self._columns(w)
        Z = split.X @ W[:-1] + W[-1] if self._adds_ones else split.X @ W
        return Z if split.offset is None else Z + split.offset

    def with_l2(self, l2: float, l1: float | None = None, counts: Counts | None = None) -> Self:
        """Return the same function with another regularizer.

        Parameters
        ----------
        l2 : float
            The new lambda >= 0.
        l1 : float, optional
            The new factor of the L1 term; as before by default.
        counts : Counts, optional
            Its own; shared with this function by default.

        Returns
        -------
        LinearModel
            Shares the data.
        """
        other = copy.copy(self)
        other.counts = self.counts if counts is None else counts
        other._penalize(l2, self.l1 if l1 is None else l1, self.factors)
        other._casts = {}
        return other

    def with_factors(self, factors: Tensor, lasso_factors: Tensor | None = None) -> Self:
        """Return the same function with other factors of the penalty.

        Parameters
        ----------
        factors : Tensor, shape (dim,)
            >= 0, one for each weight.
        lasso_factors : Tensor, shape (dim,), optional
            Those of the L1 term, where they differ.

        Returns
        -------
        LinearModel
            Shares the data and the counts.
        """
        other = copy.copy(self)
        other._lasso_factors = lasso_factors
        other._penalize(self.l2, self.l1, factors)
        other._casts = {}
        return other

    @property
    def certified(self) -> bool:
        """Whether `suboptimality_bound` is finite: all but the intercept must be penalized."""
        if not self.convex or (self.l2 == 0 and self.l1 == 0):
            return False
        rest = len(self._free) - self.free_intercept * self.n_outputs
        return rest == 0

    @property
    def of_unequal_penalties(self) -> bool:
        """Whether the penalty's factors tell one column from another."""
        if self.factors is None:
            return False
        of_columns = self.factors[: self.dim - self.free_intercept * self.n_outputs]
        return bool((of_columns != 1).any())

    @property
    def _free(self) -> Tensor:
        """The weights without a penalty, by number."""
        if self.factors is None:
            return torch.zeros(0, dtype=torch.int64)
        return (self.factors == 0).nonzero().flatten()

    def suboptimality_bound(self, point: Point) -> float:
        """Return a certified bound on f(w) - min f.

        The gap between f(w) and the dual's value at the mean loss's derivatives (Rockafellar,
        "Convex Analysis", 1970, section 31). With g the mean loss's gradient, r_j and s_j the
        slopes of the L2 and the L1 term, and v_j the minimizer of g_j v + r_j/2 v^2 + s_j |v|, it
        is the sum over the penalized weights of r_j/2 (w_j - v_j)^2 + s_j |w_j| - t_j w_j, where
        t_j is -g_j cut off at s_j in absolute value; without an L1 term the sum of the squared
        gradient over 2 r_j. Where there is no L2 term, sum_j s_j |w*_j| <= f(w) limits a minimum
        w* instead. A free intercept b adds |g_0|_1 max_k |b*_k - b_k|, with b* its value at a
        minimum (see `reach`), and g_0 what is left after b has been moved to where the loss is
        least (see `balanced`); what that gains is added, too.
        """
        if self.factors is None and self.l1 == 0:
            return super().suboptimality_bound(point)
        if not self.certified:
            return math.inf
        assert isinstance(point, LinearModelPoint)
        given, point = point, self.balanced(point)
        gained = 0.0
        if point is not given:
            gained = max(float(given.terms.value) - float(point.terms.value), 0.0)
        w, gradient, lasso = point.w, point.smooth_grad, self.lasso * torch.ones_like(point.w)
        ridge = self.ridge * torch.ones_like(w)
        bound, penalized = 0.0, torch.ones_like(w, dtype=torch.bool)
        penalized[self._free] = False
        if self.l2 == 0:
            w, gradient, lasso = (v[penalized] for v in (w, gradient, lasso))
            bound = float((lasso * w.abs() + gradient * w).sum())
            bound += point.value * max(0.0, float((gradient.abs() / lasso).max()) - 1)
            radius = point.value / float(lasso.min())
        else:
            w, gradient, lasso, ridge = (v[penalized] for v in (w, gradient, lasso, ridge))
            downhill = ridge * w - gradient  # of the mean loss alone
            t = torch.clamp(downhill, -lasso, lasso)
            # (r (w - v))^2 / (2 r), where r (w - v) is the gradient with the L1 term's t.
            bound = float(((gradient + t) / ridge.sqrt()).square().sum()) / 2
            bound += float((lasso * w.abs() - t * w).sum())
            radius = math.sqrt(2 * point.value / float(ridge.min()))
        bound = gained + max(bound, 0.0)
        rest = float(point.smooth_grad[~penalized].abs().sum())
        if rest == 0:
            return bound
        return bound + rest * self.reach(point, radius, (bound + self.rounding(point.value)) / rest)

    def balanced(self, point: "LinearModelPoint") -> "LinearModelPoint":
        """Return the point with a free intercept at its best; the same where that is not known."""
        return point

    @abstractmethod
    def reach(self, point: "LinearModelPoint", radius: float, enough: float) -> float:
        """Bound how far a free intercept is from its value at a minimum w*, |w*| <= radius.

        A bound of at most `enough` need not be improved.
        """

    def curvature_bounds(self) -> tuple[float, Tensor]:
        """Bound the loss's second derivatives everywhere, the L2 term left out.

        Returns
        -------
        times : float
            The Hessian's largest curvature anywhere is at most so many times that of `steepest`.
        bounds : Tensor, shape (n_samples,)
            Of the second derivatives by a sample's outputs, with the 1/n of the mean.

        Raises
        ------
        ConfigError
            If none is known for this loss.
        """
        raise ConfigError(
            f"optimizer.step_size is missing: no default is known for loss={self.name}."
        )

    def _encode(self, y: Tensor) -> Tensor:
        """Return the targets as the loss's formula wants them."""
        return y

    @abstractmethod
    def hessian_at(self, point: "LinearModelPoint") -> LinearOperator:
        """Return the Hessian of f at a point, shape (dim, dim)."""

    def gauss_newton_at(self, point: "LinearModelPoint") -> LinearOperator:
        """Return the generalized Gauss-Newton matrix of f at a point, shape (dim, dim)."""
        return self.hessian_at(point)


def _of_samples(split: Split) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return split.y, split.weights, split.offset


def _cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)


_KINDS = {
    "binary": "two classes",
    "multiclass": "more than two classes",
    "regression": "real-valued targets",
}
_OF_OTHER_KINDS: dict[type[Dataset], str] = {
    ImageSet: "loss=cross_entropy",
    TransportProblem: "loss=entropic_transport",
}
_ALTERNATIVES = {
    "binary": "loss=logistic, probit, squared_hinge or sigmoid_least_squares",
    "multiclass": "loss=multinomial",
    "regression": "loss=least_squares, or huber, poisson, gamma, tweedie, negative_binomial",
}


class LinearModelPoint(Point):
    """A point of a linear model: w and its outputs.

    Parameters
    ----------
    objective : LinearModel
        Objective whose point it is.
    w : Tensor, shape (dim,)
        Parameters.
    Z : Tensor, optional
        X w + offset, where it is known.
    age : int
        How many updates Z has seen since it was computed.
    brief : bool
        Whether Z is not to be kept where one reading of the data finds it with all else, as nobody
        is likely to ask for it.
    """

    objective: LinearModel

    def __init__(
        self,
        objective: LinearModel,
        w: Tensor,
        Z: Tensor | None = None,
        age: int = 0,
        *,
        brief: bool = False,
    ) -> None:
        super().__init__(objective, w)
        if Z is not None:
            self.Z = Z
        self.age, self._brief = age, brief

    @cached_property
    def Z(self) -> Tensor:
        """The outputs X w + offset."""
        f = self.objective
        Z = f.outputs(self.w)
        return Z if f.offset is None else Z.add_(f.offset)

    @cached_property
    def terms(self) -> Terms:
        """The loss at Z and its derivatives."""
        f = self.objective
        return f.terms(self.Z, f._targets, f.sample_weight)

    _evaluation: Evaluation | None = None
    """What one reading of the data has found."""

    def _read(self) -> None:
        """Evaluate all at once, where nothing is known yet and one reading of the data does it."""
        if "Z" in vars(self) or self._evaluation is not None:
            return
        f = self.objective
        self._evaluation = found = f.in_one_reading(self.w, outputs=not self._brief)
        if found is not None and found.outputs is not None:
            self.Z = torch.from_numpy(found.outputs)
            terms = f.terms(self.Z, f._targets, f.sample_weight)
            self.terms = cast(SingleOutputTerms, terms).take(found.loss)

    @cached_property
    def value(self) -> float:
        """f(w)."""
        self._read()
        f = self.objective
        f.counts.add(function=f.share)
        corners = float((f.lasso * self.w.abs()).sum()) if f.l1 else 0.0
        if self._evaluation is not None:
            return self._evaluation.value + corners
        if isinstance(f.ridge, Tensor):
            penalty = 0.5 * float(torch.dot(self.w, f.ridge * self.w))
        else:
            penalty = 0.5 * f.ridge * float(torch.dot(self.w, self.w))
        return float(self.terms.value) + penalty + corners

    @cached_property
    def grad(self) -> Tensor:
        """The gradient at w, shape (dim,); with an L1 term the subgradient of least norm."""
        f, g = self.objective, self.smooth_grad
        if f.l1 == 0:
            return g
        return torch.where(
            self.w == 0,
            torch.sign(g) * (g.abs() - f.lasso).clamp(min=0),
            g + f.lasso * torch.sign(self.w),
        )

    @cached_property
    def smooth_grad(self) -> Tensor:
        """The gradient of f without its L1 term, shape (dim,)."""
        self._read()
        f = self.objective
        f.counts.add(gradient=f.share)
        if self._evaluation is not None:
            return torch.from_numpy(self._evaluation.gradient)
        return add_diagonal(f.adjoint(self.terms.gradient), self.w, f.ridge)

    @cached_property
    def grad_norm(self) -> float:
        """The gradient's Euclidean norm."""
        g, known = self.grad, self._evaluation
        if known is not None and self.objective.l1 == 0:
            size = math.sqrt(known.squares)
            if is_safe(size, torch.float64):
                return size
        return euclidean(g)

    def hessian(self) -> LinearOperator:
        """Return the Hessian at w, matrix-free."""
        return self.objective.hessian_at(self)

    def gauss_newton(self) -> LinearOperator:
        """Return the generalized Gauss-Newton operator at w, matrix-free."""
        return self.objective.gauss_newton_at(self)

    def empirical_fisher(self) -> LinearOperator:
        """Return the mean of the samples' v_i g_i g_i' plus the L2 term's, matrix-free."""
        f = self.objective
        if f.sample_weight is None:
            G = self.terms.gradient
        else:  # a weight counts once in v_i g_i g_i', and twice in the square of v_i g_i
            G = f.terms(self.Z, f._targets, None).gradient
            G = G * (
                f.sample_weight.sqrt() if f.n_outputs == 1 else f.sample_weight.sqrt()[:, None]
            )
        if f.n_outputs == 1:
            return WeightedGram(f, G.square().mul_(f.n_samples))
        return FisherGram(f, G)

    def monte_carlo_fisher(self, draws: int, generator: torch.Generator) -> LinearOperator:
        """Return the same mean at targets drawn from the model's predictions, matrix-free."""
        f, known = self.objective, self.terms
        drawn = [f.terms(self.Z, known.drawn(generator), None).gradient for _ in range(draws)]
        G = torch.stack(drawn)
        if f.sample_weight is not None:
            root = f.sample_weight.sqrt()
            G *= root if f.n_outputs == 1 else root[:, None]
        if f.n_outputs == 1:
            return WeightedGram(f, G.square().mean(0).mul_(f.n_samples))
        return FisherGram(f, G)

    def drawn_gradient(self, generator: torch.Generator) -> Tensor:
        """Return the mean loss's gradient at targets drawn from the model's predictions."""
        f = self.objective
        f.counts.add(gradient=f.share)
        drawn = self.terms.drawn(generator)
        return f.adjoint(f.terms(self.Z, drawn, f.sample_weight).gradient)

    def subset(self, index: Tensor) -> "LinearModelPoint":
        """Evaluate the objective of a subset at the same w; the known outputs are reused."""
        return LinearModelPoint(self.objective.subset(index), self.w, self.Z[index], self.age)

    def cast(self, dtype: torch.dtype) -> "LinearModelPoint":
        """Evaluate in another precision; the known outputs are reused."""
        f = self.objective.cast(dtype)
        return LinearModelPoint(f, self.w.to(dtype), self.Z.to(dtype), self.age)

    def extrapolate(self, previous: Point, factor: float) -> "LinearModelPoint":
        """Go beyond this point; outputs are linear in w, so no product (now and then one)."""
        assert isinstance(previous, LinearModelPoint)
        age = max(self.age, previous.age) + 1
        w = self.w.add(self.w - previous.w, alpha=factor)
        if age > _REFRESH_AFTER:
            return LinearModelPoint(self.objective, w)
        Z = self.Z.add(self.Z - previous.Z, alpha=factor)
        return LinearModelPoint(self.objective, w, Z, age)

    def ray(self, p: Tensor) -> "LinearModelRay":
        """Restrict f to w + alpha p; costs one product X p."""
        return LinearModelRay(self, p)


class LinearModelRay(Ray):
    """f along a direction, with X p computed once.

    Where one reading of the data evaluates the loss and its gradient, the first trial is such a
    reading, as mostly it is the last one too; X p is computed with the second.

    Parameters
    ----------
    origin : LinearModelPoint
        At alpha = 0.
    p : Tensor, shape (dim,)
        The direction.
    slope : float, optional
        phi'(0), where it is known.
    end : Tensor, shape (dim,), optional
        w + p, where it is known.
    """

    origin: LinearModelPoint

    def __init__(
        self,
        origin: LinearModelPoint,
        p: Tensor,
        slope: float | None = None,
        end: Tensor | None = None,
    ) -> None:
        super().__init__(origin, p)
        if slope is not None:
            self.slope = slope
        self._end = end
        self._last: tuple[float, LinearModelPoint] = (0.0, origin)
        if not origin.objective.reads_once:
            _ = self._Zp

    @cached_property
    def _Zp(self) -> Tensor:
        return self.origin.objective.outputs(self.p)

    @cached_property
    def _start(self) -> LinearModelPoint:
        """The origin, its outputs computed afresh where they were carried along for long.

        Once for all trials, each of which would read the data otherwise.
        """
        o = self.origin
        return o if o.age < _REFRESH_AFTER else LinearModelPoint(o.objective, o.w)

    def point(self, alpha: float) -> LinearModelPoint:
        """Return the point w + alpha p; no product with the data (now and then one)."""
        if self._last[0] != alpha:
            o = self._start
            known = self._end if alpha == 1.0 else None
            w = o.w.add(self.p, alpha=alpha) if known is None else known
            if self._is_first_of_one_reading:
                self._last = (alpha, LinearModelPoint(o.objective, w, brief=self.brief))
                return self._last[1]
            Z = o.Z.add(self._Zp, alpha=alpha)
            self._last = (alpha, LinearModelPoint(o.objective, w, Z, o.age + 1))
        return self._last[1]

    @property
    def _is_first_of_one_reading(self) -> bool:
        return self._last[1] is self.origin and self.origin.objective.reads_once

    @cached_property
    def slope(self) -> float:
        """phi'(0), with an L1 term the derivative to the right."""
        f, w = self.origin.objective, self.origin.w
        smooth = torch.dot(self.origin.smooth_grad, self.p)
        if f.l1 == 0:
            return float(smooth)
        corners = torch.where(w == 0, self.p.abs(), torch.sign(w) * self.p)
        return float(smooth + (f.lasso * corners).sum())

    def derivative(self, alpha: float) -> float:
        """Return phi'(alpha), without an L1 term; no product with the data but X p."""
        point, f = self.point(alpha), self.origin.objective
        if "_Zp" not in vars(self) and f.reads_once:
            return float(torch.dot(point.grad, self.p))
        inner = (point.terms.gradient * self._Zp).sum()
        if isinstance(f.ridge, Tensor):
            return float(inner + torch.dot(point.w, f.ridge * self.p))
        return float(inner + f.ridge * torch.dot(point.w, self.p))


class WeightedGram(LinearOperator):
    """X' diag(weights) X + diag(ridge), the Hessian of a loss of one output, matrix-free.

    Parameters
    ----------
    objective : LinearModel
        Gives X, the L2 term and the counts.
    weights : Tensor, shape (n_samples,), or callable
        Second derivatives of the loss by its output; the 1/n of the mean included. Or what returns
        those of the mean over a slice of the samples, called when they are asked for.
    """

    def __init__(self, objective: LinearModel, weights: Tensor | Callable[[slice], Tensor]) -> None:
        super().__init__(objective.dim, objective.dtype, objective.device)
        self._objective = objective
        self._features = objective.features
        self._weights = weights

    @cached_property
    def weights(self) -> Tensor:
        """The second derivatives, shape (n_samples,)."""
        known = self._weights
        return known if isinstance(known, Tensor) else known(slice(None))

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,): one pass over the data."""
        f = self._objective
        f.counts.add(hvp=f.share, passes=f.share)
        return add_diagonal(self._features.normal(self.weights, v), v, f.ridge)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by k vectors at once, shape (dim, k)."""
        f = self._objective
        f.counts.add(hvp=f.share * V.shape[1], passes=f.share * V.shape[1])
        return add_diagonal(self._features.normal(self.weights, V), V, f.ridge)

    def forming(self) -> Forming | None:
        """Return what forming the matrix takes; of data on disk it is not known."""
        X = self._features
        if X.forming_cost is None:
            return None
        ridge = self._objective.ridge
        return Forming(len(X), X.entries, X.forming_cost, self._of_part, ridge)

    def of_columns(self, columns: Tensor) -> "WeightedGram | None":
        """Return the same sum with some of the columns."""
        part = self._objective.of_columns(columns)
        return None if part is None else WeightedGram(part, self.weights)

    def few_samples(self) -> FewSamples | None:
        """Return the parts, where the samples are fewer than the columns and a ridge is there."""
        f, X = self._objective, self._features
        # What is formed of some samples would serve others; in float32 rounding spoils it.
        if f.parted or f.dtype != torch.float64:
            return None
        if f.l2 == 0 or len(X) >= f.dim or X.outer_cost is None:
            return None
        ridge = f.ridge * torch.ones(f.dim, dtype=f.dtype, device=f.device)
        return FewSamples(
            f.outputs, f.adjoint, self.weights, ridge, X.entries, X.outer_cost, self._outer
        )

    def _outer(self, scale: Tensor) -> Tensor:
        self._objective.counts.add(hessian=self._objective.share, passes=self._objective.share)
        return self._features.outer(scale)

    def _of_part(self, every: int, first: int) -> Tensor:
        f, which = self._objective, slice(first, None, every)
        if isinstance(self._weights, Tensor):
            weights = self._weights[which]
            weights = weights * (f.n_samples / len(weights))
        else:
            weights = self._weights(which)
        cost = f.share * len(weights) / f.n_samples
        f.counts.add(hessian=cost, passes=cost)
        matrix = self._features.gram(weights, every, first, upper=True)
        matrix.diagonal().add_(f.ridge)
        return matrix

    def sampled(self, size: int, generator: torch.Generator) -> "WeightedGram":
        """Return an estimate from `size` of the samples, drawn without replacement."""
        n = len(self.weights)
        size = min(size, n)
        index = torch.randperm(n, generator=generator)[:size].sort().values
        index = index.to(self.weights.device)
        return WeightedGram(self._objective.subset(index), self.weights[index] * (n / size))

    def dense(self) -> Tensor:
        """Form the matrix, shape (dim, dim)."""
        f = self._objective
        f.counts.add(hessian=f.share, passes=f.share)
        matrix = self._features.gram(self.weights)
        matrix.diagonal().add_(f.ridge)
        return matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (dim,): half a pass over the data."""
        f = self._objective
        f.counts.add(passes=0.5 * f.share)
        return self._features.column_square_sums(self.weights).add_(f.ridge)


class FisherGram(LinearOperator):
    """The mean of v_i g_i g_i' plus diag(ridge) for several outputs, matrix-free.

    Sample i's gradient is x_i times the row of its derivatives by the outputs.

    Parameters
    ----------
    objective : LinearModel
        Gives X, the L2 term and the counts.
    G : Tensor, shape (n_samples, n_outputs) or (draws, n_samples, n_outputs)
        sqrt(v_i) times the derivatives of sample i's loss by the outputs, divided by n; of several
        draws the mean is taken.
    """

    def __init__(self, objective: LinearModel, G: Tensor) -> None:
        super().__init__(objective.dim, objective.dtype, objective.device)
        self._objective = objective
        self._G = G if G.ndim == 3 else G[None]

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,): one pass over the data."""
        f = self._objective
        f.counts.add(hvp=f.share)
        inner = (f.outputs(v) * self._G).sum(2, keepdim=True).mul_(f.n_samples)
        return add_diagonal(f.adjoint((self._G * inner).mean(0)), v, f.ridge)

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (dim,): half a pass over the data."""
        f = self._objective
        f.counts.add(passes=0.5 * f.share)
        weights = self._G.square().mean(0).mul_(f.n_samples)
        return f.features.column_square_sums(weights).reshape(-1).add_(f.ridge)


class SingleOutputModel(LinearModel):
    """A linear model with one output a sample: the Hessian is X' diag(weights) X + ridge."""

    terms: Callable[[Tensor, Tensor, Tensor | None], SingleOutputTerms]
    offers = LinearModel.offers | {SQUARE_ROOT}

    def _signs(self, y: Tensor) -> Tensor:
        """Return -1 or 1 for classes 0 and 1: in a byte, where compiled loops read them."""
        compiled = self.features.compiled is not None
        return (2 * y - 1).to(torch.int8 if compiled else self.dtype)

    def balanced(self, point: LinearModelPoint) -> LinearModelPoint:
        """Move a free intercept to its minimum by Newton's method, a reading of the data a step."""
        if not self.free_intercept:
            return point
        slope = self._intercept_slope(point)
        for _ in range(_MOST_SHIFTS):
            curvature = float(cast(SingleOutputTerms, point.terms).weights.sum())
            if slope == 0 or not curvature > 0:
                break
            new = self._shifted(point, -slope / curvature)
            found = self._intercept_slope(new)
            if not abs(found) < abs(slope) / 2:
                break
            point, slope = new, found
        return point

    def loss_curvature(self, point: LinearModelPoint) -> float:
        """Return the trace of the mean loss's Hessian at a point: half a pass over the data."""
        self.counts.add(passes=0.5 * self.share)
        weights = WeightedGram(self, self._curvature_at(point)).weights
        return float(torch.dot(weights, self.features.row_square_norms))

    def _intercept_slope(self, point: LinearModelPoint) -> float:
        """Return the derivative by a free intercept: without a product where that is possible."""
        return float(point.smooth_grad[-1] if self.reads_once else point.terms.gradient.sum())

    def _shifted(self, point: LinearModelPoint, t: float) -> LinearModelPoint:
        """Add t to a free intercept; no product with the data where one reading does it all."""
        w = point.w.clone()
        w[-1] += t
        return LinearModelPoint(self, w, None if self.reads_once else point.Z + t)

    def reach(self, point: LinearModelPoint, radius: float, enough: float) -> float:
        """Bound how far a free intercept is from its value at a minimum w*, |w*| <= radius.

        By tangents of the mean loss at w = 0 where these say enough: they are known after the first
        time. Else by those at the point.
        """

        def at(origin: LinearModelPoint, t: float) -> tuple[float, float, float]:
            there = self._shifted(origin, t)
            slopes = there.smooth_grad - self.ridge * there.w
            return float(there.terms.value), float(slopes[-1]), euclidean(slopes[:-1])

        def at_zero(t: float) -> tuple[float, float, float]:
            if t not in self._tangents:
                self._tangents[t] = at(self.at(torch.zeros_like(point.w)), t)
            return self._tangents[t]

        rough = abs(float(point.w[-1])) + tangent_reach(at_zero, point.value, radius)
        if rough <= enough:
            return rough
        distance = radius + euclidean(point.w[:-1])
        return tangent_reach(lambda t: at(point, t), point.value, distance, enough)

    def largest_curvatures(self) -> Tensor | None:
        """Return bounds of the second derivatives by Z anywhere, with the 1/n of the mean.

        Returns
        -------
        Tensor or None, shape (n_samples,)
            None where they are largest at Z = 0.
        """
        return None

    def steepest(self) -> LinearOperator:
        """Return an operator that the Hessian is below everywhere."""
        bounds = self.largest_curvatures()
        if bounds is not None:
            return WeightedGram(self, bounds)
        zero = torch.zeros(self.dim, dtype=self.dtype, device=self.device)
        Z = None if self.offset is None else torch.zeros_like(self.offset)
        return LinearModelPoint(self, zero, Z).gauss_newton()

    def curvature_bounds(self) -> tuple[float, Tensor]:
        """Bound the curvature by that of `steepest`."""
        gram = self.steepest()
        assert isinstance(gram, WeightedGram)
        return 1.0, gram.weights

    def hessian_at(self, point: LinearModelPoint) -> LinearOperator:
        """Return the Hessian of f at a point."""
        return WeightedGram(self, self._curvature_at(point))

    def _curvature_at(self, point: LinearModelPoint) -> Tensor | Callable[[slice], Tensor]:
        """Return the second derivatives at a point, or compiled what returns those of some."""
        terms = cast(SingleOutputTerms, point.terms)
        if not self.reads_once:
            return terms.weights

        def of(which: slice) -> Tensor:
            rows, v = self.features.compiled, self.sample_weight
            assert rows is not None
            z, y = terms.Z[which].numpy(), self._targets[which].numpy()
            weights = None if v is None else v[which].numpy()
            return torch.from_numpy(rows.curvature(cast(Loss, terms.loop), z, y, weights))

        return of

    def gauss_newton_at(self, point: LinearModelPoint) -> LinearOperator:
        """Return the generalized Gauss-Newton matrix of f at a point."""
        if self.reads_once:  # the losses that have loops are convex
            return self.hessian_at(point)
        return WeightedGram(self, cast(SingleOutputTerms, point.terms).gauss_newton_weights)
