"""Derivatives by the graph of one evaluation: Hessian products, and what torch.func cannot make.

It cannot transform functions that call torch.autograd.grad themselves, operations that have no
forward mode, and operations of one's own (torch.autograd.Function) without rules for it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jvp

from newton_krylov.norms import euclidean
from newton_krylov.operators import RectangularOperator


def may_be_graphs(error: RuntimeError) -> bool:
    """Return whether an error may be torch's that it cannot transform a function.

    Subclasses say something else: no memory left, a singular matrix, what a user's own means.
    """
    return type(error) in (RuntimeError, NotImplementedError)


def depend(values: Iterable[Tensor], w: Tensor) -> bool:
    """Return whether any of some tensors has a graph that leads to w, not to others alone."""
    sums = [value.sum() for value in values if value.requires_grad]
    if not sums:
        return False
    (found,) = torch.autograd.grad(sums, w, allow_unused=True)
    return found is not None


def gradient(function: Callable[[Tensor], Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of a scalar function at w, shape (n,), and its value."""
    with torch.enable_grad():
        at = w.detach().clone().requires_grad_()
        value = function(at)
        (found,) = torch.autograd.grad(value, at, materialize_grads=True)
    return found.detach(), value.detach()


@dataclass
class Ways:
    """How products with the Hessians of a function are made.

    Attributes
    ----------
    backward : bool or None
        Whether by a second backward pass; None as long as that is not known.
    """

    backward: bool | None = None


class HessianProducts:
    """Products with the Hessian of a scalar function at one point.

    Each is a backward pass over the graph of the gradient, which is built at the first: that is
    more than twice as quick as forward over reverse mode, which begins anew each time. An
    operation of one's own may have no second backward pass, and be left out of it without an error
    (`once_differentiable`). So forward mode is asked once, and serves all where the two differ.

    Parameters
    ----------
    function : callable
        w, shape (n,), to a number, shape ().
    w : Tensor, shape (n,)
        Where.
    ways : Ways
        What is known of the function; changed.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], w: Tensor, ways: Ways) -> None:
        self._function, self._w, self._ways = function, w, ways
        self._slope: tuple[Tensor, Tensor] | None = None

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply by a vector, shape (n,)."""
        if self._ways.backward is None:
            self._ways.backward = self._compared()
        return self._forward(v) if self._ways.backward is False else self._backward(v)

    def _compared(self) -> bool | None:
        """Return whether both ways lead to the same product; None where it is 0 or not finite.

        An error of the function's own is one of the backward pass, too.
        """
        v = torch.arange(len(self._w), dtype=self._w.dtype, device=self._w.device).cos()
        try:
            found = self._forward(v)
        except RuntimeError as error:
            if may_be_graphs(error):
                return True
            raise
        try:
            gap = float(euclidean(self._backward(v) - found))
        except RuntimeError as error:
            if may_be_graphs(error):
                return False
            raise
        size = float(euclidean(found))
        if math.isfinite(size) and not math.isfinite(gap):
            return False  # where a norm is of 0, say, a second backward pass divides by it
        if not 0.0 < size < math.inf:
            return None
        return bool(gap <= torch.finfo(v.dtype).eps ** 0.5 * size)

    def _forward(self, v: Tensor) -> Tensor:
        found: Tensor = jvp(grad(self._function), (self._w,), (v,))[1]
        return found.detach().to(self._w.dtype)  # torch promotes tangents of single numbers

    def _backward(self, v: Tensor) -> Tensor:
        if self._slope is None:
            with torch.enable_grad():
                at = self._w.detach().clone().requires_grad_()
                (slope,) = torch.autograd.grad(
                    self._function(at), at, create_graph=True, materialize_grads=True
                )
            self._slope = at, slope
        at, slope = self._slope
        if not slope.requires_grad:  # of a linear function
            return torch.zeros_like(v)
        (found,) = torch.autograd.grad(slope, at, v, retain_graph=True, materialize_grads=True)
        return found


class GraphJacobian(RectangularOperator):
    """J of residuals at w by reverse passes alone; a product J v is one through another's graph.

    Parameters
    ----------
    residual : callable
        w, shape (n,), to the residuals, shape (m,).
    w : Tensor, shape (n,)
        Parameters at which to evaluate.

    Attributes
    ----------
    r : Tensor, shape (m,)
        The residuals at w.
    """

    def __init__(self, residual: Callable[[Tensor], Tensor], w: Tensor) -> None:
        with torch.enable_grad():
            self._w = w.detach().clone().requires_grad_()
            self._values = residual(self._w)
        super().__init__((len(self._values), len(w)), w.dtype, w.device)
        self.r = self._values.detach()
        self._pulled: tuple[Tensor, Tensor] | None = None
        self._matrix: Tensor | None = None

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,); with the rows of J where a graph has no graph."""
        if self._matrix is None:
            try:
                return self._through(v)
            except RuntimeError:
                self._matrix = self.dense()
        return self._matrix @ v

    def _through(self, v: Tensor) -> Tensor:
        """Return J v as the derivative along v of u -> J'u, which is linear in u."""
        if self._pulled is None:
            with torch.enable_grad():
                u = torch.zeros_like(self.r).requires_grad_()
                (pulled,) = torch.autograd.grad(
                    self._values, self._w, u, create_graph=True, materialize_grads=True
                )
            self._pulled = u, pulled
        u, pulled = self._pulled
        (product,) = torch.autograd.grad(pulled, u, v, retain_graph=True, materialize_grads=True)
        return product.detach()

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,): one reverse pass."""
        (product,) = torch.autograd.grad(
            self._values, self._w, u, retain_graph=True, materialize_grads=True
        )
        return product.detach()

    def dense(self) -> Tensor:
        """Form J, shape (m, n): by products with J where columns are fewer and there are such."""
        m, n = self.shape
        eye = torch.eye(min(m, n), dtype=self.dtype, device=self.device)
        if n < m and self._matrix is None:
            try:
                return torch.stack([self._through(v) for v in eye], dim=1)
            except RuntimeError:
                eye = torch.eye(m, dtype=self.dtype, device=self.device)
        return torch.stack([self.rmatvec(u) for u in eye])
