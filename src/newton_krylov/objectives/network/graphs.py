"""Graphs that are differentiated once more: backward passes over them, and which ones are kept."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

G = TypeVar("G")
Criterion = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> the mean loss over samples, a 0-d tensor."""

HessianGraph = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Parameters, and the gradient by them as a function of them."""


def vjp(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], v: Sequence[Tensor], **keywords: Any
) -> list[Tensor]:
    """Return (d outputs / d inputs)' v; the graph is kept, and what is not reached is zero.

    Parameters
    ----------
    outputs, inputs : sequence of Tensor
        Outputs and inputs of a graph.
    v : sequence of Tensor
        One for each output.
    **keywords
        Keywords of `torch.autograd.grad`.

    Returns
    -------
    list of Tensor
        One for each input.
    """
    pairs = [(o, t) for o, t in zip(outputs, v, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    reached, weights = zip(*pairs, strict=True)
    found = torch.autograd.grad(
        reached, inputs, weights, retain_graph=True, materialize_grads=True, **keywords
    )
    return list(found)


@cache
def import_early() -> None:
    """Let torch import what its first derivative along a vector needs, half a second's work.

    Called where an objective is made, so that it does not count as the first step's time.
    """
    one = torch.ones((), requires_grad=True)
    torch.autograd.grad(one.square(), one, torch.ones(()))


class Kept(Generic[G]):
    """Builds graphs by number and keeps the first `limit` of them."""

    def __init__(self, build: Callable[[int], G], limit: int) -> None:
        self._build, self._limit = build, limit
        self._graphs: dict[int, G] = {}

    def __getitem__(self, number: int) -> G:
        if number in self._graphs:
            return self._graphs[number]
        with torch.enable_grad():
            graph = self._build(number)
        if len(self._graphs) < self._limit:
            self._graphs[number] = graph
        return graph


class OutputGraph:
    """The outputs as a function of the parameters, and what a product with J needs.

    J' u is linear in u; its derivative by u, applied to v, is J v: two backward passes that reuse
    the graph, where forward-mode differentiation would run the network again for each product.

    Parameters
    ----------
    parameters : sequence of Tensor
        Leaves.
    outputs : Tensor, shape (n, ...)
        Depending on them.
    loss : callable
        Outputs to the mean loss over these samples.
    shares : Tensor, shape (n,), optional
        What each row of the outputs weighs in that mean; by default all weigh the same.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        outputs: Tensor,
        loss: Callable[[Tensor], Tensor],
        shares: Tensor | None = None,
    ) -> None:
        self.parameters, self.outputs = parameters, outputs
        self._shares = None if shares is None else shares[:, None]
        self._u = torch.zeros_like(outputs, requires_grad=True)
        self._pulled = torch.autograd.grad(
            outputs, parameters, self._u, create_graph=True, materialize_grads=True
        )
        self._free = outputs.detach().requires_grad_()
        (self._loss_gradient,) = torch.autograd.grad(
            loss(self._free), self._free, create_graph=True
        )

    def push(self, v: Sequence[Tensor]) -> Tensor:
        """Return J v, shape of the outputs."""
        return vjp(self._pulled, [self._u], v)[0]

    def pull(self, u: Tensor) -> Sequence[Tensor]:
        """Return J' u, parameter by parameter."""
        return vjp([self.outputs], self.parameters, [u])

    def curve(self, t: Tensor) -> Tensor:
        """Return the Hessian of the mean loss by the outputs, times t."""
        return vjp([self._loss_gradient], [self._free], [t])[0]

    @property
    def sample_gradients(self) -> Tensor:
        """The gradient of each row's own loss by its outputs, shape (n, outputs of a row).

        A row that weighs nothing has none: zeros.
        """
        return self.own_gradients(self._loss_gradient.detach())

    def own_gradients(self, gradient: Tensor) -> Tensor:
        """Turn the gradient of a mean by the outputs into those of each row's own loss."""
        gradient = gradient.reshape(len(self.outputs), -1)
        if self._shares is None:
            return gradient * len(gradient)
        return torch.where(self._shares > 0, gradient / self._shares, 0).to(gradient.dtype)

    def shared(self, x: Tensor) -> Tensor:
        """Multiply what belongs to the rows, shape (n, ...), by what each weighs in the mean."""
        return x / len(x) if self._shares is None else (x * self._shares).to(x.dtype)
