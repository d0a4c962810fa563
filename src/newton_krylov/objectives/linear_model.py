"""Objectives of linear models: f(w) = mean_i loss(x_i'w, y_i) + l2/2 |w|^2.

A point keeps the outputs Z = X w. A ray adds X p once, so a line search costs no further product
with the data however many steps it tries, and the point it ends at knows its outputs already.
"""

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from newton_krylov.capabilities import LINEAR_MODEL, SAMPLE_GRADIENTS, SAMPLES, SQUARE_ROOT
from newton_krylov.data.dataset import Dataset, Split
from newton_krylov.data.on_disk import OnDisk
from newton_krylov.errors import CombinationError, UnsupportedError
from newton_krylov.objectives.base import Counts, Objective, Point, Ray
from newton_krylov.objectives.features import Features
from newton_krylov.operators import LinearOperator

# Outputs carried along rays are updated, not recomputed; each update adds one rounding error.
# After this many they are computed afresh.
_REFRESH_AFTER = 64


class Terms(ABC):
    """The mean loss at some outputs and its derivatives by them.

    Each is computed on first use; subclasses share what they have in common (the sigmoids), so
    value, gradient and curvature at a point cost little more than one of them.

    Parameters
    ----------
    Z : Tensor, shape (n_samples,) or (n_samples, n_outputs)
        Outputs; not changed.
    targets : Tensor
        As the objective encodes them.
    """

    def __init__(self, Z: Tensor, targets: Tensor) -> None:
        self.Z = Z
        self.targets = targets

    @property
    @abstractmethod
    def value(self) -> Tensor:
        """The mean loss, a 0-d tensor."""

    @property
    @abstractmethod
    def gradient(self) -> Tensor:
        """Its gradient by Z, same shape as Z; the 1/n of the mean included."""


class SingleOutputTerms(Terms):
    """The terms of a loss of one output a sample."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """The second derivatives by Z, shape (n_samples,); 1/n included."""

    @property
    def gauss_newton_weights(self) -> Tensor:
        """What stands for `weights` in the Gauss-Newton matrix; >= 0."""
        return self.weights


class LinearModel(Objective):
    """Mean loss of the outputs Z = X W plus an L2 term on all of w, a bias column included.

    Subclasses give the loss as a function of the outputs.

    Parameters
    ----------
    dataset : Dataset
        Its train split is what the mean is over.
    l2 : float
        The factor lambda >= 0 of |w|^2 / 2.

    Attributes
    ----------
    share : float
        Of all samples; below 1 for the objective of a subset, and what its evaluations count.

    Raises
    ------
    CombinationError
        If the data set's task is not this loss's.
    """

    name: str
    task: str
    terms: type[Terms]
    convex: bool = True
    offers = frozenset({SAMPLES, LINEAR_MODEL, SAMPLE_GRADIENTS})

    def __init__(self, dataset: Dataset, l2: float) -> None:
        if dataset.task != self.task:
            raise CombinationError(
                f"loss={self.name} needs {_KINDS[self.task]}, but dataset={dataset.name} has "
                f"{_KINDS[dataset.task]}; choose {_ALTERNATIVES[dataset.task]}."
            )
        if dataset.images is not None:
            raise CombinationError(
                f"loss={self.name} is of a linear model and reads tables, but "
                f"dataset={dataset.name} has images; choose loss=cross_entropy."
            )
        self.l2 = l2
        self.n_outputs = dataset.n_classes if self.task == "multiclass" else 1
        self.counts = Counts()
        self.share = 1.0
        self._bind(Features(dataset.train.X), dataset.train.y)
        # Every method needs both orientations; laid out now, as loading is no optimizer's time.
        _ = self.features.XT

    def _bind(self, features: Features, y: Tensor) -> None:
        self.features = features
        self.y = y
        self.n_samples, width = features.X.shape
        self.dim = width * self.n_outputs
        self.dtype, self.device = features.X.dtype, features.X.device
        self.convexity = self.l2 if self.convex else None
        self._targets = self._encode(y)
        self._casts: dict[torch.dtype, LinearModel] = {}

    def at(self, w: Tensor) -> "LinearModelPoint":
        """Evaluate at w, shape (dim,)."""
        if w.shape != (self.dim,):
            raise ValueError(f"expected w of shape ({self.dim},), got {tuple(w.shape)}")
        return LinearModelPoint(self, w)

    def subset(self, index: Tensor) -> "LinearModel":
        """Bind the same loss to the samples `index`, shape (m,), int64."""
        part = copy.copy(self)
        part.share = self.share * len(index) / self.n_samples
        part._bind(self.features.rows(index), self.y[index])
        return part

    def cast(self, dtype: torch.dtype) -> "LinearModel":
        """Return the same function in another precision; made once.

        Parameters
        ----------
        dtype : torch.dtype
            Of the parameters, and of the data.

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
            other._bind(self.features.cast(dtype), y)
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
        return self.features.X @ self._columns(w)

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
        return (self.features.XT @ u).reshape(-1)

    def _columns(self, w: Tensor) -> Tensor:
        return w if self.n_outputs == 1 else w.view(-1, self.n_outputs)

    def accuracy(self, w: Tensor, split: Split) -> float | None:
        """Return the share of the split's samples that w classifies rightly."""
        Z = split.X @ self._columns(w)
        predicted = Z.argmax(1) if self.n_outputs > 1 else (Z > 0).long()
        return float((predicted == split.y).double().mean())

    def data_loss(self, w: Tensor, split: Split) -> float | None:
        """Return the mean loss over the split's samples, without the regularizer."""
        other = copy.copy(self)
        other._bind(Features(split.X), split.y)
        return float(other.terms(split.X @ self._columns(w), other._targets).value)

    def with_l2(self, l2: float) -> "LinearModel":
        """Return the same function with another regularizer.

        Parameters
        ----------
        l2 : float
            The new lambda >= 0.

        Returns
        -------
        LinearModel
            Shares the data and the counts.
        """
        other = copy.copy(self)
        other.l2 = l2
        other.convexity = l2 if self.convex else None
        return other

    def _encode(self, y: Tensor) -> Tensor:
        """Return the targets as the loss's formula wants them."""
        return y

    @abstractmethod
    def hessian_at(self, point: "LinearModelPoint") -> LinearOperator:
        """Return the Hessian of f at a point, shape (dim, dim)."""

    def gauss_newton_at(self, point: "LinearModelPoint") -> LinearOperator:
        """Return the generalized Gauss-Newton matrix of f at a point, shape (dim, dim)."""
        return self.hessian_at(point)


