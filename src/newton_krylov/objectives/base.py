"""The objective: a function of one flat parameter vector, its points and its rays."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from newton_krylov.data.dataset import Split
from newton_krylov.errors import UnsupportedError
from newton_krylov.norms import euclidean
from newton_krylov.operators import LinearOperator


@cache
def _precision(dtype: torch.dtype) -> tuple[float, float]:
    """Return the distance of 1 to the next number, and the smallest one."""
    info = torch.finfo(dtype)
    return info.eps, info.tiny


@dataclass
class Counts:
    """What an optimization has cost so far, independent of the machine.

    Attributes
    ----------
    function, gradient, hvp, hessian : float
        Evaluations of the value, the gradient, products with the Hessian (a product with k
        columns counts k) and Hessian matrices formed. One on a subset of the samples counts by
        the subset's share.
    passes : float
        Passes over the data: each product of the data matrix, or of its transpose, with a vector
        is half a pass, so value and gradient together are one, and so is a Hessian product.
        Forming a Hessian matrix reads the data once and counts one.
    """

    function: float = 0.0
    gradient: float = 0.0
    hvp: float = 0.0
    hessian: float = 0.0
    passes: float = 0.0
    active: bool = True

    def add(self, **amounts: float) -> None:
        """Add to the named counts, unless counting is paused.

        Parameters
        ----------
        **amounts : float
            Count name to amount.
        """
        if self.active:
            mine = vars(self)
            for name, amount in amounts.items():
                mine[name] += amount

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing inside: for metrics, which are not the optimizer's cost."""
        was, self.active = self.active, False
        try:
            yield
        finally:
            self.active = was

    @contextmanager
    def unknown(self) -> Iterator[None]:
        """Count nan inside: for a library that evaluates its own loss and reports no counts."""
        names = [field.name for field in fields(self) if field.name != "active"]
        known = {name: getattr(self, name) for name in names}
        vars(self).update(dict.fromkeys(names, math.nan))
        try:
            yield
        finally:
            vars(self).update(known)


