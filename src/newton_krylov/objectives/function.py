"""Any differentiable torch function of one vector as an objective."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Counts, Objective, Point
from newton_krylov.objectives.residual.jacobian import import_early
from newton_krylov.operators import FunctionOperator, LinearOperator

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
        with torch.no_grad():
            return float(f.function(self.w))

    @cached_property
    def grad(self) -> Tensor:
        """The gradient, shape (dim,); brings the value with it."""
        f = self.objective
        known = "value" in vars(self)
        f.counts.add(gradient=1, function=0 if known else 1)
        found, value = grad_and_value(f.function)(self.w)
        self.value = float(value)
        gradient: Tensor = found.detach()
        return gradient

    def hessian(self) -> LinearOperator:
        """Return the Hessian, (dim, dim), by forward mode over reverse mode."""
        f = self.objective

        def product(v: Tensor) -> Tensor:
            f.counts.add(hvp=1)
            found: Tensor = jvp(grad(f.function), (self.w,), (v,))[1]
            return found.detach()

        return FunctionOperator(product, f.dim, f.dtype, f.device)


class FunctionObjective(Objective):
    """f(w) for a function that is given.

    Parameters
    ----------
    function : callable
        See `Scalar`; of torch operations.
    start : Tensor, shape (dim,)
        Where a run starts from; gives the size, the dtype and the device.
    """

    def __init__(self, function: Scalar, start: Tensor) -> None:
        import_early()
        self.function, self.start = function, start
        self.dim, self.dtype, self.device = len(start), start.dtype, start.device
        self.n_samples, self.counts, self.convexity = 1, Counts(), None

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
