"""Half a weighted sum of squares of residual blocks, as a function of one flat vector."""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from newton_krylov.capabilities import NORMAL_EQUATIONS, SUM_OF_SQUARES
from newton_krylov.errors import ConfigError, UnsupportedError, suggest
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Counts, Objective, Point
from newton_krylov.objectives.graph import GraphJacobian, HessianProducts, Ways, may_be_graphs
from newton_krylov.objectives.network.kernels import (
    Formulas,
    plain_attention,
    plain_recurrence,
)
from newton_krylov.objectives.residual.gauss_newton import GaussNewtonOperator
from newton_krylov.objectives.residual.jacobian import Jacobian, import_early
from newton_krylov.operators import FunctionOperator, LinearOperator, RectangularOperator
from newton_krylov.rectangular import as_rectangular

Blocks = Mapping[str, Tensor]
Function = Callable[[Tensor], Tensor | Blocks]
"""w, shape (dim,), to residuals: one tensor, or blocks of them by name, of any shapes."""

Derivative = Callable[[Tensor], Any]
"""w, shape (dim,), to the Jacobian, (n_residuals, dim): what `as_rectangular` takes."""

GIB = 2.0**30
_AHEAD = 0.1
"""Where along a step the residuals are evaluated for their second derivative."""
_CHANGES = ("mutate a captured Tensor", "batch_norm does not support")
"""What torch says where a function changes what is no part of its argument."""
_SMALL = 2**21
"""Below so many entries of J a second thread costs more than it brings, as soon as anything else
computes."""


class ResidualPoint(Point):
    """Residuals at one w: their value, gradient and Jacobian, each computed on first use.

    Parameters
    ----------
    objective : ResidualObjective
        Objective whose point it is.
    w : Tensor, shape (dim,)
        Parameters.
    """

    objective: "ResidualObjective"

    def __init__(self, objective: "ResidualObjective", w: Tensor) -> None:
        super().__init__(objective, w)
        self._r: Tensor | None = None
        self._kept: Any = None

    @property
    def r(self) -> Tensor:
        """The residuals, each times the root of its block's weight, shape (n_residuals,)."""
        if self._r is None:
            f = self.objective
            f.counts.add(function=f.share, passes=0.5 * f.share)
            self._r, self._kept = f.evaluated(self.w)
        return self._r

    @cached_property
    def value(self) -> float:
        """Half of |r|^2."""
        size = euclidean(self.r)
        return size * size / 2  # infinite where the square overflows; a power would raise

    @cached_property
    def jacobian(self) -> RectangularOperator:
        """J at w, (n_residuals, dim)."""
        f = self.objective
        if self._r is None:
            f.counts.add(function=f.share, passes=0.5 * f.share)
        f.counts.add(gradient=f.share, passes=0.5 * f.share)
        J, self._r = f.linearized(self.w, self._kept)
        self._kept = None
        return J

    @cached_property
    def normal(self) -> GaussNewtonOperator:
        """J'J with the gradient as its right side."""
        f, J = self.objective, self.jacobian
        return GaussNewtonOperator(J, self.r, f.memory, f.counts, f.share)

    @cached_property
    def grad(self) -> Tensor:
        """J'r, shape (dim,)."""
        return self.normal.b

    def gauss_newton(self) -> LinearOperator:
        """Return J'J, (dim, dim): products, closed forms, and its least-squares form."""
        return self.normal

    def decrease(self, other: "ResidualPoint") -> float:
        """Return f here minus f at another point: by the difference of their residuals.

        A difference of two sums of squares would lose the last digits of a good fit.
        """
        return float(torch.dot(self.r - other.r, self.r + other.r)) / 2

    def bend(self, p: Tensor) -> Tensor:
        """Return the second derivative of the residuals along a direction.

        Parameters
        ----------
        p : Tensor, shape (dim,)
            The direction.

        Returns
        -------
        Tensor, shape (n_residuals,)
            d2/dt2 r(w + t p) at t = 0.
        """
        self.objective.counts.add(hvp=self.objective.share, passes=self.objective.share)
        return self.objective.bend(self, p)

    def hessian(self) -> LinearOperator:
        """Return the exact Hessian, (dim, dim), by its products."""
        f = self.objective

        def half_square(w: Tensor) -> Tensor:
            return f.residuals(w).square().sum() / 2

        if f.by_graph(self.w):
            f.ways.backward = True
        products = HessianProducts(half_square, self.w, f.ways)

        def product(v: Tensor) -> Tensor:
            f.counts.add(hvp=f.share, passes=f.share)
            return products(v)

        return FunctionOperator(product, f.dim, f.dtype, f.device)