class Point(ABC):
    """An objective evaluated at one w; keeps what later steps reuse, computes on first use.

    Attributes
    ----------
    objective : Objective
        What was evaluated.
    w : Tensor, shape (dim,)
        Where. Not to be changed in place.
    """

    def __init__(self, objective: "Objective", w: Tensor) -> None:
        self.objective = objective
        self.w = w

    @cached_property
    @abstractmethod
    def value(self) -> float:
        """f(w)."""

    @cached_property
    @abstractmethod
    def grad(self) -> Tensor:
        """The gradient at w, shape (dim,)."""

    @cached_property
    def grad_norm(self) -> float:
        """The gradient's Euclidean norm."""
        return euclidean(self.grad)

    @abstractmethod
    def hessian(self) -> LinearOperator:
        """Return the exact Hessian at w as an operator, (dim, dim), symmetric."""

    def gauss_newton(self) -> LinearOperator:
        """Return the generalized Gauss-Newton operator at w: J' (d2 loss) J plus the regularizer.

        Positive semidefinite when the loss is convex in the model's outputs; equal to the Hessian
        where the outputs are linear in w, which is the default here.

        Returns
        -------
        LinearOperator
            Shape (dim, dim), symmetric.
        """
        return self.hessian()

    def empirical_fisher(self) -> LinearOperator:
        """Return the empirical Fisher operator at w: the mean of g_i g_i' plus the regularizer.

        g_i is the gradient of sample i's loss, without the regularizer.

        Returns
        -------
        LinearOperator
            Shape (dim, dim), symmetric positive semidefinite.

        Raises
        ------
        UnsupportedError
            If the objective is not a mean over samples, or gives no gradients of single ones.
        """
        raise UnsupportedError(
            f"hessian_approx=empirical_fisher needs the gradients of single samples, which "
            f"{type(self.objective).__name__} does not have; take hvp, ggn or rank1."
        )

    def monte_carlo_fisher(self, draws: int, generator: torch.Generator) -> LinearOperator:
        """Return the Fisher operator at w from targets drawn from the model's predictions.

        The mean over samples of g_i g_i' plus the regularizer, g_i the gradient of sample i's loss
        at a drawn target.

        Parameters
        ----------
        draws : int
            Targets for each sample.
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        LinearOperator
            Shape (dim, dim), symmetric positive semidefinite.

        Raises
        ------
        UnsupportedError
            If the loss is no likelihood.
        """
        raise UnsupportedError(
            f"hessian_approx=monte_carlo_fisher draws targets from a likelihood, which "
            f"{type(self.objective).__name__} does not have; take hvp, ggn or rank1."
        )

    def later(self) -> Callable[[], float]:
        """Return what returns f(w), for who need not wait for a GPU to have it yet.

        Returns
        -------
        callable
            Called once at most, instead of `value`.
        """
        value = self.value
        return lambda: value

    def drawn_gradient(self, generator: torch.Generator) -> Tensor:
        """Return the loss's gradient at w with targets drawn from the model's predictions.

        Parameters
        ----------
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        Tensor, shape (dim,)
            The mean over samples, without the regularizer.

        Raises
        ------
        UnsupportedError
            If the loss is no likelihood.
        """
        raise UnsupportedError(
            f"Targets can be drawn from a likelihood alone, which {type(self.objective).__name__} "
            f"is not."
        )

    def subset(self, index: Tensor) -> "Point":
        """Evaluate the objective of a subset of the samples at the same w.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Sample numbers.

        Returns
        -------
        Point
            A point of `objective.subset(index)`.
        """
        return self.objective.subset(index).at(self.w)

    def cast(self, dtype: torch.dtype) -> "Point":
        """Evaluate the same objective in another precision, at w rounded to it.

        Parameters
        ----------
        dtype : torch.dtype
            Precision of the parameters, and of the data.

        Returns
        -------
        Point
            Point of the cast objective, whose evaluations are counted with this objective's.

        Raises
        ------
        UnsupportedError
            If the objective has only one precision.
        """
        raise UnsupportedError(
            f"hessian_approx.dtype is for linear models on one process; "
            f"{type(self.objective).__name__} computes its curvature in the run's own dtype."
        )

    def extrapolate(self, previous: "Point", factor: float) -> "Point":
        """Evaluate the objective beyond this point, as seen from an earlier one.

        Parameters
        ----------
        previous : Point
            An earlier point of the same objective.
        factor : float
            How far, in multiples of the way between the two.

        Returns
        -------
        Point
            w + factor (w - previous.w), with nothing evaluated yet.
        """
        return self.objective.at(self.w.add(self.w - previous.w, alpha=factor))

    def ray(self, p: Tensor) -> "Ray":
        """Restrict the objective to the line w + alpha p.

        Parameters
        ----------
        p : Tensor, shape (dim,)
            Direction.

        Returns
        -------
        Ray
            phi(alpha) = f(w + alpha p). By default each trial evaluates the objective at its point;
            a model that knows more (outputs that are linear in w) has a ray of its own.
        """
        return PointwiseRay(self, p)


class Ray(ABC):
    """phi(alpha) = f(w + alpha p), for line searches.

    Attributes
    ----------
    origin : Point
        At alpha = 0.
    p : Tensor, shape (dim,)
        The direction.
    brief : bool
        Whether no more than loss and gradient is likely to be asked for at its points; False
        unless an optimizer says so.
    """

    def __init__(self, origin: Point, p: Tensor) -> None:
        self.origin = origin
        self.p = p
        self.brief = False

    @cached_property
    def slope(self) -> float:
        """phi'(0) = grad' p."""
        return float(torch.dot(self.origin.grad, self.p))

    @abstractmethod
    def point(self, alpha: float) -> Point:
        """Return the point w + alpha p; asking for the last alpha again costs nothing more."""

    def value(self, alpha: float) -> float:
        """Return phi(alpha)."""
        return self.point(alpha).value

    def derivative(self, alpha: float) -> float:
        """Return phi'(alpha)."""
        return float(torch.dot(self.point(alpha).grad, self.p))