_KINDS = {
    "binary": "two classes",
    "multiclass": "more than two classes",
    "regression": "real-valued targets",
    "transport": "a transport problem",
}
_ALTERNATIVES = {
    "binary": "loss=logistic, squared_hinge or sigmoid_least_squares",
    "multiclass": "loss=multinomial",
    "regression": "loss=least_squares",
    "transport": "loss=entropic_transport",
}


class LinearModelPoint(Point):
    """A point of a linear model: w and its outputs.

    Parameters
    ----------
    objective : LinearModel
        The function.
    w : Tensor, shape (dim,)
        Parameters.
    Z : Tensor, optional
        X w, where it is known.
    age : int
        How many updates Z has seen since it was computed.
    """

    objective: LinearModel

    def __init__(
        self, objective: LinearModel, w: Tensor, Z: Tensor | None = None, age: int = 0
    ) -> None:
        super().__init__(objective, w)
        if Z is not None:
            self.Z = Z
        self.age = age

    @cached_property
    def Z(self) -> Tensor:
        """The outputs X w."""
        return self.objective.outputs(self.w)

    @cached_property
    def terms(self) -> Terms:
        """The loss at Z and its derivatives."""
        return self.objective.terms(self.Z, self.objective._targets)

    @cached_property
    def value(self) -> float:
        """f(w)."""
        f = self.objective
        f.counts.add(function=f.share)
        return float(self.terms.value + 0.5 * f.l2 * torch.dot(self.w, self.w))

    @cached_property
    def grad(self) -> Tensor:
        """The gradient at w, shape (dim,)."""
        f = self.objective
        f.counts.add(gradient=f.share)
        return f.adjoint(self.terms.gradient).add_(self.w, alpha=f.l2)

    def hessian(self) -> LinearOperator:
        """Return the Hessian at w, matrix-free."""
        return self.objective.hessian_at(self)

    def gauss_newton(self) -> LinearOperator:
        """Return the generalized Gauss-Newton operator at w, matrix-free."""
        return self.objective.gauss_newton_at(self)

    def empirical_fisher(self) -> LinearOperator:
        """Return the mean of the samples' g_i g_i' plus l2 I, matrix-free."""
        G, f = self.terms.gradient, self.objective
        if f.n_outputs == 1:
            return WeightedGram(f, G.square().mul_(f.n_samples))
        return FisherGram(f, G)

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
    """f along a direction, with X p computed once."""

    origin: LinearModelPoint

    def __init__(self, origin: LinearModelPoint, p: Tensor) -> None:
        super().__init__(origin, p)
        self._Zp = origin.objective.outputs(p)
        self._last: tuple[float, LinearModelPoint] = (0.0, origin)

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
            w = o.w.add(self.p, alpha=alpha)
            Z = o.Z.add(self._Zp, alpha=alpha)
            self._last = (alpha, LinearModelPoint(o.objective, w, Z, o.age + 1))
        return self._last[1]

    def derivative(self, alpha: float) -> float:
        """Return phi'(alpha); no product with the data."""
        point, f = self.point(alpha), self.origin.objective
        inner = (point.terms.gradient * self._Zp).sum()
        return float(inner + f.l2 * torch.dot(point.w, self.p))