class ResidualObjective(Objective):
    """f(w) = half the sum over blocks of weight |r_block(w)|^2.

    Parameters
    ----------
    function : callable
        See `Function`; of torch operations that forward and reverse mode can differentiate.
    start : Tensor, shape (dim,)
        Where the function is evaluated once, to learn of its blocks; gives dtype and device.
    weights : mapping, optional
        Block name to its weight, at least 0; 1 where it is not named.
    memory : float
        Bytes that a dense Jacobian, and the passes that form it, may take.
    derivative : callable, optional
        w to the Jacobian, (n_residuals, dim), where autograd is not to be asked; without weights.

    Raises
    ------
    ConfigError
        If a weight is of no block, or below zero, or the function does not return tensors.

    Attributes
    ----------
    blocks : dict of str to slice
        Each block's place in the vector of residuals.
    n_residuals : int
        Number of residuals.
    share : float
        Share of all samples; what a subset's evaluations count.
    ways : Ways
        How Hessian products are made; of all subsets and draws.
    """

    offers = frozenset({SUM_OF_SQUARES, NORMAL_EQUATIONS})

    def __init__(
        self,
        function: Function,
        start: Tensor,
        weights: Mapping[str, float] | None = None,
        memory: float = 2 * GIB,
        derivative: Derivative | None = None,
    ) -> None:
        import_early()
        self._function, self.memory, self._derivative = function, memory, derivative
        self.dim, self.dtype, self.device = len(start), start.dtype, start.device
        self.counts, self.share, self.convexity = Counts(), 1.0, None
        self._rows: Tensor | None = None
        self._by_graph: bool | None = None
        self.ways = Ways()
        found = self._first(start)
        self._arrange({name: block.numel() for name, block in found.items()}, weights or {})
        self.n_residuals = self.n_samples = sum(block.numel() for block in found.values())
        self.threads = 1 if self.n_residuals * self.dim < _SMALL else None

    def _first(self, start: Tensor) -> Blocks:
        """Call the function for the first time; it may differentiate by its argument."""
        try:
            return self._called(start)
        except RuntimeError as error:
            if not may_be_graphs(error):
                raise
        self._by_graph = True
        return self._called(start)

    def _arrange(self, sizes: Mapping[str, int], weights: Mapping[str, float]) -> None:
        """Keep each block's place, and the root of its weight."""
        self.blocks, self._roots = _layout(sizes, weights)

    def residuals(self, w: Tensor) -> Tensor:
        """Evaluate all residuals, each times the root of its block's weight.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.

        Returns
        -------
        Tensor, shape (n_residuals,)
            Differentiable by w.
        """
        found = self._called(w)
        sizes = {name: block.numel() for name, block in found.items()}
        if sizes != {name: place.stop - place.start for name, place in self.blocks.items()}:
            raise UnsupportedError(
                f"The residual function returned {sum(sizes.values()):,} residuals, and "
                f"{self.n_residuals:,} when it was first called: there must always be as many."
            )
        r = torch.cat([self._roots[name] * found[name].reshape(-1) for name in self.blocks])
        if self._rows is None:
            return r
        return r[self._rows] * math.sqrt(self.n_residuals / len(self._rows))

    def _called(self, w: Tensor) -> Blocks:
        """Call the function, with kernels that forward mode can differentiate.

        Gradients are enabled: it may need them for derivatives of its own, by its points.
        """
        if self._by_graph and not w.requires_grad:
            w = w.detach().requires_grad_()
        try:
            with plain_attention(), plain_recurrence(), Formulas(), torch.enable_grad():
                found = named(self._function(w))
                return {name: block.to(w.dtype) for name, block in found.items()}
        except RuntimeError as error:
            if not any(words in str(error) for words in _CHANGES):
                raise
            raise UnsupportedError(
                "The residual function changes a tensor in place that is no part of x, such as "
                "running averages of batch norm: put the network into eval mode, or give batch "
                "norm track_running_stats=False."
            ) from None

    def by_graph(self, w: Tensor) -> bool:
        """Whether torch.func cannot transform the function: found out once, at w, shape (dim,)."""
        if self._by_graph is None:
            try:
                J = Jacobian(self.residuals, w, self.memory)
                J.rows(torch.zeros(1, self.n_residuals, dtype=self.dtype, device=self.device))
                J.columns(torch.zeros(1, self.dim, dtype=self.dtype, device=self.device))
                self._by_graph = False
            except RuntimeError as error:
                if not may_be_graphs(error):
                    raise
                self._by_graph = True
            if self._by_graph:
                self._check_fixed(w)
        return self._by_graph

    def _check_fixed(self, w: Tensor) -> None:
        """Refuse a function with random numbers in it, which torch.func would not transform."""
        once, again = (self.residuals(w).detach() for _ in range(2))
        if not euclidean(again - once) <= torch.finfo(w.dtype).eps ** 0.5 * euclidean(once):
            raise UnsupportedError(
                "The residual function returns other residuals when it is called again: what is "
                "random in it must be fixed, such as dropout by eval() of the network."
            )

    def evaluated(self, w: Tensor) -> tuple[Tensor, Any]:
        """Return the residuals at w, shape (dim,), and what of it `linearized` can use."""
        return self.residuals(w).detach(), None

    def linearized(self, w: Tensor, kept: Any = None) -> tuple[RectangularOperator, Tensor]:
        """Return the Jacobian at w, shape (dim,), and the residuals.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.
        kept : object
            What `evaluated` returned at w; None where it was not asked.

        Returns
        -------
        RectangularOperator, Tensor
            (n_residuals, dim); shape (n_residuals,).
        """
        if self._derivative is not None:
            r = self.residuals(w).detach()
            return as_rectangular(self._derivative(w), r), r
        if self.by_graph(w):
            slow = GraphJacobian(self.residuals, w)
            return slow, slow.r
        quick = Jacobian(self.residuals, w, self.memory)
        return quick, quick.r

    def bend(self, point: ResidualPoint, p: Tensor) -> Tensor:
        """Return d2/dt2 r(w + t p) at t = 0, shape (n_residuals,): forward mode twice."""

        def slope(w: Tensor) -> Tensor:
            along: Tensor = jvp(self.residuals, (w,), (p,))[1]
            return along

        try:
            found: Tensor = jvp(slope, (point.w,), (p,))[1]
            return found.detach().to(self.dtype)
        except RuntimeError as error:  # no forward mode, or not twice
            if not may_be_graphs(error):
                raise
        return self.bent(point, p, point.jacobian.matvec(p))

    def bent(self, point: ResidualPoint, p: Tensor, along: Tensor) -> Tensor:
        """Return the same by one more evaluation, as Transtrum and Sethna do.

        Parameters
        ----------
        point : ResidualPoint
            Where.
        p : Tensor, shape (dim,)
            The direction.
        along : Tensor, shape (n_residuals,)
            J p.

        Returns
        -------
        Tensor, shape (n_residuals,)
            Right but for the third derivative along a tenth of p.
        """
        beyond = self.residuals(point.w + _AHEAD * p).detach()
        return ((beyond - point.r) / _AHEAD - along) * (2 / _AHEAD)

    def at(self, w: Tensor) -> ResidualPoint:
        """Evaluate at w, shape (dim,)."""
        if w.shape != (self.dim,):
            raise ValueError(f"expected w of shape ({self.dim},), got {tuple(w.shape)}")
        return ResidualPoint(self, w)

    def subset(self, index: Tensor) -> "ResidualObjective":
        """Take some of the residuals, scaled so that the sum of squares is that of all expected.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Residual numbers.

        Returns
        -------
        ResidualObjective
            Objective of the same weights.
        """
        part = object.__new__(type(self))
        vars(part).update(vars(self))
        part._rows = index if self._rows is None else self._rows[index]
        part.n_samples, part.share = len(index), self.share * len(index) / self.n_samples
        return part


