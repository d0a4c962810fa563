"""A network's loss at given weights: value, gradient, curvature, and the lines through them."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.objectives.network.graphs import HessianGraph, Kept, OutputGraph
from newton_krylov.objectives.network.kronecker import FactorPasses, Kronecker
from newton_krylov.objectives.network.operators import (
    EmpiricalFisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    MonteCarloFisherOperator,
)
from newton_krylov.objectives.network.passes import Passes
from newton_krylov.operators import LinearOperator


class ByPasses(Objective):
    """An objective that is evaluated by passes of a network."""

    passes: Passes


class NetworkPoint(Point):
    """A network at given weights; keeps the graphs that products reuse, and frees them with it.

    Parameters
    ----------
    objective : ByPasses
        Objective whose point it is.
    w : Tensor, shape (dim,)
        Parameters.
    evaluated : callable or None
        w to the mean loss by an evaluation that is kept for the metrics, where it is the same.
    """

    objective: ByPasses

    def __init__(
        self, objective: ByPasses, w: Tensor, evaluated: Callable[[Tensor], float] | None
    ) -> None:
        super().__init__(objective, w)
        self._evaluated = evaluated
        self._loss: float | Tensor | None = None  # a tensor until somebody asks for the number
        self._forward: tuple[list[Tensor], Tensor] | None = None  # leaves, loss: for the gradient
        self._span_losses: dict[int, Tensor] = {}  # each span's, as first evaluated with a graph

    @cached_property
    def value(self) -> float:
        """f(w). Of a single span the graph is kept, so that the gradient costs half a pass."""
        f = self.objective.passes
        f.counts.add(function=f.share)
        if self._loss is None:
            f.counts.add(passes=0.5 * f.share)
            if len(f.spans) == 1:
                self._forward = self._span(0)
                self._loss = float(self._forward[1].detach())
            elif self._evaluated is not None:  # the accuracy, asked for next, comes with it
                self._loss = self._evaluated(self.w)
            else:
                self._loss = self._summed()
        self._loss = float(self._loss)
        return self._loss + f.penalty(self.w)

    def later(self) -> Callable[[], float]:
        """Return what returns f(w): known with the gradient, it is copied from a GPU then."""
        f, loss = self.objective.passes, self._loss
        if f.l2 > 0 or not isinstance(loss, Tensor):
            return super().later()
        f.counts.add(function=f.share)
        return loss.item

    @torch.no_grad()
    def _summed(self) -> float:
        f = self.objective.passes
        parts = f.split(self.w)
        losses = [f.span_loss(f.outputs(parts, k), k) * f.weight(k) for k in range(len(f.spans))]
        return float(torch.stack(losses).sum())

    def _span(self, number: int) -> tuple[list[Tensor], Tensor]:
        f = self.objective.passes
        with torch.enable_grad():
            leaves = f.leaves(self.w)
            loss = f.span_loss(f.outputs(leaves, number), number)
        check_one_function(self._span_losses, number, loss.detach())
        return leaves, loss

    @cached_property
    def grad(self) -> Tensor:
        """The gradient at w, shape (dim,); the value comes with it."""
        f = self.objective.passes
        f.counts.add(gradient=f.share, passes=f.share if self._forward is None else 0.5 * f.share)
        losses = []

        def gradients() -> Iterator[Sequence[Tensor]]:
            for number in range(len(f.spans)):
                leaves, loss = self._forward or self._span(number)
                self._forward = None
                losses.append(loss.detach() * f.weight(number))
                yield torch.autograd.grad(loss, leaves, materialize_grads=True)

        total = f.regularized(f.mean_of(gradients()), self.w)
        self._loss = torch.stack(losses).sum()
        return total

    def hessian(self) -> LinearOperator:
        """Return the Hessian at w, matrix-free."""
        return HessianOperator(self.objective.passes, self._gradient_graphs, self.w)

    def gauss_newton(self) -> LinearOperator:
        """Return the generalized Gauss-Newton operator at w, matrix-free."""
        return GaussNewtonOperator(self.objective.passes, self._output_graphs, self.w)

    def empirical_fisher(self) -> LinearOperator:
        """Return the mean of g_i g_i' over the samples plus l2 I, matrix-free."""
        self.objective.passes.loss.require_samples()
        return EmpiricalFisherOperator(self.objective.passes, self._output_graphs, self.w)

    def monte_carlo_fisher(self, draws: int, generator: torch.Generator) -> LinearOperator:
        """Return the Fisher matrix plus l2 I from targets drawn for each sample, matrix-free."""
        self.objective.passes.loss.require_likelihood()
        seed = int(torch.randint(2**62, (), generator=generator))
        return MonteCarloFisherOperator(
            self.objective.passes, self._output_graphs, self.w, draws, seed
        )

    def drawn_gradient(self, generator: torch.Generator) -> Tensor:
        """Return the mean loss's gradient at targets drawn from the model's predictions."""
        f = self.objective.passes
        f.loss.require_likelihood()
        f.counts.add(gradient=f.share, passes=f.share)

        def gradients() -> Iterator[Sequence[Tensor]]:
            for number in range(len(f.spans)):
                with torch.enable_grad():
                    leaves = f.leaves(self.w)
                    outputs = f.outputs(leaves, number)
                u = f.drawn_gradient(outputs, number, generator).to(outputs.dtype)
                yield torch.autograd.grad(outputs, leaves, u, materialize_grads=True)

        return f.mean_of(gradients())

    def kronecker_passes(self, how: Kronecker, generator: torch.Generator) -> FactorPasses:
        """Return the passes that make the layers' Kronecker factors, their draws fixed."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return FactorPasses(self.objective.passes, self.w, how, seed)

    @cached_property
    def _gradient_graphs(self) -> Kept[HessianGraph]:
        f, w, known = self.objective.passes, self.w, self._span_losses

        def build(number: int) -> HessianGraph:
            leaves = f.leaves(w)
            loss = f.span_loss(f.outputs(leaves, number), number)
            check_one_function(known, number, loss.detach())
            return leaves, torch.autograd.grad(
                loss, leaves, create_graph=True, materialize_grads=True
            )

        return Kept(build, f.kept_graphs)

    @cached_property
    def _output_graphs(self) -> Kept[OutputGraph]:
        f, w = self.objective.passes, self.w

        def build(number: int) -> OutputGraph:
            leaves = f.leaves(w)
            outputs = f.outputs(leaves, number, linearized=True)
            shares = f.shares(number)
            return OutputGraph(leaves, outputs, lambda z: f.span_loss(z, number), shares)

        return Kept(build, f.kept_graphs)


def check_one_function(known: dict[int, Tensor], number: int, loss: Tensor) -> None:
    """Refuse a network whose loss of a span is another one than the last time.

    On a GPU sums may be taken in another order each time.
    """
    first = known.setdefault(number, loss)
    if first is loss or first.isnan():
        return
    eps = torch.finfo(torch.float32).eps if loss.device.type != "cpu" else 0.0
    if (first - loss).abs() > eps * first.abs():
        raise UnsupportedError(
            f"The network gave the losses {float(first):.17g} and {float(loss):.17g} at the same "
            f"weights and samples: it is not one function, as line searches and Hessian products "
            f"need it. In evaluation mode (module.eval()) most networks are."
        )