class PointwiseRay(Ray):
    """A ray that evaluates the objective at every trial, and keeps the last point."""

    def __init__(self, origin: Point, p: Tensor) -> None:
        super().__init__(origin, p)
        self._last: tuple[float, Point] = (0.0, origin)

    def point(self, alpha: float) -> Point:
        """Return the point w + alpha p; asking for the last alpha again costs nothing more."""
        if self._last[0] != alpha:
            w = self.origin.w.add(self.p, alpha=alpha)
            self._last = (alpha, self.origin.objective.at(w))
        return self._last[1]


class Objective(ABC):
    """A function of one flat parameter vector, bound to data.

    Attributes
    ----------
    dim : int
        Length of the parameter vector.
    n_samples : int
        Samples in the data it is bound to.
    dtype : torch.dtype
        Precision of the parameter vector.
    device : torch.device
        Device of the parameter vector.
    counts : Counts
        What has been evaluated so far; shared with the objectives of subsets.
    convexity : float or None
        A modulus of strong convexity mu >= 0 (f - mu/2 |w|^2 is convex); None where f need not
        be convex.
    offers : frozenset of str
        What other parts may ask of it; see `newton_krylov.capabilities`.
    """

    offers: frozenset[str] = frozenset()
    threads: int | None = None
    """Threads of the processor that its work is worth, where the user chooses none; None: all."""
    quickly_measured: bool = True
    """Whether what a trace records beside the method's own work costs little compared with it."""
    dim: int
    n_samples: int
    dtype: torch.dtype
    device: torch.device
    counts: Counts
    convexity: float | None

    @abstractmethod
    def at(self, w: Tensor) -> Point:
        """Evaluate at w (lazily).

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters; not to be changed in place afterwards.

        Returns
        -------
        Point
            Value, gradient and curvature at w.
        """

    @abstractmethod
    def subset(self, index: Tensor) -> "Objective":
        """Bind the same function to a subset of the samples.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Sample numbers; the mean is over these, the regularizer stays.

        Returns
        -------
        Objective
            Counts go to this objective's `counts`, by the subset's share.
        """

    def steepest(self) -> LinearOperator:
        """Return an operator that the Hessian of a convex objective is below everywhere.

        Returns
        -------
        LinearOperator
            Shape (dim, dim). By default the Hessian at w = 0, where a loss curves most as a rule.

        Raises
        ------
        ConfigError
            If the curvature has no bound.
        """
        return self.at(torch.zeros(self.dim, dtype=self.dtype, device=self.device)).hessian()

    def batch(self, index: Tensor, generator: torch.Generator) -> "Objective":
        """Bind the same function to a mini-batch of the training.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Sample numbers.
        generator : torch.Generator
            Draws what is random in the model (dropout, augmentation), on the CPU; it is drawn now,
            so the objective returned is one fixed function.

        Returns
        -------
        Objective
            The subset's, where nothing is random.
        """
        return self.subset(index)

    def rounding(self, value: float) -> float:
        """Return how far a computed value can be off by rounding alone.

        Line searches accept a step whose change of the value is below this. Summation is
        pairwise, so the error of a mean grows with the logarithm of the number of terms; ten
        units in the last place cover it for any feasible number of samples.

        Parameters
        ----------
        value : float
            A computed value of f.

        Returns
        -------
        float
            A bound on its rounding error, in the unit of f.
        """
        eps, tiny = _precision(self.dtype)
        return 10 * eps * max(abs(value), tiny)

    def from_rank_zero(self, value: float) -> float:
        """Return what every process of the run is to take for a number that each measures itself.

        Parameters
        ----------
        value : float
            Such as a time.

        Returns
        -------
        float
            `value`, where there is one process.
        """
        return value

    @property
    def certified(self) -> bool:
        """Whether `suboptimality_bound` knows a bound."""
        return bool(self.convexity)

    def suboptimality_bound(self, point: Point) -> float:
        """Return a certified bound on f(w) - min f.

        By strong convexity, |grad f(w)|^2 / (2 mu) (Boyd and Vandenberghe, "Convex Optimization",
        2004, section 9.1.2), unless a subclass knows a better one.

        Parameters
        ----------
        point : Point
            Point of this objective, at w.

        Returns
        -------
        float
            In the unit of f, apart from the rounding of f itself; inf where nothing is known.
        """
        if not self.convexity:
            return math.inf
        return point.grad_norm * point.grad_norm / (2 * self.convexity)

    def accuracy(self, w: Tensor, split: Split) -> float | None:
        """Return the share of samples that w classifies rightly.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.
        split : Split
            Samples and class indices, on the objective's device.

        Returns
        -------
        float or None
            Between 0 and 1; None for a regression.
        """
        return None

    def measures(self, w: Tensor, split: Split) -> dict[str, float]:
        """Return further measures of how well w predicts.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.
        split : Split
            Samples and class indices, on the objective's device.

        Returns
        -------
        dict of str to float
            `balanced_accuracy` and `auc` where some classes are much rarer; of a regression `d2`
            and `mean_absolute_error`.
        """
        return {}

    def data_loss(self, w: Tensor, split: Split) -> float | None:
        """Return the mean loss over a split's samples, without the regularizer.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.
        split : Split
            Samples and targets, on the objective's device.

        Returns
        -------
        float or None
            None where the objective is not a mean over samples.
        """
        return None

    def l2_error(self, w: Tensor) -> float | None:
        """Return the relative error of a solution, on points that no residual is taken at.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.

        Returns
        -------
        float or None
            |u - u*| / |u*|; None where the objective solves no equation, or none that is known.
        """
        return None

    def found(self, w: Tensor) -> dict[str, float]:
        """Return the coefficients of an equation that were to be found, name to value at w."""
        return {}

    def sought(self) -> dict[str, float]:
        """Return the true values of these coefficients, where they are known."""
        return {}

    def fields(self, w: Tensor) -> dict[str, Tensor] | None:
        """Return an equation's solution in the plane, where the objective has one.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.

        Returns
        -------
        dict of str to Tensor, or None
            `points`, shape (n, 2), and `solution`, `error`, `residual`, shape (n,).
        """
        return None

    def fresh_loss(self, w: Tensor) -> float | None:
        """Return the loss at points that no step sees, where the objective's points are drawn.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.

        Returns
        -------
        float or None
            None where the objective has no points to draw.
        """
        return None