def named(found: Tensor | Blocks) -> Blocks:
    """Return what a residual function returned as blocks.

    Raises
    ------
    UnsupportedError
        If it is neither a tensor nor tensors by name, or these are complex.
    """
    blocks = {"residual": found} if isinstance(found, Tensor) else found
    tensors = list(blocks.values()) if isinstance(blocks, Mapping) else []
    if tensors and all(isinstance(block, Tensor) for block in tensors):
        if any(block.is_complex() for block in tensors):
            raise UnsupportedError(
                "A residual function must return real numbers: take torch.view_as_real of complex "
                "ones."
            )
        return blocks
    what = type(found).__name__
    if isinstance(found, Mapping):
        kinds = sorted({type(block).__name__ for block in found.values()})
        what = f"a dictionary of {', '.join(kinds) or 'nothing'}"
    raise UnsupportedError(
        f"A residual function must return a tensor, or a dictionary of tensors by name, not {what}."
    )


def _layout(
    sizes: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[dict[str, slice], dict[str, float]]:
    """Return each block's place, and the root of its weight."""
    places, start = {}, 0
    for name, size in sizes.items():
        places[name] = slice(start, start + size)
        start += size
    for name, weight in weights.items():
        if name not in places:
            raise ConfigError(f"'{name}' is no block of the residuals{suggest(name, places)}")
        if not weight >= 0:
            raise ConfigError(f"The weight of the residuals '{name}' is {weight}: below zero.")
    return places, {name: math.sqrt(weights.get(name, 1.0)) for name in places}
