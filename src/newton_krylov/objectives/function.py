"""Any differentiable torch function of one vector as an objective."""

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import grad_and_value

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Counts, Objective, Point
from newton_krylov.objectives.graph import HessianProducts, Ways, gradient, may_be_graphs
from newton_krylov.objectives.network.kernels import Formulas
from newton_krylov.objectives.residual.jacobian import import_early
from newton_krylov.operators import FunctionOperator, LinearOperator

T = TypeVar("T")

Scalar = Callable[[Tensor], Tensor]
"""w, shape (n,), to a number, shape ()."""


class FunctionPoint(Point):
    """A function at one w; value and gradient are computed on first use."""

    objective: "FunctionObjective"

    @cached_property
    def value(self) -> float:
        """f(w)."""
        f = self.objective
        f.counts.add(function=1)
        return float(f.evaluated(self.w))

    @cached_property
    def grad(self) -> Tensor:
        """The gradient, shape (dim,); brings the value with it."""
        f = self.objective
        known = "value" in vars(self)
        f.counts.add(gradient=1, function=0 if known else 1)
        found, value = f.differentiated(self.w)
        self.value = float(value)
        return found.detach()

    def hessian(self) -> LinearOperator:
        """Return the Hessian, (dim, dim), by its products."""
        f = self.objective
        products = HessianProducts(f.function, self.w, f.ways)

        def product(v: Tensor) -> Tensor:
            f.counts.add(hvp=1)
            return products(v)

        return FunctionOperator(product, f.dim, f.dtype, f.device)


class FunctionObjective(Objective):
    """f(w) for a function that is given.

    Parameters
    ----------
    function : callable
        See `Scalar`; of torch operations.
    start : Tensor, shape (dim,)
        Where a run starts from; gives the size, the dtype and the device.

    Attributes
    ----------
    by_graph : bool
        Whether derivatives are made by plain graphs, since torch.func cannot transform it.
    ways : Ways
        How Hessian products are made.
    """

    def __init__(self, function: Scalar, start: Tensor) -> None:
        import_early()
        self._given, self.start = function, start
        self.dim, self.dtype, self.device = len(start), start.dtype, start.device
        self.n_samples, self.counts, self.convexity = 1, Counts(), None
        self.by_graph, self.ways = False, Ways()

    def function(self, w: Tensor) -> Tensor:
        """Call the function; gradients are enabled, since it may take derivatives of its own.

        What it computes in another precision, of constants in double precision, is rounded to w's.
        """
        with Formulas(), torch.enable_grad():
            found = self._given(w)
        rounded = isinstance(found, Tensor) and found.is_floating_point()
        return found.to(w.dtype) if rounded else found

    def evaluated(self, w: Tensor) -> Tensor:
        """Return the value at w, shape (dim,)."""
        return self._by_either(
            lambda: self.function(w).detach(), lambda: gradient(self.function, w)[1]
        )

    def differentiated(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient at w, shape (dim,), and the value."""
        return self._by_either(
            lambda: grad_and_value(self.function)(w), lambda: gradient(self.function, w)
        )

    def _by_either(self, transformed: Callable[[], T], by_graph: Callable[[], T]) -> T:
        """Use torch.func until it cannot transform the function, and graphs can: from then on.

        An error of the function's own is one by graphs, too.
        """
        if not self.by_graph:
            try:
                return transformed()
            except RuntimeError as error:
                if not may_be_graphs(error):
                    raise
        found = by_graph()
        self.by_graph = True
        return found

    def at(self, w: Tensor) -> FunctionPoint:
        """Evaluate at w, shape (dim,)."""
        return FunctionPoint(self, w)

    def subset(self, index: Tensor) -> Objective:
        """Refuse: a function has no samples.

        Raises
        ------
        UnsupportedError
            Always.
        """
        raise UnsupportedError("A function has no samples to take a part of.")