@runtime_checkable
class Renewed(Protocol):
    """An objective whose points are drawn again every few steps.

    Attributes
    ----------
    renewal : int
        Steps from one draw to the next; 0 keeps the first.
    note : str
        What a user should know of the present draw; often nothing.
    """

    renewal: int

    @property
    def note(self) -> str:
        """See the class."""

    def renewed(self, w: Tensor) -> Objective:
        """Return the objective at the points of the next draw; w, shape (dim,), is where it is."""

    def state_dict(self) -> dict[str, float]:
        """Return which draw it is of."""

    def restored(self, state: Mapping[str, float]) -> Objective:
        """Return the objective at the points of the draw that a state is of."""


@runtime_checkable
class Started(Protocol):
    """An objective that has first parameters of its own."""

    def initial(self) -> Tensor:
        """Return them, shape (dim,)."""


class Layered(Objective):
    """An objective of named layers' weights: a network, in one process or in several."""

    quickly_measured = False  # mini-batch methods need no loss of all samples

    @property
    @abstractmethod
    def blocks(self) -> dict[str, slice]:
        """Each free layer's place in the flat vector."""

    @abstractmethod
    def initial(self) -> Tensor:
        """Return the weights that the model came with, shape (dim,)."""

    @abstractmethod
    def parameters(self, w: Tensor) -> list[Tensor]:
        """Return the free parameters, each in its own shape, as views of w, shape (dim,)."""

    @abstractmethod
    def kernels(self, w: Tensor) -> list[Tensor]:
        """Return those of them that are kernels of convolutions."""

    @abstractmethod
    def restricted(self, layers: Sequence[str], w: Tensor) -> "Layered":
        """Return the objective of some layers' weights, the others held at w, shape (dim,)."""

    @abstractmethod
    def embed(self, w: Tensor) -> Tensor:
        """Return all layers' weights, given those of the free ones."""