class WeightedGram(LinearOperator):
    """X' diag(weights) X + l2 I, the Hessian of a loss of one output, matrix-free.

    Parameters
    ----------
    objective : LinearModel
        Gives X, l2 and the counts.
    weights : Tensor, shape (n_samples,)
        Second derivatives of the loss by its output; the 1/n of the mean included.
    """

    def __init__(self, objective: LinearModel, weights: Tensor) -> None:
        super().__init__(objective.dim, objective.dtype, objective.device)
        self._objective = objective
        self._features = objective.features
        self.weights = weights

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,): one pass over the data."""
        f = self._objective
        f.counts.add(hvp=f.share, passes=f.share)
        t = (self._features.X @ v).mul_(self.weights)
        return (self._features.XT @ t).add_(v, alpha=f.l2)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by k vectors at once, shape (dim, k)."""
        f = self._objective
        f.counts.add(hvp=f.share * V.shape[1], passes=f.share * V.shape[1])
        T = (self._features.X @ V).mul_(self.weights[:, None])
        return (self._features.XT @ T).add_(V, alpha=f.l2)

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
        matrix.diagonal().add_(f.l2)
        return matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (dim,): half a pass over the data."""
        f = self._objective
        f.counts.add(passes=0.5 * f.share)
        return self._features.column_square_sums(self.weights).add_(f.l2)


class FisherGram(LinearOperator):
    """The mean of g_i g_i' plus l2 I for a linear model with several outputs, matrix-free.

    Sample i's gradient is x_i times the row of its derivatives by the outputs.

    Parameters
    ----------
    objective : LinearModel
        Gives X, l2 and the counts.
    G : Tensor, shape (n_samples, n_outputs)
        Derivatives of the mean loss by the outputs; the 1/n of the mean included.
    """

    def __init__(self, objective: LinearModel, G: Tensor) -> None:
        super().__init__(objective.dim, objective.dtype, objective.device)
        self._objective = objective
        self._G = G

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,): one pass over the data."""
        f = self._objective
        f.counts.add(hvp=f.share)
        inner = (f.outputs(v) * self._G).sum(1, keepdim=True).mul_(f.n_samples)
        return f.adjoint(self._G * inner).add_(v, alpha=f.l2)

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (dim,): half a pass over the data."""
        f = self._objective
        f.counts.add(passes=0.5 * f.share)
        weights = self._G.square().mul_(f.n_samples)
        return f.features.column_square_sums(weights).reshape(-1).add_(f.l2)


class SingleOutputModel(LinearModel):
    """A linear model with one output a sample: the Hessian is X' diag(weights) X + l2 I."""

    terms: type[SingleOutputTerms]
    offers = LinearModel.offers | {SQUARE_ROOT}

    def hessian_at(self, point: LinearModelPoint) -> LinearOperator:
        """Return the Hessian of f at a point."""
        return WeightedGram(self, cast(SingleOutputTerms, point.terms).weights)

    def gauss_newton_at(self, point: LinearModelPoint) -> LinearOperator:
        """Return the generalized Gauss-Newton matrix of f at a point."""
        return WeightedGram(self, cast(SingleOutputTerms, point.terms).gauss_newton_weights)
