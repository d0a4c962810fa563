"""A training loop's closure as an objective of one flat vector of weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.interfaces.closure import FixedClosure
from newton_krylov.objectives.base import Counts, Objective, Point
from newton_krylov.objectives.network.graphs import vjp
from newton_krylov.objectives.network.layout import flat
from newton_krylov.operators import FunctionOperator, LinearOperator


class Weights:
    """A model's parameters as one flat vector.

    During a step the parameters are made to point into flat vectors, one after the other: a graph
    refers to the parameters that it was made of, and must find them as they were.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        if not parameters:
            raise ValueError("no parameter requires a gradient")
        kinds = {(p.dtype, p.device) for p in parameters}
        if len(kinds) > 1 or parameters[0].dtype not in (torch.float32, torch.float64):
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ValueError(
                f"the optimizer needs parameters of one type, float32 or float64, on one device; "
                f"these are {found}"
            )
        self.parameters = parameters
        self.device = parameters[0].device
        self.sizes = [p.numel() for p in parameters]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> "Weights":
        """Take the parameters of an optimizer that require a gradient now."""
        groups = optimizer.param_groups
        return cls([p for group in groups for p in group["params"] if p.requires_grad])

    def get(self) -> Tensor:
        """Return a copy."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def split(self, w: Tensor) -> list[Tensor]:
        """Return views in the parameters' shapes."""
        parts = torch.split(w, self.sizes)
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def hold(self, parts: Sequence[Tensor]) -> None:
        """Let the parameters be these tensors, without a copy."""
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.data = part

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Put the parameters' own tensors back at the end, whatever was held inside."""
        own = [p.data for p in self.parameters]
        try:
            yield
        finally:
            self.hold(own)

    @torch.no_grad()
    def set(self, w: Tensor) -> None:
        """Write weights into the model."""
        for parameter, part in zip(self.parameters, self.split(w), strict=True):
            parameter.copy_(part)

    def set_gradient(self, g: Tensor) -> None:
        """Write a gradient into the parameters' `.grad`."""
        for parameter, part in zip(self.parameters, self.split(g), strict=True):
            parameter.grad = part.clone()


class ClosureLoss(Objective):
    """A closure as a function of the weights: the same random numbers at every evaluation.

    Parameters
    ----------
    weights : Weights
        What it is a function of.
    closure : FixedClosure
        Returns the loss.
    twice : bool
        Whether its gradient is to be differentiated, for products with the Hessian.
    """

    def __init__(self, weights: Weights, closure: FixedClosure, *, twice: bool = True) -> None:
        first = weights.parameters[0]
        self.weights, self.closure, self.twice = weights, closure, twice
        self.dim, self.dtype, self.device = sum(weights.sizes), first.dtype, first.device
        self.n_samples, self.counts, self.convexity = 1, Counts(), None

    def at(self, w: Tensor) -> "LossPoint":
        """Evaluate at w, lazily."""
        return LossPoint(self, w)

    def subset(self, index: Tensor) -> "ClosureLoss":
        """Return itself: its samples are the closure's own affair."""
        return self

    def evaluate(self, parts: Sequence[Tensor], *, graph: bool) -> Tensor:
        """Run the closure with these weights, which the model then holds."""
        self.weights.hold(parts)
        return self.closure(graph=graph)

    def check(self, point: "LossPoint") -> None:
        """Refuse a closure that is not one function of the weights."""
        first, second = float(point.loss), float(self.evaluate(point.parts, graph=False))
        # A loss near zero may be a difference of large numbers; g'w has its unit, too.
        size = abs(first) + float(point.grad.abs() @ point.w.abs())
        if abs(first - second) > 1000 * torch.finfo(self.dtype).eps * size:
            raise UnsupportedError(
                f"the closure gave the losses {first:.9g} and {second:.9g} at the same weights, so "
                f"neither a line search nor a Hessian product would be of one function: choose the "
                f"batch and its augmentation outside of the closure."
            )


class _Graph(NamedTuple):
    """What a graph was made of."""

    loss: Tensor
    outputs: Tensor | None
    gradient: tuple[Tensor, ...]


class LossPoint(Point):
    """The loss at given weights; keeps the graph of the gradient for products."""

    objective: ClosureLoss

    def __init__(self, objective: ClosureLoss, w: Tensor) -> None:
        super().__init__(objective, w)
        self.parts = objective.weights.split(w)

    @cached_property
    def _graph(self) -> "_Graph":
        f = self.objective
        loss = f.evaluate(self.parts, graph=True)
        gradient = torch.autograd.grad(
            loss, f.weights.parameters, create_graph=f.twice, materialize_grads=True
        )
        return _Graph(loss, f.closure.outputs, gradient)

    @property
    def loss(self) -> Tensor:
        """The loss, computed with the graph for what follows."""
        return self._graph.loss.detach()

    @cached_property
    def value(self) -> float:
        """The loss; without a graph, unless there is one already."""
        if "_graph" in vars(self):
            return float(self.loss)
        return float(self.objective.evaluate(self.parts, graph=False))

    @cached_property
    def grad(self) -> Tensor:
        """The gradient, shape (dim,)."""
        return flat([part.detach() for part in self._graph.gradient])

    def hessian(self) -> LinearOperator:
        """Return the Hessian, matrix-free."""
        f, gradient = self.objective, self._graph.gradient

        def product(v: Tensor) -> Tensor:
            f.weights.hold(self.parts)
            return flat(vjp(gradient, f.weights.parameters, f.weights.split(v)))

        return FunctionOperator(product, f.dim, f.dtype, f.device)

    def gauss_newton(self) -> LinearOperator:
        """Return J' L J, with J the outputs' Jacobian and L the loss's Hessian by the outputs."""
        f, loss, outputs = self.objective, self._graph.loss, self._graph.outputs
        parameters = f.weights.parameters
        if outputs is None:
            raise UnsupportedError(
                'curvature="gauss_newton" needs the model\'s outputs: let the closure return '
                "(loss, outputs), the loss being a function of the outputs."
            )
        by_outputs = torch.autograd.grad(loss, [outputs], create_graph=True, materialize_grads=True)
        # The Jacobian's product is the derivative of its transpose's, which is linear in u.
        u = torch.zeros_like(outputs).requires_grad_()
        transposed = torch.autograd.grad(
            outputs, parameters, u, create_graph=True, materialize_grads=True
        )

        def product(v: Tensor) -> Tensor:
            f.weights.hold(self.parts)
            (forward,) = vjp(transposed, [u], f.weights.split(v))
            (bent,) = vjp(by_outputs, [outputs], [forward])
            return flat(vjp([outputs], parameters, [bent]))

        return FunctionOperator(product, f.dim, f.dtype, f.device)
